"""Read-only views of the state, as callers of the wire see it. Payloads are whole, whatever rows they are kept in."""

from __future__ import annotations

from typing import cast

import msgspec

from orchestrator.engine import assignments, scopes, system
from orchestrator.engine.assembly import output_of
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import fields_of
from orchestrator.engine.migration import obstacles
from orchestrator.engine.model import (
    CompensationState,
    Payload,
    SagaRecord,
    StepOutcome,
    Table,
    TaskAttempt,
    WorkflowStatus,
)
from orchestrator.engine.places import node_of
from orchestrator.engine.plan import bundle_for, compiled, plan_of
from orchestrator.engine.resident import (
    Bundle,
    SchemaRow,
    SecretRow,
    ServiceRow,
    Session,
    TaskDefinitionRow,
    WorkflowDefinitionRow,
)
from orchestrator.engine.schema_texts import registered_schema
from orchestrator.engine.state import State

_EMPTY = b"{}"


def payload(hot: ExecutionState, kept: Payload) -> bytes:
    """The JSON text; `b""` if there is none."""
    return scopes.load(hot, kept)


def resolved_input(state: State, hot: ExecutionState, attempt: TaskAttempt) -> bytes:
    """The attempt's input, the same whenever it is asked for."""
    return scopes.input_of(plan_of(state, hot.execution.bundle), hot, hot.execution, attempt)


def output(state: State, hot: ExecutionState, attempt: TaskAttempt) -> bytes:
    """The attempt's output; `b""` if there is none."""
    if attempt.type in (TaskType.JOIN, TaskType.DO_WHILE):
        return output_of(plan_of(state, hot.execution.bundle), hot, attempt)
    return hot.load(attempt.output)


# --- compensation


class CompensatedStep(msgspec.Struct, frozen=True):
    reference: str
    iteration: int
    outcome_unknown: bool
    reason: str = ""


class CompensationView(msgspec.Struct, frozen=True):
    """How far the undoing has come, and what it has left to do or has left undone."""

    state: CompensationState
    done: tuple[CompensatedStep, ...]
    left: tuple[CompensatedStep, ...]


def compensation_view(hot: ExecutionState) -> CompensationView:
    header = hot.execution
    if header.settled:
        left: tuple[int, ...] = (*header.left, *header.compensating, *header.owed)
    elif header.pivot_passed or header.status is WorkflowStatus.COMPLETED or header.clearing:
        left = ()
    else:
        left = tuple(sorted(hot.records, reverse=True))
    return CompensationView(
        header.compensation,
        tuple(_step(hot.records[number]) for number in header.done),
        tuple(_step(hot.records[number]) for number in left),
    )


def _step(record: SagaRecord) -> CompensatedStep:
    unknown = record.outcome is StepOutcome.UNKNOWN
    return CompensatedStep(record.reference, record.iteration, unknown, record.reason)


def obstacles_to(state: State, hot: ExecutionState, version: int) -> list[str] | None:
    """Why the execution can't be moved to this version of its definition, 0 being the highest; None: there is none."""
    header = hot.execution
    row = workflow_definition(state, header.namespace, header.name, version)
    if row is None:
        return None
    bundled = bundle_for(state, header.namespace, row.document)
    if bundled[0] == header.bundle:
        return []
    return obstacles(plan_of(state, header.bundle), compiled(state, bundled), hot)


# --- what a worker is handed


class StepView(msgspec.Struct, frozen=True):
    """The step that a compensation undoes."""

    reference: str
    name: str
    iteration: int
    input: bytes
    output: bytes | None  # None: the outcome is unknown
    outcome_unknown: bool
    idempotency_key: str


class AssignmentView(msgspec.Struct, frozen=True):
    """Everything that a worker is told of an attempt."""

    namespace: str
    workflow_id: str
    workflow_name: str
    correlation_id: str
    task_id: str
    fencing_token: int
    idempotency_key: str
    name: str
    reference: str
    iteration: int
    retry_count: int
    input: bytes
    timeout_ms: int
    response_timeout_ms: int
    # Of its newest heartbeat, if it was handed out before, or else of the attempts before; b"": none.
    heartbeat_details: bytes
    scheduled_ms: int
    compensation: StepView | None
    kind: str = ""  # of system work: the queue it came from
    parameters: bytes = b""  # of system work: a JSON object
    queue: str = ""  # that it came from, if that is not called like the task
    runtime_metadata: tuple[str, ...] = ()  # names; the values are looked up where it is handed out
    secrets: tuple[int, ...] = ()  # where in the input secrets are named, whose values take their places there
    trace: str = ""  # of the execution


