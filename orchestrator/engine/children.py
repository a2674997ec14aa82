"""Sub-workflows: what an execution owes the executions that its tasks have started, and what they tell it.

A task of type SUB_WORKFLOW knows the id of its child from the start. It is in progress until the child says that it has
ended. A parent that ends otherwise tells the child to end, too; one that compensates waits for the child to have undone
its own steps first. A child that completed with steps to undo is itself what the parent has to undo.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import blob_uses, limits
from orchestrator.engine.choices import IdempotencyStrategy
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import (
    assemble_object,
    dump_string,
    fields_of,
    is_json_object,
    is_null,
    merge_objects,
    text_of,
)
from orchestrator.engine.messages import (
    CancelChild,
    ChildEnded,
    JoinExecution,
    Origin,
    OriginKind,
    StartExecution,
    UndoChild,
)
from orchestrator.engine.model import CompensationState, SagaRecord, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task

# What of a SUB_WORKFLOW's input says what is started. The rest of it is the child's input.
_INPUT = "workflowInput"
_SAYS = frozenset(
    "subWorkflowName subWorkflowVersion subWorkflowTaskToDomain subWorkflowDefinition subWorkflowIdempotencyKey"
    " subWorkflowIdempotencyStrategy subWorkflowPriority".split()
)


class NotStartable(Exception):
    """The input does not say what to start."""


# --- the parent's side


def start(step: Step, attempt: TaskAttempt, given: bytes) -> TaskAttempt:
    """Asks for the child; the attempt is in progress. Raises NotStartable."""
    fields = {key: value for key, value in fields_of(given).items() if not is_null(value)}
    _require_known(step, {key: value for key, value in fields.items() if key in _SAYS})
    _require_known(step, {_INPUT: fields.get(_INPUT, b"{}")})
    document = fields.get("subWorkflowDefinition", b"")
    name = text_of(fields.get("subWorkflowName", b'""'))
    if document and (not is_json_object(document) or blob_uses.is_outside(step, document)):
        raise NotStartable("workflowDefinition is not a definition")
    if not name and not document:
        raise NotStartable("subWorkflowParam does not say which workflow")
    if step.x.depth >= limits.DEPTH:
        raise NotStartable(f"sub-workflows may be {limits.DEPTH} deep")
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    child = step.ids.make()
    domains = fields.get("subWorkflowTaskToDomain")
    message = StartExecution(
        step.x.namespace,
        child,
        name,
        _number(fields.get("subWorkflowVersion", b"0")),
        _input_of_child(fields),
        correlation_id=step.x.correlation_id,
        priority=_number(fields.get("subWorkflowPriority", b"0")),
        task_to_domain=step.x.task_to_domain if domains is None else _domains(domains),
        created_by=step.x.created_by,
        document=document,
        origin=Origin(OriginKind.TASK, step.x.workflow_id, attempt.sequence),
        idempotency_key=text_of(fields.get("subWorkflowIdempotencyKey", b'""')),
        idempotency=_strategy(fields.get("subWorkflowIdempotencyStrategy"), "subWorkflowParam"),
        root=step.x.root or step.x.workflow_id,
        depth=step.x.depth + 1,
        parent_task=attempt.task_id,
        trace=step.x.trace,
    )
    step.send(message)
    return step.put_task(
        replace(attempt, status=TaskStatus.IN_PROGRESS, started_ms=step.now, updated_ms=step.now, child=child)
    )


def request(step: Step, attempt: TaskAttempt, given: bytes) -> StartExecution:
    """What a START_WORKFLOW asks for, as a request to start says it. Raises NotStartable."""
    asked = fields_of(given).get("startWorkflow")
    if asked is None or not is_json_object(asked):
        raise NotStartable("startWorkflow must be the request to start")
    fields = {key: value for key, value in fields_of(asked).items() if not is_null(value)}
    unknown = sorted(fields.keys() - _REQUEST)
    if unknown:
        raise NotStartable(f"startWorkflow has no field {unknown[0]}")
    _require_known(step, fields)
    document = fields.get("workflowDef", b"")
    name = text_of(fields.get("name", b'""'))
    if not name and not document:
        raise NotStartable("startWorkflow.name is missing")
    if blob_uses.is_outside(step, document):
        raise NotStartable("startWorkflow.workflowDef is not a definition")
    domains = _domains(fields.get("taskToDomain", b"{}"))
    correlation_id = text_of(fields.get("correlationId", b'""'))
    return StartExecution(
        step.x.namespace,
        text_of(fields.get("workflowId", b'""')) or step.ids.make(),
        name,
        _number(fields.get("version", b"0")),
        fields.get("input", b"{}"),
        correlation_id=correlation_id if correlation_id.strip() else step.x.correlation_id,
        priority=_number(fields.get("priority", b"0")),
        task_to_domain=domains or step.x.task_to_domain,
        created_by=text_of(fields.get("createdBy", b'""')) or step.x.created_by,
        document=document,
        origin=Origin(OriginKind.TASK, step.x.workflow_id, attempt.sequence),
        idempotency_key=text_of(fields.get("idempotencyKey", b'""')),
        idempotency=_strategy(fields.get("idempotencyStrategy"), "startWorkflow"),
        trace=step.x.trace,
    )


def _require_known(step: Step, fields: dict[str, bytes]) -> None:
    for key, value in fields.items():
        try:
            blob_uses.require_known(step, f"the field {key}", value)
        except LimitExceeded as error:
            raise NotStartable(str(error)) from None


def _strategy(raw: bytes | None, where: str) -> IdempotencyStrategy:
    name = "" if raw is None else text_of(raw)
    if name and name not in IdempotencyStrategy.__members__:
        raise NotStartable(f"{where}.idempotencyStrategy is none of {', '.join(IdempotencyStrategy.__members__)}")
    return IdempotencyStrategy[name or "FAIL"]


_REQUEST = frozenset(
    "name version workflowId input correlationId priority taskToDomain createdBy workflowDef idempotencyKey"
    " idempotencyStrategy".split()
)


def _number(raw: bytes) -> int:
    text = text_of(raw)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotStartable(f"a version and a priority are numbers, not {text[:100]}")
    return int(text)


def _domains(raw: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, text_of(domain)) for name, domain in fields_of(raw).items()))


def _input_of_child(fields: dict[str, bytes]) -> bytes:
    own = assemble_object((key, value) for key, value in fields.items() if key not in _SAYS and key != _INPUT)
    return merge_objects(fields.get(_INPUT, b"{}"), own)


def output_of_child(child: str, output: bytes) -> bytes:
    """What the parent's task shows of the child's end."""
    return merge_objects(output or b"{}", assemble_object([("subWorkflowId", dump_string(child))]))


def cancel(step: Step, attempt: TaskAttempt, reason: str) -> None:
    """Whoever waited for the child does not any more: it is to end, and to undo what it did unless that is settled."""
    said = f"Parent workflow has been terminated with status {_status(step).name} reason {step.x.reason or reason}"
    undo = step.x.undo_children and not step.x.pivot_passed
    step.send(CancelChild(step.x.namespace, attempt.child, said[: limits.REASON_CHARS], undo))


def _status(step: Step) -> WorkflowStatus:
    return step.x.ending or step.x.outcome or step.x.status


def join(step: Step, attempt: TaskAttempt, child: str) -> None:
    """What was to be started is there already, and another's: only its end is waited for."""
    step.put_task(replace(attempt, child=child, joined=True, updated_ms=step.now))
    x = step.x
    around = tuple(dict.fromkeys(one for one in (x.workflow_id, x.parent, x.root) if one))
    step.send(JoinExecution(x.namespace, child, x.workflow_id, attempt.sequence, around))


