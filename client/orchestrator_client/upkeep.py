"""What operators do about executions: delete and update them, many at once, read what their tasks have logged."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from orchestrator_api.v1 import cluster_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions
from orchestrator_client import tracing
from orchestrator_client.connection import Connection
from orchestrator_client.errors import InvalidRequest
from orchestrator_client.execution import TaskStatus
from orchestrator_client.runs import COMPENSATION, DELETE_EFFECTS, Run, delete_effects, object_payload
from orchestrator_client.timing import WorkflowTiming, read_timing

Operation = Literal["pause", "resume", "retry", "restart", "terminate", "delete", "terminate_and_delete"]

_OPERATIONS = {
    "pause": pb.WORKFLOW_OPERATION_PAUSE,
    "resume": pb.WORKFLOW_OPERATION_RESUME,
    "retry": pb.WORKFLOW_OPERATION_RETRY,
    "restart": pb.WORKFLOW_OPERATION_RESTART,
    "terminate": pb.WORKFLOW_OPERATION_TERMINATE,
    "delete": pb.WORKFLOW_OPERATION_DELETE,
    "terminate_and_delete": pb.WORKFLOW_OPERATION_TERMINATE_AND_DELETE,
}
OPERATIONS: tuple[str, ...] = tuple(_OPERATIONS)
# Of one request; more are asked for one after the other.
_WORKFLOWS_PER_CALL = 1_000
_LINES_PER_CALL = 1_000
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class OperationFailure:
    """Why an operation was not done to one execution; `reason` is stable."""

    reason: str
    message: str


@dataclass(frozen=True)
class BulkResult:
    """What became of an operation on many executions, by their ids."""

    succeeded: list[str] = field(default_factory=list)
    failed: dict[str, OperationFailure] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskLogLine:
    """A line that an attempt has logged."""

    time: datetime
    reference: str
    # 1 for the first.
    attempt: int
    task_id: str
    text: str


@dataclass(frozen=True)
class TaskLogs:
    """What the attempts of an execution have logged, in the order in which it came."""

    lines: list[TaskLogLine]
    # How many older lines of the execution are not kept any more.
    dropped: int


@dataclass(frozen=True)
class RetentionPolicy:
    """For how long ended executions are kept, where their definition does not say. None: no limit of that kind."""

    age: timedelta | None
    # How many of a definition's name.
    count: int | None
    # Of a node's database; it applies to all.
    bytes: int | None


@dataclass(frozen=True)
class Waiting:
    """One thing that an execution waits for."""

    waits_for: str
    since: datetime
    # The reference of the task that waits; "" for the workflow itself.
    reference: str
    # When it goes on by itself at the latest; None if it does not.
    until: datetime | None
    # The execution that has to go on first; "" if there is none.
    child_workflow_id: str


class Upkeep:
    """A part of the client."""

    connection: Connection

    async def delete(
        self, workflow_id: str, *, effects: Literal["keep", "compensate_first"] | None = None
    ) -> None:
        """Removes the ended execution; without a word on effects it is refused if a step that could be undone was not.

        With "compensate_first" it goes once those have been undone.
        """
        request = pb.DeleteWorkflowRequest(**self._named(workflow_id), effects=delete_effects(effects))
        await self.connection.call(lambda node: node.workflows.DeleteWorkflow, request, mutating=True)

    async def restart(
        self,
        workflow_id: str,
        *,
        use_latest_definitions: bool = False,
        effects: Literal["keep", "compensate_first"] | None = None,
    ) -> None:
        """See `Run.restart`."""
        run = Run(self.connection, workflow_id)
        await run.restart(use_latest_definitions=use_latest_definitions, effects=effects)

    async def rerun(
        self,
        workflow_id: str,
        task_id: str = "",
        *,
        task_input: Mapping[str, Any] | None = None,
        workflow_input: Mapping[str, Any] | None = None,
        correlation_id: str = "",
        effects: Literal["keep", "compensate_first"] | None = None,
    ) -> None:
        """See `Run.rerun`."""
        await Run(self.connection, workflow_id).rerun(
            task_id,
            task_input=task_input,
            workflow_input=workflow_input,
            correlation_id=correlation_id,
            effects=effects,
        )

    async def skip_task(self, workflow_id: str, reference: str, output: Mapping[str, Any] | None = None) -> None:
        """See `Run.skip`."""
        await Run(self.connection, workflow_id).skip(reference, output)

    async def migrate(self, workflow_id: str, version: int = 0, *, dry_run: bool = False) -> list[str]:
        """Moves the execution that runs to another version of its definition, 0 being the highest.

        With `dry_run` answers why that is not safe, nothing if it is; otherwise what is not safe is refused.
        """
        request = pb.MigrateWorkflowRequest(**self._named(workflow_id), version=version, dry_run=dry_run)
        reply = await self.connection.call(lambda node: node.workflows.MigrateWorkflow, request, mutating=not dry_run)
        return list(reply.obstacles)

    async def push_message(self, workflow_id: str, payload: Any = None) -> str:
        """Puts a message into the queue of the workflow that runs; answers the message's id."""
        request = pb.PushMessageRequest(**self._named(workflow_id), payload=object_payload(payload, "payload"))
        with tracing.telling("push", "message", request.namespace, workflow_id):
            reply = await self.connection.call(lambda node: node.workflows.PushMessage, request, mutating=True)
        return reply.message_id

    async def explain(self, workflow_id: str) -> list[Waiting]:
        """What the execution waits for, since when, and what would move it; nothing once it has ended."""
        request = pb.ExplainWorkflowRequest(**self._named(workflow_id))
        reply = await self.connection.call(lambda node: node.workflows.ExplainWorkflow, request)
        return [_waiting(one) for one in reply.waiting]

    async def timing(self, workflow_id: str) -> WorkflowTiming:
        """Where the execution's time went: with workers, in queues, delays and waits, as a whole and by attempt."""
        request = pb.GetWorkflowTimingRequest(**self._named(workflow_id))
        return read_timing(await self.connection.call(lambda node: node.workflows.GetWorkflowTiming, request))

    async def operate(
        self,
        operation: Operation,
        workflow_ids: Iterable[str],
        *,
        reason: str = "",
        compensation: Literal["run", "skip"] | None = None,
        effects: Literal["keep", "compensate_first"] | None = None,
        use_latest_definitions: bool = False,
        resume_sub_workflows: bool = False,
    ) -> BulkResult:
        """Does the same to many executions, each for itself.

        It takes effect once: repetitions are recognised by the time of this machine's clock, which must not be ten
        minutes off.
        """
        if operation not in _OPERATIONS or compensation not in COMPENSATION or effects not in DELETE_EFFECTS:
            raise InvalidRequest(f"there is no operation {operation!r} with {compensation!r} and {effects!r}")
        ids = list(dict.fromkeys(workflow_ids))
        result = BulkResult()
        for at in range(0, len(ids), _WORKFLOWS_PER_CALL):
            request = pb.OperateWorkflowsRequest(
                request_id=_ulid(),
                namespace=self.connection.namespace,
                operation=_OPERATIONS[operation],
                workflow_ids=ids[at : at + _WORKFLOWS_PER_CALL],
                reason=reason,
                compensation=COMPENSATION[compensation],
                effects=DELETE_EFFECTS[effects],
                use_latest_definitions=use_latest_definitions,
                resume_sub_workflows=resume_sub_workflows,
            )
            reply = await self.connection.call(lambda node: node.workflows.OperateWorkflows, request)
            result.succeeded.extend(reply.succeeded)
            result.failed.update(
                {failed.workflow_id: OperationFailure(failed.reason, failed.message) for failed in reply.failed}
            )
        return result

    async def update_variables(self, workflow_id: str, variables: Mapping[str, Any]) -> None:
        """Puts these in the place of the execution's variables of their names."""
        request = pb.UpdateVariablesRequest(
            **self._named(workflow_id), variables=object_payload(variables, "variables")
        )
        await self.connection.call(lambda node: node.workflows.UpdateVariables, request, mutating=True)

    async def update_task(
        self,
        workflow_id: str,
        reference: str,
        status: TaskStatus | str,
        output: Any = None,
        *,
        reason: str = "",
    ) -> None:
        """Says for a pending task what its worker, or nobody, has said; members of `output` are merged into its own.

        IN_PROGRESS leaves it pending; COMPLETED, FAILED and FAILED_WITH_TERMINAL_ERROR end it, whoever works on it.
        """
        try:
            number = pb.TaskStatus.Value(f"TASK_STATUS_{status}")
        except ValueError:
            raise InvalidRequest(f"there is no status {status!r}") from None
        request = pb.UpdateTaskRequest(
            **self._named(workflow_id),
            reference=reference,
            status=number,
            output=object_payload(output, "output"),
            reason=reason,
        )
        with tracing.telling("update", reference, request.namespace, workflow_id):
            await self.connection.call(lambda node: node.workflows.UpdateTask, request, mutating=True)

    async def task_logs(
        self, workflow_id: str, *, reference: str = "", task_id: str = "", stale_ok: bool = False
    ) -> TaskLogs:
        """What the attempts of the execution, of a reference, or one of them have logged."""
        request = pb.GetTaskLogsRequest(
            **self._named(workflow_id),
            reference=reference,
            task_id=task_id,
            page=PageRequest(size=_LINES_PER_CALL),
            read=ReadOptions(stale_ok=stale_ok),
        )
        lines: list[TaskLogLine] = []
        while True:
            reply = await self.connection.call(lambda node: node.workflows.GetTaskLogs, request)
            lines.extend(map(_read_line, reply.lines))
            if not reply.next_token:
                return TaskLogs(lines, reply.lines_dropped)
            request.page.token = reply.next_token

    async def add_task_logs(self, workflow_id: str, task_id: str, *texts: str) -> bool:
        """Adds lines to what an attempt has logged, also when it has ended; False if there is no such attempt."""
        now_ms = _now_ms()
        logs = workers_pb2.AttemptLogs(
            workflow_id=workflow_id,
            task_id=task_id,
            lines=[workers_pb2.LogLine(time_ms=now_ms, text=text) for text in texts],
        )
        request = workers_pb2.AddTaskLogsRequest(namespace=self.connection.namespace, logs=logs)
        reply = await self.connection.call(lambda node: node.workers.AddTaskLogs, request)
        return reply.verdict.verdict == workers_pb2.VERDICT_ACCEPTED

    async def retention(self) -> RetentionPolicy:
        """The cluster's policy, as the first node that answers has it."""
        reply = await self.connection.ask_any(lambda node: node.cluster.GetRetention, cluster_pb2.GetRetentionRequest())
        return _read_policy(reply.policy)

    async def set_retention(
        self, *, age: timedelta | None = None, count: int | None = None, bytes: int | None = None
    ) -> RetentionPolicy:
        """Changes the cluster's policy where something is given, 0 (`timedelta(0)`) for no limit; answers the whole."""
        request = cluster_pb2.SetRetentionRequest(
            age_ms=None if age is None else age // timedelta(milliseconds=1), count=count, bytes=bytes
        )
        reply = await self.connection.call(lambda node: node.cluster.SetRetention, request, mutating=True)
        return _read_policy(reply.policy)

    def _named(self, workflow_id: str) -> dict[str, Any]:
        return {"namespace": self.connection.namespace, "workflow_id": workflow_id}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000  # noqa: TID251 - the cluster compares it with its own time


def _ulid() -> str:
    value = _now_ms() << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def _read_line(line: pb.TaskLogLine) -> TaskLogLine:
    moment = datetime.fromtimestamp(line.time.seconds, UTC).replace(microsecond=line.time.nanos // 1000)
    return TaskLogLine(moment, line.reference, line.retry_count + 1, line.task_id, line.text)


def _read_policy(policy: cluster_pb2.RetentionPolicy) -> RetentionPolicy:
    age = timedelta(milliseconds=policy.age_ms) if policy.age_ms else None
    return RetentionPolicy(age, policy.count or None, policy.bytes or None)


def _waiting(one: pb.Waiting) -> Waiting:
    until = one.until.ToDatetime(UTC) if one.HasField("until") else None
    return Waiting(one.waits_for, one.since.ToDatetime(UTC), one.reference, until, one.child_workflow_id)
