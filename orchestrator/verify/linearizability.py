"""Whether the operations on one object can have taken effect one after the other, each between its call and its answer.

The search is that of Wing and Gong (Testing and Verifying Concurrent Objects, JPDC 1993), with the configurations that
were seen remembered, as Lowe proposed (Testing for Linearizability, CCPE 2017) and Porcupine does. Linearizability is
local (Herlihy and Wing, TOPLAS 1990): a history is linearizable if that of each object by itself is.

An operation without an answer may take effect at any time after its call, or never. One that certainly had no effect
is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.verify.history import Operation

State = Hashable
# The states in which the object may be after the operation with its answer; none if it can't have been answered so.
# Of an operation that `is_known` is not true of there is no answer to fit.
Successors = Callable[[State, Operation], Iterable[State]]

CONFIGURATIONS_MAX = 100_000


@dataclass(frozen=True)
class Verdict:
    """`undecided`: there were more configurations than one may look at."""

    result: Literal["linearizable", "violated", "undecided"]
    # The longest order that was found, and those that fit nowhere behind it; for who looks into a violation.
    order: Sequence[Operation] = ()
    left: Sequence[Operation] = ()


def check(operations: Iterable[Operation], initial: State, successors: Successors, *,
          configurations_max: int = CONFIGURATIONS_MAX) -> Verdict:
    """Depth first, over configurations: which operations have taken effect, and the state they have led to."""
    history = sorted((each for each in operations if each.outcome != "none"), key=lambda each: each.invoked)
    needed = sum(1 << place for place, each in enumerate(history) if each.is_known)
    seen = {(0, initial)}
    stack: list[tuple[int, State, Path]] = [(0, initial, NOWHERE)]
    longest = NOWHERE
    while stack:
        done, state, path = stack.pop()
        if done & needed == needed:
            return Verdict("linearizable")
        if path.length > longest.length:
            longest = path
        for place in _next(history, done):
            for state_after in successors(state, history[place]):
                configuration = (done | 1 << place, state_after)
                if configuration in seen:
                    continue
                if len(seen) >= configurations_max:
                    return Verdict("undecided")
                seen.add(configuration)
                stack.append((*configuration, Path(path.length + 1, place, path)))
    taken = longest.places()
    left = [each for place, each in enumerate(history) if place not in taken]
    return Verdict("violated", [history[place] for place in taken], left)


@dataclass(frozen=True)
class Path:
    """An order of operations, by its end."""

    length: int
    place: int
    before: Path | None

    def places(self) -> list[int]:
        found: list[int] = []
        at: Path | None = self
        while at is not None and at.length:
            found.append(at.place)
            at = at.before
        return found[::-1]


NOWHERE = Path(0, -1, None)


def _next(history: Sequence[Operation], done: int) -> list[int]:
    """Those that may take effect next: they were called before any of the others that are left had been answered.

    The last is tried first: of those with an answer the one that was called first, and then those without.
    """
    found = []
    first_answer = float("inf")
    for place, operation in enumerate(history):
        if operation.invoked > first_answer:
            break
        if not done >> place & 1:
            found.append(place)
            if operation.is_known and operation.completed is not None:
                first_answer = min(first_answer, operation.completed)
    return sorted(found, key=lambda place: (history[place].is_known, -place))
