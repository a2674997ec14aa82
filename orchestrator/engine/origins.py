"""Who sent a message is told what came of it, in the message's own step."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.engine.messages import WITH_ORIGIN, Message, OriginKind, StartAnswered, StartExecution
from orchestrator.engine.results import AnyResult, Rejected, Started
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import events, schedules


def _nobody(step: Step, message: Message, result: AnyResult) -> None:
    pass


def _schedule(step: Step, message: Message, result: AnyResult) -> None:
    assert isinstance(message, StartExecution)
    schedules.started(step, message, result)


def _task(step: Step, message: Message, result: AnyResult) -> None:
    assert isinstance(message, StartExecution)
    origin = message.origin
    if isinstance(result, Rejected):
        said = StartAnswered(
            message.namespace, origin.name, origin.number, message.workflow_id, result.message, result.reason
        )
    else:
        assert isinstance(result, Started)
        said = StartAnswered(message.namespace, origin.name, origin.number, result.workflow_id)
    step.send(said)


TOLD: dict[OriginKind, Callable[[Step, Message, AnyResult], None]] = {
    OriginKind.NOBODY: _nobody,
    OriginKind.SCHEDULE: _schedule,
    OriginKind.EVENT: events.done,
    OriginKind.TASK: _task,
}


def told(step: Step, message: Message, result: AnyResult) -> None:
    """`result` is a Rejected if the message had no effect. Of messages without an origin nobody is told."""
    if isinstance(message, WITH_ORIGIN):
        TOLD[message.origin.kind](step, message, result)
