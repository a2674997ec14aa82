"""Executions and attempts as Conductor shows them: its JSON shape, the names of its fields, and its statuses.

| here | there |
|---|---|
| COMPENSATING, and PAUSED from there | RUNNING, and PAUSED; without an end or a reason yet |
| all other statuses of workflows, and those of tasks | the same |
| type SIMPLE | the name of the task |
| types FORK_JOIN, FORK_JOIN_DYNAMIC | FORK |
| the name of a fork, join, switch or decision | its type |
| an attempt that undoes a step | a task like any other, with the reference of the compensation |

Times are milliseconds since 1970, 0 for never; in summaries they are texts. What is not there is left out; objects and
lists of a whole execution or task are there, empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from orchestrator.engine import queries
from orchestrator.engine.blobs import references_in
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import (
    assemble_array,
    assemble_object,
    dump_string,
    elements_of,
    fields_of,
    is_json_object,
    text_of,
)
from orchestrator.engine.masking import masked
from orchestrator.engine.model import (
    Execution,
    ExpansionKind,
    Payload,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.places import node_of
from orchestrator.engine.plan import plan_of
from orchestrator.engine.state import State
from orchestrator.rpc.slices import Slices
from orchestrator.rpc.views import shown_tasks
from orchestrator.rpc.whole import Whole, as_is

# A task's element of the definition is shown with it up to this size: what has many attempts has it many times.
ELEMENT_BYTES_MAX = 8 << 10

_FAILED = (TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR)
_FORKS = (TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC)
# Those whose name is their type, whatever the definition calls them.
_NAMELESS = frozenset(("FORK", "JOIN", "EXCLUSIVE_JOIN", "SWITCH", "DECISION"))
_ASSEMBLED = (TaskType.JOIN, TaskType.DO_WHILE)
_EPOCH = datetime.fromtimestamp(0, UTC)
_Fields = list[tuple[str, bytes]]


class TooLarge(Exception):
    """The tasks of an execution have more bytes than were asked for."""


def workflow(
    state: State,
    held: ExecutionState,
    *,
    include_tasks: bool,
    parent_task: str = "",
    bytes_max: int,
    whole: Whole = as_is,
) -> Slices[bytes]:
    """The whole execution, as readers may see it: Conductor's Workflow. `parent_task`: the id of what started it.

    Raises TooLarge, before it has put together more than that.
    """
    failed = [one for one in held.tasks.values() if one.status in _FAILED and not one.compensates]
    failed = [] if held.execution.clearing else failed
    fields = [
        *_header(held.execution),
        ("parentWorkflowTaskId", _text(parent_task)),
        *_payloads(held, whole),
        ("workflowDefinition", queries.execution_document(state, held)),
        ("failedReferenceTaskNames", _texts(one.reference for one in failed)),
        ("failedTaskNames", _texts(_name(one) for one in failed)),
    ]
    return (yield from _with_tasks(state, held, fields, include_tasks, bytes_max, whole))


def workflow_run(
    state: State,
    held: ExecutionState,
    about: Iterable[tuple[str, bytes]],
    *,
    include_tasks: bool,
    bytes_max: int,
    whole: Whole = as_is,
) -> Slices[bytes]:
    """Conductor's WorkflowRun; `about`: fields that say what was asked. Raises TooLarge."""
    x = held.execution
    fields = [
        *about,
        ("workflowId", dump_string(x.workflow_id)),
        ("correlationId", _text(x.correlation_id)),
        ("status", dump_string(status_of(x))),
        ("priority", b"%d" % x.priority),
        ("createdBy", _text(x.created_by)),
        ("createTime", b"%d" % x.created_ms),
        ("updateTime", b"%d" % x.updated_ms),
        *_payloads(held, whole),
    ]
    return (yield from _with_tasks(state, held, fields, include_tasks, bytes_max, whole))


def task_run(
    state: State, held: ExecutionState, attempt: TaskAttempt, about: Iterable[tuple[str, bytes]], whole: Whole = as_is
) -> bytes:
    """Conductor's TaskRun; `about`: fields that say what was asked."""
    all_of_it = {name: bytes(value) for name, value in fields_of(task(state, held, attempt, whole)).items()}
    names = (
        *("correlationId", "taskType", "taskId", "referenceTaskName", "retryCount", "taskDefName", "retriedTaskId"),
        *("workflowType", "reasonForIncompletion", "status", "updateTime"),
    )
    fields = [
        *about,
        ("workflowId", all_of_it["workflowInstanceId"]),
        *((name, all_of_it.get(name, b"")) for name in names),
        ("priority", all_of_it["workflowPriority"]),
        ("createdBy", all_of_it.get("workerId", b"")),
        ("createTime", all_of_it["startTime"]),
        ("input", all_of_it["inputData"]),
        ("output", all_of_it["outputData"]),
    ]
    return assemble_object(_given(fields))


