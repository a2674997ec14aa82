"""What a worker says of the attempts that it was given."""

from __future__ import annotations

from typing import Any

from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import ExpireDeadline
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.common_pb2 import Payload
from tests.rpc.bench import Bench


def result(given: pb.Assignment, json: bytes = b"{}", **fields: Any) -> pb.TaskResult:
    return pb.TaskResult(
        workflow_id=given.workflow_id,
        task_id=given.task_id,
        fencing_token=given.fencing_token,
        **({"status": workflows_pb2.TASK_STATUS_COMPLETED, "output": Payload(inline=json)} | fields),
    )


def held(given: pb.Assignment) -> pb.HeldAttempt:
    return pb.HeldAttempt(workflow_id=given.workflow_id, task_id=given.task_id, fencing_token=given.fencing_token)


def expire(bench: Bench, token: int) -> None:
    """The attempt ends without its worker."""
    bench.apply(ExpireDeadline(DeadlineKind.RESPONSE, token))
