"""What clients saw, and whether one cluster that never fails could have shown it to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OK, REFUSED, FAILED, UNKNOWN = "ok", "refused", "failed", "unknown"
"""Answered; refused by the state machine; certain to have no effect; may or may not have one."""


@dataclass
class Operation:
    """One call of one client."""

    client: str
    kind: str
    target: str  # the workflow's id, or what a start is known by
    detail: Any
    invoked_at: float
    returned_at: float = float("inf")
    outcome: str = UNKNOWN
    answer: Any = None

    @property
    def may_have_happened(self) -> bool:
        return self.outcome in (OK, UNKNOWN)

    def __str__(self) -> str:
        return f"{self.client} {self.kind}({self.target}, {self.detail}) -> {self.outcome} {self.answer}"


@dataclass
class History:
    """All operations of a run, in the order of their invocations."""

    now: Callable[[], float]
    trace: Callable[[str, str], None]
    violated: Callable[[str], None]
    operations: list[Operation] = field(default_factory=list)
    # Reads that returned, by workflow, in the order of their returns: (at, newest version so far, terminal status)
    _seen: dict[str, list[tuple[float, Any, str]]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _retried: dict[str, None] = field(default_factory=dict)

    def invoke(self, client: str, kind: str, target: str, detail: Any = "") -> Operation:
        operation = Operation(client, kind, target, detail, self.now())
        self.operations.append(operation)
        if kind == "retry":
            self._retried[target] = None
        return operation

    def complete(self, operation: Operation, outcome: str, answer: Any = None) -> None:
        operation.returned_at = self.now()
        operation.outcome, operation.answer = outcome, answer
        self.trace(operation.client, f"{operation.kind}({operation.target}, {operation.detail}) -> {outcome} {answer}")

    def started(self, operation: Operation, workflow_id: str) -> None:
        self._started.setdefault(workflow_id, operation.returned_at)

    def not_found(self, operation: Operation) -> None:
        """A linearizable read says that there is no such workflow."""
        if self._started.get(operation.target, float("inf")) < operation.invoked_at:
            self.violated(f"{operation.target} was acknowledged, and a later read does not find it: {operation}")

    def read(self, operation: Operation, version: Any, terminal: str) -> None:
        """A linearizable read: nothing that an earlier one saw may be unseen."""
        seen = self._seen.setdefault(operation.target, [])
        for at, newest, ended in reversed(seen):
            if at < operation.invoked_at:
                if version < newest:
                    self.violated(f"a read of {operation.target} saw {version}, an earlier one {newest}: {operation}")
                if ended and ended != terminal and operation.target not in self._retried:
                    self.violated(f"{operation.target} had ended {ended} and is {terminal or 'running'} now")
                break
        best = max(seen[-1][1], version) if seen else version
        seen.append((operation.returned_at, best, terminal or (seen[-1][2] if seen else "")))


# -- linearizability -----------------------------------------------------------------------------------------------

Model = Callable[[Any, Operation], tuple[bool, Any]]
"""(state, operation) -> whether its answer is possible there, and the state after it."""


def linearizable(operations: list[Operation], initial: Any, model: Model) -> bool:
    """Wing and Gong's search, with Lowe's memory of what was tried. States must be hashable.

    An operation whose outcome is unknown may take effect at any time after its invocation, or never.
    """
    calls = sorted(operations, key=lambda operation: operation.invoked_at)
    certain = sum(1 << at for at, call in enumerate(calls) if call.outcome != UNKNOWN)
    tried: set[tuple[int, Any]] = set()
    # What is done, as bits; below the second number all certain ones are.
    waiting: list[tuple[int, int, Any]] = [(0, 0, initial)]
    while waiting:
        done, first, state = waiting.pop()
        if certain & done == certain:
            return True
        if (done, state) in tried:
            continue
        tried.add((done, state))
        while first < len(calls) and (done >> first & 1):
            first += 1
        # Whoever had not been invoked when the first of the rest returned can't be the next.
        limit = float("inf")
        for at in range(first, len(calls)):
            call = calls[at]
            if call.invoked_at > limit:
                break
            if done >> at & 1:
                continue
            if call.outcome != UNKNOWN:
                limit = min(limit, call.returned_at)
            possible, after = model(state, call)
            if possible:
                waiting.append((done | 1 << at, first, after))
    return False


def switch_model(state: str, operation: Operation) -> tuple[bool, str]:
    """A workflow that waits for ever: paused, resumed, terminated and read."""
    ended = state == "TERMINATED"
    match operation.kind:
        case "get":
            return operation.answer == state, state
        case "pause":
            return _steered(operation, possible=not ended, state=state, after="PAUSED")
        case "resume":
            return _steered(operation, possible=state == "PAUSED", state=state, after="RUNNING")
        case "terminate":
            return _steered(operation, possible=True, state=state, after="TERMINATED")
    raise ValueError(operation.kind)


def _steered(operation: Operation, *, possible: bool, state: str, after: str) -> tuple[bool, str]:
    if operation.outcome == REFUSED:
        return not possible, state
    return (True, after if possible else state) if operation.outcome == UNKNOWN else (possible, after)
