"""Runs one step: handler, walk, matching, and then all of it becomes real or none of it.

Whatever a step raises becomes a returned rejection, and nothing has changed; but for a process that is out of memory,
stack or disk, which must stop rather than differ from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from orchestrator.engine import dedup, gate, idempotency, leases, walk
from orchestrator.engine.commands import RequestIdentity
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.errors import Refused
from orchestrator.engine.identifiers import Identifiers
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.engine.state import Changed, State
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import events, schedules

T = TypeVar("T")

_PACKAGE = __name__.rpartition(".")[0]


class StepRun:
    """What came of a step."""

    __slots__ = ("effects", "result", "rows")

    def __init__(self, result: AnyResult, effects: list[AnyEffect], rows: int) -> None:
        self.result = result
        self.effects = effects
        self.rows = rows  # how many it changed


def run(
    state: State,
    ids: Identifiers,
    changed: Changed,
    work: Callable[[Step, T], AnyResult],
    given: T,
    identity: RequestIdentity | None = None,
) -> StepRun:
    """One step; rows that it changes are noted in `changed`. A request that was done before is answered as before."""
    step = Step(state, ids)
    try:
        if identity is not None:
            remembered = dedup.recall(state, identity)
            if remembered is not None:
                return StepRun(remembered, [], 0)
    except Refused as refused:
        return StepRun(refused.rejected, [], 0)
    try:
        result = work(step, given)
        if not isinstance(result, Rejected):
            _finish(step)
            if identity is not None:
                dedup.remember(step, identity, result)
            return StepRun(result, step.effects, step.commit(changed))
    except (MemoryError, RecursionError, OSError):
        raise
    except Refused as refused:
        result = refused.rejected
    except Exception as error:  # noqa: BLE001  # an error of ours must not stop every replica at once
        result = _internal(error)
    step.discard()
    if identity is not None:
        dedup.remember(step, identity, result)
    return StepRun(result, [], step.commit(changed))


def _finish(step: Step) -> None:
    if step.key is not None:
        gate.enter(step)
        walk.drain(step)
        gate.leave(step)
        idempotency.follow(step)
        schedules.follow_again(step)
    leases.match(step)
    if step.told or step.has_new_status:
        events.tell_changes(step)
    step.write_header()


def _internal(error: Exception) -> Rejected:
    # Type and site are the same on every node; the words of the exception may not be.
    kind, site = type(error).__name__, _site(error.__traceback__)
    metadata = (("site", site), ("type", kind))
    return Rejected(Code.INTERNAL, "INTERNAL", f"{kind} in {site}: nothing has changed", metadata)


def _site(traceback: TracebackType | None) -> str:
    """The innermost function of the engine on the way to the error."""
    site = "unknown"
    while traceback is not None:
        frame = traceback.tb_frame
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(_PACKAGE):
            site = f"{module}.{frame.f_code.co_name}"
        traceback = traceback.tb_next
    return site