def nothing_run(about: Iterable[tuple[str, bytes]]) -> bytes:
    """What takes the place of a TaskRun where there is no task."""
    return assemble_object(_given(about))


def _payloads(held: ExecutionState, whole: Whole) -> _Fields:
    x, fields = held.execution, []
    for name, kept in (("input", x.input), ("output", x.output), ("variables", x.variables)):
        data = whole(queries.payload(held, kept), x.masked_fields)
        fields.append((name, data if is_json_object(data) else b"{}"))
    return fields


def _with_tasks(
    state: State, held: ExecutionState, fields: _Fields, include_tasks: bool, bytes_max: int, whole: Whole
) -> Slices[bytes]:
    size = sum(len(value) for _, value in fields)
    view = _TaskView(state, held, queries.execution_document(state, held), whole)
    tasks = []
    for attempt in shown_tasks(held) if include_tasks else ():
        tasks.append(view.of(attempt))
        size += len(tasks[-1]) + 1
        if size > bytes_max:
            break
        yield len(tasks[-1])
    if size > bytes_max:
        raise TooLarge
    return assemble_object(_given([*fields, ("tasks", assemble_array(tasks))]))


def summary(execution: Execution) -> bytes:
    """Conductor's WorkflowSummary; input and output only where they are small (a reader may ask for the whole)."""
    x = execution
    has_ended = x.ended_ms > 0
    fields = [
        ("workflowType", dump_string(x.name)),
        ("version", b"%d" % x.version),
        ("workflowId", dump_string(x.workflow_id)),
        ("correlationId", _text(x.correlation_id)),
        ("startTime", _moment(x.created_ms)),
        ("updateTime", _moment(x.updated_ms)),
        ("endTime", _moment(x.ended_ms)),
        ("status", dump_string(status_of(x))),
        *_payload_texts(x, x.input, x.output),
        ("reasonForIncompletion", _text(x.reason if has_ended else "")),
        ("executionTime", b"%d" % (x.ended_ms - x.created_ms if has_ended else 0)),
        ("failedReferenceTaskNames", dump_string(x.failed_task)),
        ("priority", b"%d" % x.priority),
        ("createdBy", _text(x.created_by)),
        ("taskToDomain", _domains(x)),
        ("idempotencyKey", _text(x.idempotency_key)),
        ("parentWorkflowId", dump_string(x.parent)),
    ]
    return assemble_object(_given(fields))


def task(state: State, held: ExecutionState, attempt: TaskAttempt, whole: Whole = as_is) -> bytes:
    """The whole attempt, as readers may see it: Conductor's Task."""
    return _TaskView(state, held, queries.execution_document(state, held), whole).of(attempt)


def task_summary(execution: Execution, attempt: TaskAttempt) -> bytes:
    """Conductor's TaskSummary; input and output only where they are small and stored as they are."""
    given = attempt.input if attempt.type not in _FORKS else b""
    output = attempt.output if attempt.type not in _ASSEMBLED else b""
    took_ms = attempt.ended_ms - attempt.started_ms if attempt.ended_ms and attempt.started_ms else 0
    fields = [
        ("workflowId", dump_string(execution.workflow_id)),
        ("workflowType", dump_string(execution.name)),
        ("correlationId", _text(execution.correlation_id)),
        ("scheduledTime", _moment(attempt.scheduled_ms)),
        ("startTime", _moment(attempt.started_ms)),
        ("updateTime", _moment(attempt.updated_ms)),
        ("endTime", _moment(attempt.ended_ms)),
        ("status", dump_string(attempt.status.name)),
        ("reasonForIncompletion", _text(attempt.reason)),
        ("executionTime", b"%d" % took_ms),
        ("queueWaitTime", b"%d" % _waited_ms(attempt)),
        ("taskDefName", dump_string(_name(attempt))),
        ("taskType", dump_string(_type(attempt))),
        *_payload_texts(execution, given, output),
        ("taskId", dump_string(attempt.task_id)),
        ("workflowPriority", b"%d" % execution.priority),
    ]
    return assemble_object(_given(fields))


