"""One rehearsal: starts the workflow on a stage of its own, and plays everybody else, until nothing goes on.

What workers and other systems would do is answered by mocks; scripts and queries are evaluated as they always are,
outside of this process; time passes from one event to the next. A task without a mock stays as it is. Time does not
pass for a timeout alone: a mock that takes longer than a task may is how to see one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from heapq import heappop, heappush
from typing import NamedTuple

from orchestrator.engine import queries, system
from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import AnyCommand, CompleteTask, ExpireDeadline, FireTimers, StartWorkflow, UpdateTask
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import ExecutionKey, TaskAttempt, TaskStatus, TimerKind
from orchestrator.engine.resident import Ready
from orchestrator.engine.results import Rejected, Started
from orchestrator.engine.state import State
from orchestrator.integrations.work import CALLS, Outcome, Work
from orchestrator.rehearsal.mocks import Mock, Mocks
from orchestrator.rehearsal.stage import TASKS_MAX, RehearsalTooLarge, Stage

Evaluate = Callable[[Work], Awaitable[Outcome]]
"""Evaluates a script, a query or a schema, outside of this process."""

# These end what takes too long; all others let something go on.
_TIMEOUTS = frozenset((TimerKind.TASK_TIMEOUT, TimerKind.TASK_TOTAL_TIMEOUT, TimerKind.WORKFLOW_TIMEOUT))


class Rehearsed(NamedTuple):
    """What came of it. `executions`: the workflow's own first, then its sub-workflows, in the order of their start."""

    state: State
    executions: list[ExecutionState]
    without_mock: list[str]  # references of tasks that wait for one; of a sub-workflow's behind its own: `sub/work`
    unused: list[str]  # references of mocks that no task has taken, likewise


class _Cast(NamedTuple):
    """What is known of an execution that is played."""

    mocks: Mocks
    path: str


