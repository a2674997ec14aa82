"""Who sent a message is told what came of it, in the message's own step."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.engine.messages import WITH_ORIGIN, Message, OriginKind, StartExecution
from orchestrator.engine.results import AnyResult
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import events, schedules


def _nobody(step: Step, message: Message, result: AnyResult) -> None:
    pass


def _schedule(step: Step, message: Message, result: AnyResult) -> None:
    assert isinstance(message, StartExecution)
    schedules.started(step, message, result)


TOLD: dict[OriginKind, Callable[[Step, Message, AnyResult], None]] = {
    OriginKind.NOBODY: _nobody,
    OriginKind.SCHEDULE: _schedule,
    OriginKind.EVENT: events.done,
}


def told(step: Step, message: Message, result: AnyResult) -> None:
    """`result` is a Rejected if the message had no effect. Of messages without an origin nobody is told."""
    if isinstance(message, WITH_ORIGIN):
        TOLD[message.origin.kind](step, message, result)