def status_of(execution: Execution) -> str:
    """The name of the status that Conductor would show."""
    compensates = execution.status is WorkflowStatus.COMPENSATING
    return WorkflowStatus.RUNNING.name if compensates else execution.status.name


def _header(execution: Execution) -> _Fields:
    x = execution
    has_ended = x.ended_ms > 0
    retried_ms = x.timeout_base_ms if x.timeout_base_ms > x.created_ms else 0
    return [
        ("workflowId", dump_string(x.workflow_id)),
        ("workflowName", dump_string(x.name)),
        ("workflowVersion", b"%d" % x.version),
        ("status", dump_string(status_of(x))),
        ("reasonForIncompletion", _text(x.reason if has_ended else "")),
        ("correlationId", _text(x.correlation_id)),
        ("idempotencyKey", _text(x.idempotency_key)),
        ("parentWorkflowId", _text(x.parent)),
        ("priority", b"%d" % x.priority),
        ("createdBy", _text(x.created_by)),
        ("createTime", b"%d" % x.created_ms),
        ("startTime", b"%d" % x.created_ms),
        ("updateTime", b"%d" % x.updated_ms),
        ("endTime", b"%d" % x.ended_ms),
        ("lastRetriedTime", b"%d" % retried_ms),
        ("taskToDomain", _domains(x)),
        ("rateLimitKey", _text(x.group_key)),
    ]


def _attempt(execution: Execution, attempt: TaskAttempt) -> _Fields:
    """What the rows alone say."""
    return [
        ("taskId", dump_string(attempt.task_id)),
        ("taskType", dump_string(_type(attempt))),
        ("taskDefName", dump_string(_name(attempt))),
        ("referenceTaskName", dump_string(attempt.reference)),
        ("status", dump_string(attempt.status.name)),
        ("reasonForIncompletion", _text(attempt.reason)),
        ("workflowInstanceId", dump_string(execution.workflow_id)),
        ("workflowType", dump_string(execution.name)),
        ("correlationId", _text(execution.correlation_id)),
        ("workflowPriority", b"%d" % execution.priority),
        ("seq", b"%d" % attempt.sequence),
        ("retryCount", b"%d" % attempt.retry_count),
        ("retried", _flag(attempt.retried)),
        ("executed", _flag(attempt.passed)),
        ("iteration", b"%d" % attempt.iteration),
        ("loopOverTask", _flag(attempt.iteration > 0)),
        ("pollCount", b"1" if attempt.fencing_token else b"0"),
        ("workerId", _text(attempt.worker_id)),
        ("subWorkflowId", _text(attempt.child)),
        ("scheduledTime", b"%d" % attempt.scheduled_ms),
        ("startTime", b"%d" % attempt.started_ms),
        ("endTime", b"%d" % attempt.ended_ms),
        ("updateTime", b"%d" % attempt.updated_ms),
        ("queueWaitTime", b"%d" % _waited_ms(attempt)),
    ]