class Rehearsal:
    """Begins at `now_ms` with the definitions that are registered in `registered`, whose state it leaves alone."""

    def __init__(self, registered: State, now_ms: int, evaluate: Evaluate) -> None:
        self._stage = Stage(registered, now_ms)
        self._evaluate = evaluate
        self._casts: dict[ExecutionKey, _Cast] = {}
        self._seen: dict[tuple[ExecutionKey, int], int] = {}  # the last turn of an attempt that was seen to
        self._due: list[tuple[int, int, Callable[[], Awaitable[None]]]] = []
        self._events = 0

    async def register(self, command: AnyCommand) -> Rejected | None:
        """Definitions that are there in this rehearsal only."""
        result = await self._stage.do(command)
        return result if isinstance(result, Rejected) else None

    async def run(self, start: StartWorkflow, mocks: Mocks) -> Rehearsed | Rejected:
        """Raises RehearsalTooLarge and RehearsalBroken."""
        result = await self._stage.do(start)
        if not isinstance(result, Started):
            assert isinstance(result, Rejected)
            return result
        root = (start.namespace, result.workflow_id)
        self._casts[root] = _Cast(mocks, "")
        while True:
            await self._attend()
            if self._stage.changed:
                continue
            if not await self._pass_time():
                return self._rehearsed(mocks)

    # --- what there is to do

    async def _attend(self) -> None:
        """Sees to each attempt whose turn has come."""
        changed, self._stage.changed = self._stage.changed, {}
        for key in changed:
            hot = self._hot(key)
            if key in self._casts or self._is_child(key, hot):
                for sequence in sorted(hot.open):
                    if sequence in hot.open:
                        await self._attend_to(key, hot, hot.tasks[sequence])
        if sum(len(self._hot(key).tasks) for key in self._casts) > TASKS_MAX:
            raise RehearsalTooLarge("tasks", TASKS_MAX)

    def _is_child(self, key: ExecutionKey, hot: ExecutionState) -> bool:
        """Whether it is a sub-workflow of what is played; what was started and forgotten is not."""
        parent = (key[0], hot.execution.parent)
        if parent not in self._casts:
            return False
        cast, attempt = self._casts[parent], self._hot(parent).tasks[hot.execution.parent_sequence]
        self._casts[key] = _Cast(cast.mocks.of_child(attempt), f"{cast.path}{attempt.reference}/")
        return True

    async def _attend_to(self, key: ExecutionKey, hot: ExecutionState, attempt: TaskAttempt) -> None:
        row = self._stage.state.ready.get((attempt.ready,))
        if row is None and not _is_told(attempt):
            return
        turn = 0 if row is None else row.number
        if self._seen.get((key, attempt.sequence)) == turn:
            return
        self._seen[key, attempt.sequence] = turn
        if row is not None and not self._is_mocked(attempt, row):
            await self._evaluate_for(key, attempt, row)
            return
        mock = self._casts[key].mocks.next_for(attempt)
        if mock is None and row is not None and _is_evaluated(row):
            await self._evaluate_for(key, attempt, row)
        elif mock is not None and row is not None:
            if 0 < row.poll_timeout_ms <= mock.queue_wait_ms:
                self._later(row.poll_timeout_ms, partial(self._expire, DeadlineKind.POLL, row.number))
            self._later(mock.queue_wait_ms, partial(self._begin, key, attempt, row.number, mock))
        elif mock is not None:
            self._later(mock.queue_wait_ms + mock.execution_ms, partial(self._update, key, attempt, mock))

    def _is_mocked(self, attempt: TaskAttempt, row: Ready) -> bool:
        """Whether a mock may stand in for it: conditions of SWITCH and DO_WHILE are always evaluated, and
        schemas always looked at."""
        if row.name == system.SCHEMA:
            return False
        return not _is_evaluated(row) or attempt.type not in (TaskType.SWITCH, "DECISION", TaskType.DO_WHILE)

    # --- what is played

    async def _begin(self, key: ExecutionKey, attempt: TaskAttempt, number: int, mock: Mock) -> None:
        """Somebody executes the attempt from now on."""
        lease = await self._stage.lease(number)
        if lease is not None:
            self._await(key, attempt, lease.token, mock, lease.response_timeout_ms)

    def _await(self, key: ExecutionKey, attempt: TaskAttempt, token: int, mock: Mock, response_ms: int) -> None:
        if 0 < response_ms <= mock.execution_ms:
            self._later(response_ms, partial(self._expire, DeadlineKind.RESPONSE, token))
        self._later(mock.execution_ms, partial(self._report, key, attempt, token, mock))

    async def _report(self, key: ExecutionKey, attempt: TaskAttempt, token: int, mock: Mock) -> None:
        """What executes the attempt says what came of it."""
        if mock.status is not TaskStatus.IN_PROGRESS:
            await self._complete(key, attempt, token, mock)
            return
        await self._stage.do(UpdateTask(*key, attempt.reference, mock.status, mock.output))
        lease = self._stage.state.leases.get((token,))
        following = self._casts[key].mocks.next_for(attempt)
        if following is not None and lease is not None:
            self._await(key, attempt, token, following, lease.response_timeout_ms)

    async def _complete(self, key: ExecutionKey, attempt: TaskAttempt, token: int, mock: Mock) -> None:
        told = CompleteTask(
            *key, attempt.task_id, token, mock.status, mock.output, mock.reason, mock.error_code
        )
        await self._stage.do(told)

    async def _update(self, key: ExecutionKey, attempt: TaskAttempt, mock: Mock) -> None:
        """Somebody says of an attempt that nobody executes how it goes on: a WAIT, a HUMAN."""
        await self._stage.do(UpdateTask(*key, attempt.reference, mock.status, mock.output, mock.reason))
        if mock.status is TaskStatus.IN_PROGRESS:
            following = self._casts[key].mocks.next_for(attempt)
            if following is not None:
                after_ms = following.queue_wait_ms + following.execution_ms
                self._later(after_ms, partial(self._update, key, attempt, following))

    async def _expire(self, kind: DeadlineKind, number: int) -> None:
        await self._stage.do(ExpireDeadline(kind, number))

    async def _evaluate_for(self, key: ExecutionKey, attempt: TaskAttempt, row: Ready) -> None:
        """As a node does it, and in no time."""
        lease = await self._stage.lease(row.number)
        view = None if lease is None else queries.assignment_view(self._stage.state, self._hot(key), lease.token)
        if view is None:
            return
        outcome = await self._evaluate(
            Work(
                kind=view.kind,
                namespace=view.namespace,
                workflow_id=view.workflow_id,
                task_id=view.task_id,
                name=view.name,
                reference=view.reference,
                input=view.input or b"{}",
                parameters=view.parameters,
                idempotency_key=view.idempotency_key,
                fencing_token=view.fencing_token,
                timeout_ms=view.timeout_ms,
            )
        )
        said = Mock(TaskStatus[outcome.ended.value], outcome.output, outcome.reason, outcome.error_code)
        await self._complete(key, attempt, view.fencing_token, said)

    # --- time

    def _later(self, after_ms: int, action: Callable[[], Awaitable[None]]) -> None:
        self._events += 1
        heappush(self._due, (self._stage.now_ms + after_ms, self._events, action))

    async def _pass_time(self) -> bool:
        """Goes on to what happens next, a timeout before what comes at the same time; False if nothing does."""
        timer = self._stage.state.next_timer()
        if not self._due and (timer is None or not self._is_awaited()):
            return False
        if timer is not None and (not self._due or timer.fire_ms <= self._due[0][0]):
            self._stage.now_ms = max(self._stage.now_ms, timer.fire_ms)
            await self._stage.do(FireTimers())
        else:
            due_ms, _, action = heappop(self._due)
            self._stage.now_ms = max(self._stage.now_ms, due_ms)
            await action()
        return True

    def _is_awaited(self) -> bool:
        """Whether a timer lets something go on in what is played."""
        return any(
            timer.kind not in _TIMEOUTS and (timer.namespace, timer.workflow_id) in self._casts
            for timer in self._stage.state.timers.values()
        )

    # --- the end

    def _hot(self, key: ExecutionKey) -> ExecutionState:
        hot = self._stage.state.execution(key)
        assert hot is not None
        return hot

    def _rehearsed(self, mocks: Mocks) -> Rehearsed:
        executions = [self._hot(key) for key in self._casts]
        waiting = [
            f"{cast.path}{hot.tasks[sequence].reference}"
            for cast, hot in zip(self._casts.values(), executions, strict=True)
            for sequence in sorted(hot.open)
            if _is_told(hot.tasks[sequence]) or hot.tasks[sequence].ready or hot.tasks[sequence].fencing_token
        ]
        return Rehearsed(self._stage.state, executions, waiting, list(mocks.left()))


def _is_told(attempt: TaskAttempt) -> bool:
    """Whether somebody has to say how it ended, or may, before a timer does."""
    return attempt.status is TaskStatus.IN_PROGRESS and (bool(attempt.signal) or attempt.type == TaskType.WAIT)


def _is_evaluated(row: Ready) -> bool:
    """Whether a node evaluates it, in a process of its own: of everything else only mocks say what comes of it."""
    return system.is_queue(row.name) and row.name not in CALLS