def assignment_view(state: State, hot: ExecutionState, token: int) -> AssignmentView | None:
    """What the lease's worker is to be told; None if there is no such lease, or it is not to be delivered (any more).

    `hot` has the rows of the lease's execution; they may have been read for this only.
    """
    lease = state.leases.get((token,))
    if lease is None or lease.fenced or not lease.started:
        return None
    attempt = hot.tasks.get(lease.task_sequence)
    if attempt is None:
        return None
    header = hot.execution
    plan = plan_of(state, header.bundle)
    record = hot.records.get(attempt.compensates)
    node = node_of(plan, hot, attempt)
    is_system = system.is_queue(lease.name)
    given = resolved_input(state, hot, attempt)
    return AssignmentView(
        namespace=lease.namespace,
        workflow_id=lease.workflow_id,
        workflow_name=header.name,
        correlation_id=header.correlation_id,
        task_id=attempt.task_id,
        fencing_token=token,
        idempotency_key=attempt.idempotency_key,
        name=attempt.name,
        reference=attempt.reference,
        iteration=attempt.iteration,
        retry_count=attempt.retry_count,
        input=assignments.input_of(plan, hot, header, attempt, given) if is_system else given,
        timeout_ms=node.timeouts.task_ms,
        response_timeout_ms=lease.response_timeout_ms,
        heartbeat_details=_details_before(hot, attempt),
        scheduled_ms=attempt.scheduled_ms,
        compensation=None if record is None else _step_view(state, hot, record),
        kind=lease.name if is_system else "",
        parameters=assignments.parameters_of(plan, node, attempt, given) if is_system else b"",
        queue=lease.queue,
        runtime_metadata=node.runtime_metadata,
        secrets=() if attempt.is_looked_at else attempt.secrets,
        trace=header.trace,
    )


def _details_before(hot: ExecutionState, attempt: TaskAttempt) -> bytes:
    before = hot.undoing[attempt.compensates] if attempt.compensates else hot.attempts_of[attempt.reference]
    for sequence in reversed(before):
        if sequence <= attempt.sequence and hot.tasks[sequence].details:
            return scopes.load(hot, hot.tasks[sequence].details)
    return b""


def _step_view(state: State, hot: ExecutionState, record: SagaRecord) -> StepView:
    unknown = record.outcome is StepOutcome.UNKNOWN
    return StepView(
        reference=record.reference,
        name=record.name,
        iteration=record.iteration,
        input=scopes.record_input(plan_of(state, hot.execution.bundle), hot, hot.execution, record),
        output=None if unknown else scopes.load(hot, record.output) or _EMPTY,
        outcome_unknown=unknown,
        idempotency_key=record.step_key,
    )


def worker_sessions(state: State) -> list[Session]:
    """Those that are open, but for the nodes' own."""
    return [session for session in state.sessions.values() if session.namespace != system.NAMESPACE]


# --- definitions


def workflow_definition(state: State, namespace: str, name: str, version: int) -> WorkflowDefinitionRow | None:
    """The registered definition; version 0 is the highest."""
    version = version or state.highest_version.get((namespace, name), [0])[-1]
    return cast(WorkflowDefinitionRow | None, state.resident[Table.WORKFLOW_DEFINITION].get((namespace, name, version)))


def execution_document(state: State, hot: ExecutionState) -> bytes:
    """The definition that the execution runs, as it was when it was started."""
    bundle = cast(Bundle, state.resident[Table.BUNDLE][hot.execution.bundle,])
    return fields_of(bundle.document)["definition"]


def workflow_definitions(state: State, namespace: str) -> list[WorkflowDefinitionRow]:
    """By name and version."""
    rows = sorted(state.resident[Table.WORKFLOW_DEFINITION].items())
    return [row for key, row in rows if key[0] == namespace]


def task_definition(state: State, namespace: str, name: str) -> TaskDefinitionRow | None:
    return cast(TaskDefinitionRow | None, state.resident[Table.TASK_DEFINITION].get((namespace, name)))


def task_definitions(state: State, namespace: str) -> list[TaskDefinitionRow]:
    """By name."""
    rows = sorted(state.resident[Table.TASK_DEFINITION].items())
    return [row for key, row in rows if key[0] == namespace]


def service(state: State, namespace: str, name: str) -> ServiceRow | None:
    return cast(ServiceRow | None, state.resident[Table.SERVICE].get((namespace, name)))


def services(state: State, namespace: str) -> list[ServiceRow]:
    """By name."""
    rows = sorted(state.resident[Table.SERVICE].items())
    return [row for key, row in rows if key[0] == namespace]


def secret(state: State, namespace: str, name: str) -> SecretRow | None:
    return cast(SecretRow | None, state.resident[Table.SECRET].get((namespace, name)))


def secrets_of(state: State, namespace: str) -> list[SecretRow]:
    """By name."""
    rows = sorted(state.resident[Table.SECRET].items())
    return [row for key, row in rows if key[0] == namespace]


def every_secret(state: State) -> list[SecretRow]:
    """Of all namespaces, by namespace and name."""
    return [row for _, row in sorted(state.resident[Table.SECRET].items())]


def schema(state: State, namespace: str, name: str, version: int) -> SchemaRow | None:
    """`version`: 0 is the highest."""
    return registered_schema(state, namespace, name, version)


def schemas(state: State, namespace: str) -> list[SchemaRow]:
    """By name and version."""
    rows = sorted(state.resident[Table.SCHEMA].items())
    return [row for key, row in rows if key[0] == namespace]
