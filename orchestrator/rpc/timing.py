"""Where the time of an execution went, as messages."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.engine.accounting import KINDS, AttemptTiming, TimeKind, account
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.state import State
from orchestrator.rpc.slices import Slices
from orchestrator.rpc.views import TASK_STATUS, timestamp
from orchestrator_api.v1 import workflows_pb2 as pb

_KINDS = {kind: pb.TimeKind.Value(f"TIME_KIND_{kind.name}") for kind in TimeKind}


def timing(state: State, held: ExecutionState, now_ms: int) -> Slices[pb.GetWorkflowTimingResponse]:
    """In slices, for an execution may have had many attempts."""
    found = yield from account(state, held, now_ms)
    message = pb.GetWorkflowTimingResponse(
        began=timestamp(found.began_ms),
        until=timestamp(found.until_ms),
        shares=_shares(found.shares),
        left_out=found.left_out,
    )
    for one in found.attempts:
        message.attempts.append(_attempt(held, one))
        yield 0
    return message


def _shares(shares: Mapping[TimeKind, int]) -> list[pb.TimeShare]:
    return [pb.TimeShare(kind=_KINDS[kind], milliseconds=shares[kind]) for kind in KINDS if shares.get(kind)]


def _attempt(held: ExecutionState, one: AttemptTiming) -> pb.AttemptTiming:
    attempt = one.attempt
    record = held.records.get(attempt.compensates)
    return pb.AttemptTiming(
        reference=attempt.reference,
        name=attempt.name,
        type=attempt.type,
        task_id=attempt.task_id,
        attempt=attempt.retry_count + 1,
        status=TASK_STATUS[attempt.status],
        worker_id=attempt.worker_id,
        scheduled=timestamp(attempt.scheduled_ms),
        leased=timestamp(attempt.started_ms),
        ended=timestamp(attempt.ended_ms),
        spent=[pb.TimeShare(kind=_KINDS[kind], milliseconds=until - since) for kind, since, until in one.spans],
        undoes="" if record is None else record.reference,
    )
