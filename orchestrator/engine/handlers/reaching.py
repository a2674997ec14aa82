"""Messages by which events and schedules reach an execution that runs; whoever sent one is told what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from orchestrator.engine import commands, origins, outcomes, signals
from orchestrator.engine.errors import LimitExceeded, Refused, refuse
from orchestrator.engine.expressions import assemble_array, assemble_object, elements_of, fields_of, merge_objects
from orchestrator.engine.handlers import updates
from orchestrator.engine.messages import (
    FinishTask,
    GiveEvent,
    Message,
    SignalExecution,
    TerminateExecution,
    UpdateVariables,
)
from orchestrator.engine.model import WorkflowStatus
from orchestrator.engine.results import AnyResult, Code, Done, Rejected
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_TERMINAL
from orchestrator.engine.triggers import correlation


def finish_task(step: Step, message: FinishTask) -> AnyResult:
    return _told(step, message, _finish)


def terminate_execution(step: Step, message: TerminateExecution) -> AnyResult:
    return _told(step, message, _terminate)


def update_variables(step: Step, message: UpdateVariables) -> AnyResult:
    return _told(step, message, _update)


def signal_execution(step: Step, message: SignalExecution) -> AnyResult:
    return _told(step, message, _signal)


def give_event(step: Step, message: GiveEvent) -> AnyResult:
    """Whoever has sent it is told where it has come to in the end."""
    if correlation.arrive(step, message):
        origins.told(step, message, Done())
        return Done()
    try:
        is_sent = correlation.pass_on(step, message)
    except LimitExceeded as error:
        rejected = Rejected(Code.RESOURCE_EXHAUSTED, "EVENTS_KEPT_FULL", str(error), (("limit", "events_kept"),))
        origins.told(step, message, rejected)
        return Done()
    if not is_sent:
        origins.told(step, replace(message, workflow_id=""), Done())
    return Done()


def _told(step: Step, message: Message, work: Callable[[Step, Any], AnyResult]) -> AnyResult:
    """The work decides before it writes: a refusal leaves nothing but what is recorded of it."""
    try:
        result = work(step, message)
    except Refused as refused:
        result = refused.rejected
    origins.told(step, message, result)
    return Done()


def _signal(step: Step, message: SignalExecution) -> AnyResult:
    signals.give(step, message.namespace, message.workflow_id, message.name, message.payload)
    return Done()


def _finish(step: Step, message: FinishTask) -> AnyResult:
    command = commands.UpdateTask(
        namespace=message.namespace,
        workflow_id=message.workflow_id,
        reference=_reference(step, message) if message.task_id else message.reference,
        status=message.status,
        output=message.output,
        reason=message.reason,
    )
    return updates.update_task(step, command)


def _reference(step: Step, message: FinishTask) -> str:
    """Of the attempt, which is the newest of its reference unless it has ended."""
    hot = step.state.execution((message.namespace, message.workflow_id))
    sequence = None if hot is None else hot.by_task_id.get(message.task_id)
    if hot is None or sequence is None:
        refuse(Code.NOT_FOUND, "TASK_NOT_FOUND", f"there is no task {message.task_id!r}")
    attempt = hot.tasks[sequence]
    if attempt.status in TASK_TERMINAL:
        text = f"the task {message.task_id!r} has ended: {attempt.status.name}"
        refuse(Code.FAILED_PRECONDITION, "TASK_ENDED", text)
    return attempt.reference


def _terminate(step: Step, message: TerminateExecution) -> AnyResult:
    updates.require_going_forward(step, message.namespace, message.workflow_id)
    outcomes.end_badly(step, WorkflowStatus.TERMINATED, message.reason)
    return Done()


def _update(step: Step, message: UpdateVariables) -> AnyResult:
    added = message.variables
    hot = step.state.execution((message.namespace, message.workflow_id))
    if message.append and hot is not None:
        kept = fields_of(load(hot, hot.execution.variables) or b"{}")
        lists = {
            key: assemble_array([*elements_of(kept[key]), *elements_of(value)])
            for key, value in fields_of(added).items()
            if key in kept and kept[key][:1] == b"[" and value[:1] == b"["
        }
        added = merge_objects(added, assemble_object(lists.items()))
    return updates.update_variables(step, commands.UpdateVariables(message.namespace, message.workflow_id, added))
