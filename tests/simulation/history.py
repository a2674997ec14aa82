"""What clients saw, and whether one cluster that never fails could have shown it to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator_client.execution import Execution, TaskStatus

OK, REFUSED, FAILED, UNKNOWN = "ok", "refused", "failed", "unknown"
"""Answered; refused by the state machine; certain to have no effect; may or may not have one."""

RUN_AGAIN = ("restart", "rerun")

Version = tuple[int, float]
"""(run, time of the last change): grows with every change of a workflow."""

ENDED = frozenset(TaskStatus) - {TaskStatus.SCHEDULED, TaskStatus.IN_PROGRESS, TaskStatus.UNKNOWN}


def version_of(execution: Execution) -> tuple[Version, str]:
    """The version, and the status if it has ended."""
    assert execution.update_time is not None
    return (execution.run, execution.update_time.timestamp()), str(execution.status) if execution.status.ended else ""


@dataclass
class Operation:
    """One call of one client."""

    client: str
    kind: str
    target: str  # the workflow's place, or what a start is known by
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
    # The newest time that anybody was shown, in seconds of the log since the epoch.
    newest_time: float = 0.0
    # What was seen of each workflow, in the order of seeing: (at, newest version so far, terminal status)
    _seen: dict[str, list[tuple[float, Version, str]]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _retried: dict[str, None] = field(default_factory=dict)
    _compensation_retried: dict[str, None] = field(default_factory=dict)
    _run_again: dict[str, None] = field(default_factory=dict)

    def invoke(self, client: str, kind: str, target: str, detail: Any = "") -> Operation:
        operation = Operation(client, kind, target, detail, self.now())
        self.operations.append(operation)
        if kind in ("retry", *RUN_AGAIN):
            self._retried[target] = None
        if kind in RUN_AGAIN:
            self._run_again[target] = None
        if kind == "retry_compensation":
            self._compensation_retried[target] = None
        return operation

    def complete(self, operation: Operation, outcome: str, answer: Any = None) -> None:
        operation.returned_at = self.now()
        operation.outcome, operation.answer = outcome, answer
        self.trace(operation.client, f"{operation.kind}({operation.target}, {operation.detail}) -> {outcome} {answer}")

    def started(self, operation: Operation, target: str) -> None:
        self._started.setdefault(target, operation.returned_at)

    def not_found(self, operation: Operation) -> None:
        """A linearizable read says that there is no such workflow."""
        if self._started.get(operation.target, float("inf")) < operation.invoked_at:
            self.violated(f"{operation.target} was acknowledged, and a later read does not find it: {operation}")

    def was_retried_by_hand(self, target: str) -> bool:
        """It, or its compensation."""
        return target in self._retried or target in self._compensation_retried

    def may_have_lost_tasks(self, target: str) -> bool:
        """Somebody wanted another run of it, which removes what it does again; or it was never started by a caller."""
        return target in self._run_again or (target not in self._started and bool(self._run_again))

    def was_retried(self, target: str) -> bool:
        """Somebody has asked for it: what had ended may go on."""
        return target in self._retried

    def read(self, operation: Operation, version: Version, terminal: str) -> None:
        """A read that began after the operation: nothing that was seen before may be unseen."""
        for at, newest, ended in reversed(self._seen.get(operation.target, ())):
            if at < operation.invoked_at:
                if version < newest:
                    self.violated(f"a read of {operation.target} saw {version}, an earlier one {newest}: {operation}")
                if ended and ended != terminal and not self.was_retried(operation.target):
                    self.violated(f"{operation.target} had ended {ended} and is {terminal or 'running'} now")
                break
        self.saw(operation.target, version, terminal)

    def saw(self, target: str, version: Version, terminal: str) -> None:
        """Somebody sees it now; whoever reads from now on must see no less."""
        seen = self._seen.setdefault(target, [])
        best = max(seen[-1][1], version) if seen else version
        seen.append((self.now(), best, terminal or (seen[-1][2] if seen else "")))
        self.newest_time = max(self.newest_time, version[1])


class View:
    """What one watcher is shown of one workflow: every sight is at least as new as the one before."""

    def __init__(self, history: History, operation: Operation) -> None:
        self.operation = operation
        self.sights = 0
        # The status in which the last sight shows it to have ended.
        self.terminal = ""
        self._history = history
        self._version: Version = (0, 0.0)
        self._tasks: dict[str, TaskStatus] = {}

    def show(self, execution: Execution) -> None:
        version, terminal = version_of(execution)
        target = self.operation.target
        if self.terminal:
            self._history.violated(f"{self.operation} was shown {execution.status} after {self.terminal}")
        if version < self._version:
            self._history.violated(f"{self.operation} was shown {version} after {self._version}")
        if not self.sights:
            # The first one is read after the call; the others are told as they come.
            self._history.read(self.operation, version, terminal)
        else:
            self._history.saw(target, version, terminal)
        self._show_tasks(execution)
        self.sights += 1
        self._version, self.terminal = version, terminal

    def _show_tasks(self, execution: Execution) -> None:
        shown = {attempt.task_id: attempt.status for attempt in execution.tasks}
        for task_id, before in self._tasks.items():
            after = shown.get(task_id)
            if after is None:
                self._history.violated(f"{self.operation} is not shown {task_id} any more, which was {before}")
                continue
            goes_on = before in ENDED and after not in (before, TaskStatus.COMPLETED_WITH_ERRORS)
            if goes_on and not self._history.was_retried(self.operation.target):
                self._history.violated(f"{self.operation} was shown {task_id} as {before} and then as {after}")
        self._tasks = shown


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


def register_model(state: str, operation: Operation) -> tuple[bool, str]:
    """A value that is written and read."""
    return (True, operation.detail) if operation.kind == "write" else (operation.answer == state, state)


def _steered(operation: Operation, *, possible: bool, state: str, after: str) -> tuple[bool, str]:
    if operation.outcome == REFUSED:
        return not possible, state
    return (True, after if possible else state) if operation.outcome == UNKNOWN else (possible, after)
