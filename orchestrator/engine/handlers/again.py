"""Running again what has ended, and leaving out what has not begun."""

from __future__ import annotations

import msgspec

from orchestrator.engine import again, attempts, births, blob_uses, clearing, loops, places, purging, saga
from orchestrator.engine.choices import DeleteEffects
from orchestrator.engine.commands import RerunWorkflow, RestartWorkflow, SkipTask
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.errors import LimitExceeded, refuse
from orchestrator.engine.expressions import PayloadInvalid, check_payload
from orchestrator.engine.handlers import control
from orchestrator.engine.messages import ChildReopened, ClearExecution, GoOnAfterEnd
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import store_brought
from orchestrator.engine.places import Place
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_TERMINAL, WORKFLOW_TERMINAL

_AFTERWARDS: msgspec.msgpack.Decoder[RestartWorkflow | RerunWorkflow] = msgspec.msgpack.Decoder(
    RestartWorkflow | RerunWorkflow
)
_encode = msgspec.msgpack.Encoder().encode


def restart_workflow(step: Step, command: RestartWorkflow) -> AnyResult:
    """From the beginning, as the same execution; with the definition as it is now if that is asked for."""
    _require_ended(step, command)
    return _restart(step, command)


def _restart(step: Step, command: RestartWorkflow) -> AnyResult:
    if step.x.status is WorkflowStatus.COMPLETED and not step.plan.definition.restartable:
        refuse(Code.NOT_FOUND, "WORKFLOW_NOT_RESTARTABLE", "the workflow has completed, and is not restartable")
    if _compensates_first(step, command, 0):
        return Done()
    if command.use_latest_definitions:
        births.take_definition(step, births.bundle_of(step, step.x.namespace, step.x.name, 0, b""))
    again.restart(step, None)
    return Done()


def rerun_workflow(step: Step, command: RerunWorkflow) -> AnyResult:
    """From one of its tasks, or from the beginning with another input."""
    _require_ended(step, command)
    for field in ("task_input", "workflow_input"):
        _check(step, field, getattr(command, field))
    return _rerun(step, command)


def _rerun(step: Step, command: RerunWorkflow) -> AnyResult:
    if not command.task_id:
        if not _compensates_first(step, command, 0):
            _change(step, command)
            again.restart(step, command.workflow_input or None)
        return Done()
    sequence = step.hot.by_task_id.get(command.task_id)
    target = None if sequence is None else step.hot.tasks[sequence]
    if target is None or target.compensates:
        refuse(Code.INVALID_ARGUMENT, "TASK_UNKNOWN", f"there is no task {command.task_id!r}", field="task_id")
    if _compensates_first(step, command, target.sequence):
        return Done()
    _change(step, command)
    try:
        again.rerun_from(step, target, command.task_input)
    except LimitExceeded as error:
        refuse(Code.RESOURCE_EXHAUSTED, "EXECUTION_TOO_LARGE", str(error), limit="execution_bytes")
    return Done()


def _change(step: Step, command: RerunWorkflow) -> None:
    if command.correlation_id:
        step.change(correlation_id=command.correlation_id)
    if command.workflow_input and command.task_id:
        try:
            step.change(input=store_brought(step, command.workflow_input))
        except LimitExceeded as error:
            refuse(Code.RESOURCE_EXHAUSTED, "EXECUTION_TOO_LARGE", str(error), limit="execution_bytes")


def _check(step: Step, field: str, payload: bytes) -> None:
    blob_uses.require(step, field, payload)
    try:
        check_payload(payload or b"{}")
    except PayloadInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", f"{field}: {error}", field=field, limit=error.limit)


def _require_ended(step: Step, command: RestartWorkflow | RerunWorkflow) -> None:
    step.require(command.namespace, command.workflow_id)
    if step.x.status not in WORKFLOW_TERMINAL:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_RUNNING", "the workflow is still running")