class _TaskView:
    """Attempts of one execution, with what its definition says of them."""

    def __init__(self, state: State, held: ExecutionState, document: bytes, whole: Whole) -> None:
        self._state = state
        self._whole = whole
        self._held = held
        self._plan = plan_of(state, held.execution.bundle)
        # By the expansion that they are of; 0 is the definition.
        self._elements = {0: dict(_elements(elements_of(fields_of(document)["tasks"])))}

    def of(self, attempt: TaskAttempt) -> bytes:
        state, held = self._state, self._held
        node = node_of(self._plan, held, attempt)
        hidden = held.execution.masked_fields
        given = self._whole(queries.resolved_input(state, held, attempt), hidden)
        output = self._whole(queries.output(state, held, attempt), hidden)
        fields = [
            *_attempt(held.execution, attempt),
            ("inputData", given or b"{}"),
            ("outputData", output or b"{}"),
            ("retriedTaskId", _text(self._before(attempt))),
            ("startDelayInSeconds", b"%d" % (node.start_delay_ms // 1000)),
            ("responseTimeoutSeconds", b"%d" % (node.timeouts.response_ms // 1000)),
            ("callbackAfterSeconds", b"%d" % self._callback_seconds(attempt)),
            ("domain", _text(self._domain(attempt))),
            ("workflowTask", self._element(attempt, node.reference)),
        ]
        return assemble_object(_given(fields))

    def _before(self, attempt: TaskAttempt) -> str:
        """The id of the attempt that it is a retry of."""
        held = self._held
        siblings = held.undoing[attempt.compensates] if attempt.compensates else held.attempts_of[attempt.reference]
        earlier = [sequence for sequence in siblings if sequence < attempt.sequence]
        before = held.tasks[earlier[-1]] if earlier else None
        return before.task_id if before is not None and before.retried else ""

    def _callback_seconds(self, attempt: TaskAttempt) -> int:
        """How long after its scheduling its turn comes, while it waits for that."""
        for number in attempt.timers:
            timer = self._state.timers.get((number,))
            if timer is not None and timer.kind is TimerKind.TASK_READY:
                return -(-(timer.fire_ms - attempt.scheduled_ms) // 1000)
        return 0

    def _domain(self, attempt: TaskAttempt) -> str:
        """Of its queue, or of the worker that has it."""
        ready = self._state.ready.get((attempt.ready,))
        if ready is not None:
            return ready.domain
        lease = self._state.leases.get((attempt.fencing_token,))
        session = None if lease is None else self._state.sessions.get((lease.session_id,))
        return "" if session is None else session.domain

    def _element(self, attempt: TaskAttempt, reference: str) -> bytes:
        """What the definition, or the fork, says of the task; b"" if it is large or made by the fork itself."""
        found = self._elements.get(attempt.expansion)
        if found is None:
            found = self._elements[attempt.expansion] = self._forked(attempt.expansion)
        raw = found.get(reference, b"")
        return raw if len(raw) <= ELEMENT_BYTES_MAX else b""

    def _forked(self, number: int) -> dict[str, bytes]:
        expansion = self._held.expansions[number]
        if expansion.kind is not ExpansionKind.FORKED:
            return {}
        return dict(_elements(elements_of(fields_of(self._held.load(expansion.document))["tasks"])))


def _elements(items: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """(reference, element) of a sequence's tasks, of all that are in them, and of their compensations."""
    for item in items:
        raw = bytes(item)
        fields = fields_of(raw)
        reference = text_of(fields["taskReferenceName"]) if "taskReferenceName" in fields else ""
        yield reference, raw
        undo = bytes(fields.get("compensateWith", b""))
        if is_json_object(undo):
            named = fields_of(undo).get("taskReferenceName")
            yield (f"{reference}__compensation" if named is None else text_of(named)), undo
        for key in ("defaultCase", "loopOver"):
            yield from _elements(_list(fields.get(key, b"")))
        for branch in _list(fields.get("forkTasks", b"")):
            yield from _elements(_list(branch))
        cases = bytes(fields.get("decisionCases", b""))
        if is_json_object(cases):
            for branch in fields_of(cases).values():
                yield from _elements(_list(branch))


def _list(raw: bytes) -> list[bytes]:
    return [bytes(item) for item in elements_of(bytes(raw))] if bytes(raw)[:1] == b"[" else []


def _type(attempt: TaskAttempt) -> str:
    if attempt.type == TaskType.SIMPLE:
        return attempt.name
    return "FORK" if attempt.type in _FORKS else attempt.type


def _name(attempt: TaskAttempt) -> str:
    shown = _type(attempt)
    return shown if shown in _NAMELESS and attempt.type != TaskType.SIMPLE else attempt.name


def _waited_ms(attempt: TaskAttempt) -> int:
    return attempt.started_ms - attempt.scheduled_ms if attempt.started_ms else 0


def _domains(execution: Execution) -> bytes:
    return assemble_object((name, dump_string(domains)) for name, domains in execution.task_to_domain)


def _payload_texts(execution: Execution, given: Payload, output: Payload) -> _Fields:
    """Those that are small: the others are rows of their own, or values outside the log."""
    found: _Fields = []
    for name, kept in (("input", given), ("output", output)):
        if isinstance(kept, bytes) and kept and not references_in(kept):
            text = masked(kept, execution.masked_fields).decode()
            found += [(name, dump_string(text)), (f"{name}Size", b"%d" % len(text))]
    return found


def _moment(time_ms: int) -> bytes:
    if not time_ms:
        return b""
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return dump_string(moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def _given(fields: Iterable[tuple[str, bytes]]) -> _Fields:
    return [(name, value) for name, value in fields if value]


def _text(value: str) -> bytes:
    return dump_string(value) if value else b""


def _texts(values: Iterable[str]) -> bytes:
    return assemble_array(dump_string(value) for value in dict.fromkeys(values))


def _flag(value: bool) -> bytes:
    return b"true" if value else b"false"
