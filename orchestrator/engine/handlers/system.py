"""The system's own commands."""

from __future__ import annotations

from orchestrator.engine import dedup, origins
from orchestrator.engine.commands import Checkpoint, Continue, RaiseBehaviour
from orchestrator.engine.errors import refuse
from orchestrator.engine.messages import Message, ScheduleDue
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import schedules, streams


def go_on(step: Step, command: Continue) -> AnyResult:
    return Done()


def raise_behaviour(step: Step, command: RaiseBehaviour) -> AnyResult:
    meta = step.state.meta
    if command.level < meta.behaviour_level:
        message = f"the behaviour level is {meta.behaviour_level} and never goes back"
        refuse(Code.FAILED_PRECONDITION, "BEHAVIOUR_LEVEL_LOWER", message)
    step.meta.behaviour_level = command.level
    streams.follow_all(step)
    return Done()


def checkpoint(step: Step, command: Checkpoint) -> AnyResult:
    """The machine adds what it knows and the step does not: the chain hash."""
    step.meta.checkpoint_index = step.ids.index
    return Done()


def take_message(step: Step, number: int) -> AnyResult:
    step.write(Table.MESSAGE, (number,), None)
    return Done()


def drop_message(step: Step, number: int, message: Message, result: AnyResult) -> AnyResult:
    """Its own step has failed with this result."""
    take_message(step, number)
    origins.told(step, message, result)
    if isinstance(message, ScheduleDue):
        schedules.broken(step, message, result)
    return Done()


def drop_expired_requests(step: Step, come: int) -> AnyResult:
    dedup.drop_expired(step, come)
    return Done()