def _compensates_first(step: Step, command: RestartWorkflow | RerunWorkflow, target: int) -> bool:
    """Whether what is to be done again is undone first. Refuses what would drop a step that was not undone."""
    if not all(again.is_made_again(step, step.hot.records[number], target) for number in step.x.done):
        message = "steps have been undone that would not be done again"
        refuse(Code.FAILED_PRECONDITION, "COMPENSATION_STARTED", message)
    owed = again.owed_by(step, target)
    if not owed or command.effects is DeleteEffects.KEEP:
        return False
    names = ", ".join(record.reference for record in owed)
    if command.effects is not DeleteEffects.COMPENSATE_FIRST:
        message = f"not undone: {names}; keep their effects, or compensate first"
        refuse(Code.FAILED_PRECONDITION, "STEPS_NOT_UNDONE", message, steps=names)
    if step.x.pivot_passed:
        refuse(Code.FAILED_PRECONDITION, "PIVOT_PASSED", "a pivot has completed: nothing is compensated any more")
    if len(owed) + len(step.x.done) < len(step.hot.records):
        message = "steps that are kept would be undone, too: restart, or keep the effects"
        refuse(Code.FAILED_PRECONDITION, "STEPS_NOT_UNDONE", message, steps=names)
    purging.reopen(step)
    if isinstance(command, RerunWorkflow):
        # What it brings is kept until then, too.
        for text in (command.workflow_input, command.task_input):
            try:
                blob_uses.note(step, text)
            except LimitExceeded as error:
                refuse(Code.RESOURCE_EXHAUSTED, "EXECUTION_TOO_LARGE", str(error), limit="execution_blobs")
    step.change(afterwards=_encode(command))
    return True


def clear_execution(step: Step, message: ClearExecution) -> AnyResult:
    if step.open(message.namespace, message.workflow_id) and step.x.clearing:
        clearing.proceed(step, message)
    return Done()


def go_on_after_end(step: Step, message: GoOnAfterEnd) -> AnyResult:
    """What was to be undone first has been: now the operator's word is carried out."""
    if not step.open(message.namespace, message.workflow_id) or not step.x.afterwards:
        return Done()
    command = _AFTERWARDS.decode(step.x.afterwards)
    step.change(afterwards=b"")
    if step.x.status not in WORKFLOW_TERMINAL or step.x.left:
        # Something was left that is not undone: whoever asked decides again.
        return Done()
    if isinstance(command, RestartWorkflow):
        return _restart(step, command)
    return _rerun(step, command)


def child_reopened(step: Step, message: ChildReopened) -> AnyResult:
    """A sub-workflow runs again: its task waits for it again, and so on outwards."""
    attempt = step.task(message.task_sequence) if step.open(message.namespace, message.workflow_id) else None
    if attempt is None or attempt.child != message.child or attempt.retried or attempt.passed:
        return Done()
    if attempt.status not in TASK_TERMINAL or step.x.status not in WORKFLOW_TERMINAL or saga.has_started(step):
        return Done()
    if attempt.status in (TaskStatus.COMPLETED, TaskStatus.COMPLETED_WITH_ERRORS):
        return Done()
    if attempts.node_of(step, attempt).optional:
        # Nothing depended on it.
        return Done()
    if control.was_terminated_by_task(step):
        # It would be ended again.
        return Done()
    attempts.wait_again(step, attempt)
    control.reopen(step)
    return Done()


def skip_task(step: Step, command: SkipTask) -> AnyResult:
    """A task that has not begun is left out: the walk passes it when it comes there."""
    step.require(command.namespace, command.workflow_id)
    if step.x.status is not WorkflowStatus.RUNNING or step.x.ending is not None:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_NOT_RUNNING", f"the workflow is {step.x.status.name}")
    _check(step, "output", command.output)
    node = step.plan.nodes.get(command.reference)
    if node is None or node.type == TaskType.SCHEMA_CHECK:
        message = f"the definition has no task {command.reference!r}"
        refuse(Code.INVALID_ARGUMENT, "TASK_UNKNOWN", message, field="reference")
    iterations = loops.current_iterations(step, node)
    if iterations is None:
        message = f"the loop around {command.reference!r} is not in progress"
        refuse(Code.FAILED_PRECONDITION, "TASK_NOT_REACHED", message)
    place = Place(node, iterations)
    if step.hot.latest(place.reference) is not None:
        message = f"the task {command.reference!r} has begun already"
        refuse(Code.FAILED_PRECONDITION, "TASK_BEGUN", message)
    if node.type in places.PASSED_IN_PAIRS:
        refuse(Code.FAILED_PRECONDITION, "TASK_NOT_SKIPPABLE", "a fork and its join can't be skipped")
    try:
        attempts.skip(step, place, store_brought(step, command.output))
    except (LimitExceeded, attempts.TooManyTasks) as error:
        refuse(Code.RESOURCE_EXHAUSTED, "EXECUTION_TOO_LARGE", str(error), limit="execution_bytes")
    return Done()

