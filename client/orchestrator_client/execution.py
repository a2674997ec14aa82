"""Executions as the caller sees them: plain values read from the wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_api.v1 import cluster_pb2, workers_pb2, workflows_pb2
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client.codec import Json, loads


class WorkflowStatus(StrEnum):
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    # The outcome is fixed and completed steps are being undone.
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    TERMINATED = "TERMINATED"
    # A status of a newer server.
    UNKNOWN = "UNKNOWN"

    @property
    def ended(self) -> bool:
        return self in (self.COMPLETED, self.FAILED, self.TIMED_OUT, self.TERMINATED)


class CompensationState(StrEnum):
    NONE = "NONE"
    RUNNING = "RUNNING"
    # A compensation has used up its attempts; an operator decides.
    STUCK = "STUCK"
    COMPLETE = "COMPLETE"
    # An operator ended it with steps left.
    INCOMPLETE = "INCOMPLETE"
    UNKNOWN = "UNKNOWN"


class TaskStatus(StrEnum):
    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_ERRORS = "COMPLETED_WITH_ERRORS"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    FAILED_WITH_TERMINAL_ERROR = "FAILED_WITH_TERMINAL_ERROR"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class CompensatedStep:
    """A step that was, or is to be, undone."""

    reference: str
    iteration: int = 0
    # Nobody knows whether the step took effect.
    outcome_unknown: bool = False
    # Why it is left, if it is.
    reason: str = ""


@dataclass(frozen=True)
class CompensationReport:
    """How far the undoing has come; `done` is in the order of undoing."""

    state: CompensationState = CompensationState.NONE
    done: list[CompensatedStep] = field(default_factory=list)
    left: list[CompensatedStep] = field(default_factory=list)


@dataclass(frozen=True)
class TaskAttempt:
    """One attempt of a task."""

    task_id: str
    reference: str
    name: str
    type: str
    status: TaskStatus
    sequence: int
    # 1 for the first.
    attempt: int
    iteration: int
    input: Json
    output: Json
    reason: str
    worker_id: str
    idempotency_key: str
    fencing_token: int
    scheduled_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    # The reference name of the step that it undoes.
    compensates: str
    heartbeat_details: Json
    # The stable name of its failure, as its worker gave it.
    error_code: str


@dataclass(frozen=True)
class Execution:
    """An execution of a workflow, as it was when asked. `tasks` is empty unless they were asked for."""

    workflow_id: str
    namespace: str
    name: str
    version: int
    status: WorkflowStatus
    reason: str
    failed_task: str
    # The stable name of the failure of `failed_task`, as its worker gave it; "" in search results.
    error_code: str
    input: Json
    output: Json
    variables: Json
    correlation_id: str
    priority: int
    created_by: str
    start_time: datetime | None
    update_time: datetime | None
    end_time: datetime | None
    # Grows with each restart or rerun, from 1.
    run: int
    compensation: CompensationReport
    tasks: list[TaskAttempt]
    idempotency_key: str = ""
    # RUNNING with nothing scheduled, because as many as may run at once do: what it waits for.
    waiting_for: str = ""


@dataclass(frozen=True)
class NodeStatus:
    """One member of the cluster, as the node that answered sees it."""

    name: str
    role: str
    grpc_address: str
    peer_address: str
    term: int
    last_index: int
    commit_index: int
    applied_index: int
    lag_entries: int
    last_contact_ms: int
    # What it runs, and which behaviour levels that knows; "" and 0 while it is away.
    version: str = ""
    behaviour_lowest: int = 0
    behaviour_highest: int = 0


@dataclass(frozen=True)
class ClusterStatus:
    """The cluster, as the node that answered sees it."""

    cluster_id: str
    node: str
    term: int
    # Empty if none is known.
    leader: str
    nodes: list[NodeStatus]
    faults_tolerable: int
    live_workflows: int
    worker_sessions: int
    leased_tasks: int
    ready_tasks: int
    stuck_compensations: int
    version: str
    behaviour_level: int
    log_time: datetime
    # The highest level that all members know; 0 while one of them is away.
    behaviour_level_known: int = 0


@dataclass(frozen=True)
class TaskQueueWorker:
    """A worker that takes the tasks of a queue: one with a session has slots, one that polls an age of its poll."""

    worker_id: str
    slots: int
    used: int
    last_poll_age_ms: int


@dataclass(frozen=True)
class TaskQueue:
    """The attempts of one queue that wait for workers, or are with them."""

    # Without the domain: the name of the task, and what its definition says besides.
    name: str
    domain: str
    ready: int
    leased: int
    oldest_ready_age_ms: int
    # A limit keeps what waits from being handed out.
    held_back: bool
    # 0 for none; both limits hold for all queues of the task together.
    concurrent_limit: int
    rate_limit: int
    rate_window_ms: int
    handed_out_in_window: int
    worker_count: int
    # Some of them.
    workers: list[TaskQueueWorker]
    # As Conductor writes it: [domain:]task[@executionNameSpace][-isolationGroupId].
    queue: str = ""


@dataclass(frozen=True)
class Leader:
    """Who leads; both are empty if nobody knows."""

    name: str
    address: str
    term: int


Enumeration = TypeVar("Enumeration", bound=StrEnum)


def read_execution(message: workflows_pb2.Workflow) -> Execution:
    return Execution(
        workflow_id=message.workflow_id,
        namespace=message.namespace,
        name=message.name,
        version=message.version,
        status=read_workflow_status(message.status),
        reason=message.reason,
        failed_task=message.failed_task,
        error_code=message.error_code,
        input=read_payload(message.input),
        output=read_payload(message.output),
        variables=read_payload(message.variables),
        correlation_id=message.correlation_id,
        priority=message.priority,
        created_by=message.created_by,
        start_time=read_time(message.start_time),
        update_time=read_time(message.update_time),
        end_time=read_time(message.end_time),
        run=message.run,
        compensation=_read_compensation(message.compensation),
        tasks=[read_task(task) for task in message.tasks],
        idempotency_key=message.idempotency_key,
        waiting_for=message.waiting_for,
    )


def read_workflow_status(number: int) -> WorkflowStatus:
    return named(WorkflowStatus, workflows_pb2.WorkflowStatus, number, "WORKFLOW_STATUS_")


def read_payload(payload: Payload) -> Json:
    """The document in a payload; an absent one is an empty object."""
    return loads(payload.inline)


def read_cluster(message: cluster_pb2.GetStatusResponse) -> ClusterStatus:
    names = ("cluster_id", "node", "term", "leader", "faults_tolerable", "live_workflows", "worker_sessions")
    more = ("leased_tasks", "ready_tasks", "stuck_compensations", "version", "behaviour_level", "behaviour_level_known")
    return ClusterStatus(
        **{name: getattr(message, name) for name in (*names, *more)},
        nodes=[_read_node(node) for node in message.nodes],
        log_time=datetime.fromtimestamp(message.log_time_ms / 1000, UTC),
    )


def read_task_queue(message: workers_pb2.TaskQueue) -> TaskQueue:
    names = ("name", "domain", "ready", "leased", "oldest_ready_age_ms", "held_back", "concurrent_limit", "rate_limit")
    more = ("rate_window_ms", "handed_out_in_window", "worker_count", "queue")
    return TaskQueue(
        **{name: getattr(message, name) for name in (*names, *more)},
        workers=[
            TaskQueueWorker(worker.worker_id, worker.slots, worker.used, worker.last_poll_age_ms)
            for worker in message.workers
        ],
    )


def _read_node(message: cluster_pb2.NodeStatus) -> NodeStatus:
    names = ("name", "grpc_address", "peer_address", "term", "last_index", "commit_index", "applied_index")
    more = ("lag_entries", "last_contact_ms", "version", "behaviour_lowest", "behaviour_highest")
    return NodeStatus(
        **{name: getattr(message, name) for name in (*names, *more)},
        role=cluster_pb2.NodeRole.Name(message.role).removeprefix("NODE_ROLE_"),
    )


def _read_compensation(message: workflows_pb2.Compensation) -> CompensationReport:
    state = CompensationState.NONE
    if message.state:
        state = named(CompensationState, workflows_pb2.CompensationState, message.state, "COMPENSATION_STATE_")
    return CompensationReport(state, [_read_step(step) for step in message.done], [_read_step(s) for s in message.left])


def _read_step(message: workflows_pb2.CompensatedStep) -> CompensatedStep:
    return CompensatedStep(message.reference, message.iteration, message.outcome_unknown, message.reason)


def read_task(message: workflows_pb2.Task) -> TaskAttempt:
    return TaskAttempt(
        task_id=message.task_id,
        reference=message.reference,
        name=message.name,
        type=message.type,
        status=named(TaskStatus, workflows_pb2.TaskStatus, message.status, "TASK_STATUS_"),
        sequence=message.sequence,
        attempt=message.retry_count + 1,
        iteration=message.iteration,
        input=read_payload(message.input),
        output=read_payload(message.output),
        reason=message.reason,
        worker_id=message.worker_id,
        idempotency_key=message.idempotency_key,
        fencing_token=message.fencing_token,
        scheduled_time=read_time(message.scheduled_time),
        start_time=read_time(message.start_time),
        end_time=read_time(message.end_time),
        compensates=message.compensates,
        heartbeat_details=read_payload(message.heartbeat_details) if message.HasField("heartbeat_details") else None,
        error_code=message.error_code,
    )


def named(kind: type[Enumeration], wire: Any, number: int, prefix: str) -> Enumeration:
    try:
        return kind(wire.Name(number).removeprefix(prefix))
    except ValueError:
        return kind("UNKNOWN")


def read_time(stamp: Timestamp) -> datetime | None:
    if not stamp.seconds and not stamp.nanos:
        return None
    return datetime.fromtimestamp(stamp.seconds, UTC).replace(microsecond=stamp.nanos // 1000)
