"""The one door through which an execution leaves RUNNING: with its debts paid first, or at once."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, checks, ending, saga
from orchestrator.engine.definitions.model import OUTPUT_CHECK
from orchestrator.engine.expressions import dump_string, text_of
from orchestrator.engine.model import Check, Payload, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.places import Place
from orchestrator.engine.step import Step


def end_badly(
    step: Step,
    outcome: WorkflowStatus,
    reason: str,
    failed_task: str = "",
    *,
    output: Payload = b"",
    compensate: bool = True,
) -> None:
    """FAILED, TIMED_OUT or TERMINATED, after compensation where something is owed."""
    if not compensate:
        step.change(undo_children=False)
    if compensate and saga.is_owed(step):
        saga.enter(step, outcome, reason, failed_task, output)
    else:
        ending.begin(step, outcome, reason, failed_task, output)


def complete(step: Step, *, output: Payload = b"", reason: str = "") -> None:
    """COMPLETED, when its output keeps the schema, if it has to keep one."""
    if step.plan.nodes[OUTPUT_CHECK].input_schema is None:
        _complete(step, output, reason)
        return
    # Nothing begins any more, whatever comes of it. Sub-workflows are told at the end, for they ask what it is.
    ending.cancel_open(step, reason or WorkflowStatus.COMPLETED.name, keep_children=True)
    step.agenda.clear()
    try:
        made = attempts.create(step, Place(step.plan.nodes[OUTPUT_CHECK]), afresh=True, given=b"{}")
    except attempts.TooManyTasks as error:
        end_badly(step, WorkflowStatus.FAILED, str(error))
        return
    if made is not None:
        kept = ending.copied(step, output or ending.make_output(step))
        checks.ask(step, replace(made[0], output=kept, extra=dump_string(reason)), Check.INPUT)


def _complete(step: Step, output: Payload, reason: str) -> None:
    step.header.undo_children = False
    ending.begin(step, WorkflowStatus.COMPLETED, reason, "", output)


# --- an output that has to keep a schema


def taken_over(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """Somebody wants it to be looked at again: it is what it was."""
    before = [step.hot.tasks[sequence] for sequence in step.hot.attempts_of[attempt.reference]]
    last = next((one for one in reversed(before) if one.output), attempt)
    output = ending.copied(step, last.output or ending.make_output(step))
    return step.put_task(replace(attempt, output=output, extra=last.extra or dump_string("")))


def output_passed(step: Step, attempt: TaskAttempt) -> None:
    reason = text_of(attempt.extra)
    attempts.finish(step, attempt, TaskStatus.COMPLETED, output=attempt.output, follow=False)
    _complete(step, attempt.output, reason)