def leave(step: Step, attempt: TaskAttempt) -> None:
    """The attempt has ended, and waits for nothing any more."""
    step.send(JoinExecution(step.x.namespace, attempt.child, step.x.workflow_id, attempt.sequence, (), leaves=True))


def undo(step: Step, attempt: TaskAttempt, record: SagaRecord) -> None:
    """The child undoes its steps; the attempt, which is that of a compensation, is in progress until it has."""
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    step.put_task(
        replace(
            attempt, status=TaskStatus.IN_PROGRESS, started_ms=step.now, updated_ms=step.now, child=record.child
        )
    )
    step.send(UndoChild(step.x.namespace, record.child, step.x.workflow_id, attempt.sequence))


def open_children(step: Step) -> list[TaskAttempt]:
    """The open attempts that wait for a child, none of them a compensation."""
    attempts = [step.hot.tasks[sequence] for sequence in sorted(step.hot.open)]
    attempts = [one for one in attempts if one.own_child and not one.compensates and not one.is_looked_at]
    return [one for one in attempts if one.status is TaskStatus.IN_PROGRESS]


# --- the child's side


def ended(step: Step) -> None:
    """The step's execution has ended: its parent is told, and who waits for it besides."""
    x = step.x
    for workflow_id, sequence in x.joined_by:
        tell_end(step, workflow_id, sequence)
    if x.joined_by:
        step.change(joined_by=())
    if not x.parent:
        return
    owes = x.status is WorkflowStatus.COMPLETED and bool(step.hot.records) and not x.pivot_passed
    message = ChildEnded(
        x.namespace,
        x.parent,
        x.undone_by or x.parent_sequence,
        x.workflow_id,
        x.status,
        x.reason,
        load(step.hot, x.output),
        owes=owes,
        pivot_passed=x.pivot_passed,
        is_incomplete=x.compensation is CompensationState.INCOMPLETE,
    )
    step.send(message)


def tell_end(step: Step, workflow_id: str, sequence: int) -> None:
    """An attempt that waits for the step's execution hears how it has ended. What it owes is not the attempt's."""
    x = step.x
    output = load(step.hot, x.output)
    step.send(ChildEnded(x.namespace, workflow_id, sequence, x.workflow_id, x.status, x.reason, output))
