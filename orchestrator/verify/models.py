"""What one client alone would see of each kind of object: the specifications that histories are checked against.

An answer is a JSON document: {"is": "made"} and the like, for a read what it showed. States are tuples, None where
there is no such execution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.verify.history import Operation
from orchestrator.verify.linearizability import State, Successors

MADE, TAKEN, DONE, ABSENT = {"is": "made"}, {"is": "taken"}, {"is": "done"}, {"is": "absent"}
ENDED = {"is": "refused", "reason": "WORKFLOW_ENDED"}
NOT_PAUSED = {"is": "refused", "reason": "WORKFLOW_NOT_PAUSED"}
MAILBOX_SIGNALS = 6
# A probe is a read at one node, which may refuse it; a wait shows the end.
READS = frozenset({"read", "probe", "wait"})

# The answer, and the state afterwards.
Step = tuple[dict[str, Any], State]


def _deterministic(apply: Callable[[Any, str, Any], Step]) -> Successors:
    def successors(state: State, operation: Operation) -> Iterable[State]:
        answer, after = apply(state, operation.kind, operation.argument)
        if not operation.is_known or answer == operation.answer:
            yield after

    return successors


def register(state: Any, kind: str, argument: Any) -> Step:
    """An execution that waits, with one variable that clients write and read: (status, value)."""
    if kind == "start":
        return (TAKEN, state) if state else (MADE, ("RUNNING", None))
    if not state:
        return ABSENT, state
    status, value = state
    if kind in READS:
        return {"is": "shown", "status": status, "value": value}, state
    if kind == "terminate":  # again is as good as once
        return DONE, ("TERMINATED", value)
    if status == "TERMINATED":
        return ENDED, state
    if kind == "write":
        return DONE, (status, argument)
    if kind == "pause":
        return DONE, ("PAUSED", value)
    if kind == "resume":
        return (DONE, ("RUNNING", value)) if status == "PAUSED" else (NOT_PAUSED, state)
    raise ValueError(f"a register knows no {kind!r}")


def mailbox(state: Any, kind: str, argument: Any) -> Step:
    """An execution that takes so many signals, one after the other, and then is complete: (what it took, ...)."""
    if kind == "start":
        return (TAKEN, state) if state is not None else (MADE, ())
    if state is None:
        return ABSENT, state
    is_over = len(state) == MAILBOX_SIGNALS
    if kind in READS:
        return {"is": "shown", "status": "COMPLETED" if is_over else "RUNNING", "taken": list(state)}, state
    if kind == "signal":
        return (ENDED, state) if is_over else (DONE, (*state, argument))
    raise ValueError(f"a mailbox knows no {kind!r}")


def once(state: State, operation: Operation) -> Iterable[State]:
    """Starts with one idempotency key: all are answered with the same execution, which the first one has made."""
    if operation.kind != "start":
        raise ValueError(f"a key knows no {operation.kind!r}")
    if not operation.is_known:
        # Which execution it made, if it made one, the answer of another start says.
        yield state if state is not None else "?"
        return
    told = operation.answer["id"]
    if operation.answer["existing"] is (state is not None) and state in (None, "?", told):
        yield told


_ENDS = ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED")


def work(state: Any, operation: Operation) -> Iterable[State]:
    """An execution that goes on by itself: (phase, output), where RUNNING may become a later phase at any time.

    What it must come to is not said here but by the rules of its kind; what has ended stays so, unless it is retried.
    """
    kind, answer, known = operation.kind, operation.answer, operation.is_known
    if kind == "start":
        if not known or answer == (TAKEN if state else MADE):
            yield state or ("RUNNING", None)
    elif kind in READS:
        if not state:
            yield from [state] if not known or answer == ABSENT else []
        elif not known:
            yield state
        elif answer != ABSENT and _may_become(state, seen := (answer["status"], answer["output"])):
            yield seen
    elif kind == "terminate":
        yield from _terminated(state, answer, known)
    elif kind == "retry":
        # Refused is what has not failed (yet); and what is retried may have ended since it was last seen.
        if not known or answer == DONE:
            yield from [("RUNNING", None)] if state and state[0] in ("RUNNING", "FAILED", "TIMED_OUT") else [state]
        else:
            yield state
    else:
        raise ValueError(f"work knows no {kind!r}")


def _may_become(state: Any, seen: tuple[str, str | None]) -> bool:
    if state[0] in _ENDS:
        return bool(state == seen)
    later = {"RUNNING": ("RUNNING", "COMPENSATING", *_ENDS), "COMPENSATING": ("COMPENSATING", *_ENDS)}
    return seen[0] in later[state[0]]


def _terminated(state: Any, answer: Any, known: bool) -> Iterable[State]:
    """It may have ended otherwise before that was seen: then it is refused."""
    if known and answer == DONE:
        if state and (state[0] in ("RUNNING", "COMPENSATING") or state[0] == "TERMINATED"):
            yield state if state[0] == "TERMINATED" else ("COMPENSATING", None)
    elif known and answer.get("is") == "refused":
        if state:
            yield state
    elif known and answer == ABSENT:
        if not state:
            yield state
    else:
        yield state
        if state and state[0] == "RUNNING":
            yield "COMPENSATING", None


MODELS: dict[str, Successors] = {
    "register": _deterministic(register), "mailbox": _deterministic(mailbox), "once": once, "work": work,
}


def kind_of(subject: str) -> str:
    """Which model an object follows: the last but one part of its id, PREFIX-KIND-NUMBER."""
    return subject.rsplit("-", 2)[-2]


def model_of(subject: str) -> Successors:
    return MODELS.get(kind_of(subject), work)
