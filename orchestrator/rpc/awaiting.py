"""Waiting for an execution until it ends or is blocked, in itself or in a sub-workflow, and moving it on from there.

Looked at are the execution and those of its sub-workflows that run, each again only when it has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from orchestrator.engine import commands
from orchestrator.engine.commands import RequestIdentity
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import dump_string
from orchestrator.engine.model import TaskAttempt, TaskStatus, TimerKind
from orchestrator.engine.results import Done
from orchestrator.engine.state import State
from orchestrator.engine.transitions import TASK_TERMINAL, WORKFLOW_TERMINAL
from orchestrator.rpc import conductor_view, showing, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure, not_found
from orchestrator.rpc.requests import chosen, in_range, required
from orchestrator.rpc.slices import Slices, drawn
from orchestrator.rpc.whole import Whole, shown
from orchestrator_api.v1 import workflows_pb2 as pb

# A waiter that is told nothing must learn all the same that this node leads no longer.
LEADERSHIP_CHECK_SECONDS = 1.0
WAIT_UNTIL_MAX = 100
EXECUTIONS_MAX = 1_000
"""More sub-workflows that run are not looked at: what blocks there is not seen."""

_WAITS = (TaskType.WAIT, TaskType.HUMAN)
_STRATEGIES = {
    pb.RETURN_STRATEGY_UNSPECIFIED: pb.RETURN_STRATEGY_TARGET_WORKFLOW,
    pb.RETURN_STRATEGY_TARGET_WORKFLOW: pb.RETURN_STRATEGY_TARGET_WORKFLOW,
    pb.RETURN_STRATEGY_BLOCKING_WORKFLOW: pb.RETURN_STRATEGY_BLOCKING_WORKFLOW,
    pb.RETURN_STRATEGY_BLOCKING_TASK: pb.RETURN_STRATEGY_BLOCKING_TASK,
    pb.RETURN_STRATEGY_BLOCKING_TASK_INPUT: pb.RETURN_STRATEGY_BLOCKING_TASK_INPUT,
}


class Wanted(NamedTuple):
    """What is waited for, and how it is answered."""

    namespace: str
    workflow_id: str
    seconds: float
    until: tuple[str, ...]
    strategy: pb.ReturnStrategy.ValueType
    conductors: bool
    request_id: str = ""


def wanted(request: Any, namespace: str, workflow_id: str, seconds: float, request_id: str = "") -> Wanted:
    """Of a request to execute, await or signal. Raises RpcFailure for what breaks a rule of the wire."""
    until = tuple(getattr(request, "wait_until_tasks", ()))
    in_range("wait_until_tasks", len(until), 0, WAIT_UNTIL_MAX)
    for position, reference in enumerate(until):
        required(f"wait_until_tasks[{position}]", reference)
    strategy = chosen("return_strategy", _STRATEGIES, request.return_strategy)
    conductors = showing.is_conductors(request.view)
    return Wanted(namespace, workflow_id, seconds, until, strategy, conductors, request_id)


async def changed(backend: Backend, event: asyncio.Event) -> None:
    """Returns after a change. Raises NotLeader once this node leads no longer."""
    while True:
        try:
            async with asyncio.timeout(LEADERSHIP_CHECK_SECONDS):
                await event.wait()
        except TimeoutError:
            backend.require_leading()
        else:
            backend.require_leading()
            return


async def awaited(backend: Backend, asked: Wanted) -> pb.Awaited:
    """How far the execution has come, at the latest when the time is over.

    Raises RpcFailure if there is none, NotLeader and LostLeadership.
    """
    await backend.wait_applied(await backend.log.barrier())
    async with Family(backend, asked.namespace, asked.until) as family:
        try:
            async with asyncio.timeout(asked.seconds):
                while True:
                    family.changed.clear()
                    target = await _get(backend, asked)
                    if target.execution.status in WORKFLOW_TERMINAL:
                        return await _answer(backend, asked, target, None, timed_out=False)
                    place = await family.first(asked.workflow_id)
                    if place is not None and place.is_current:
                        return await _answer(backend, asked, target, place, timed_out=False)
                    await changed(backend, family.changed)
        except TimeoutError:
            return await _answer(backend, asked, await _get(backend, asked), None, timed_out=True)


async def signal(backend: Backend, update: commands.UpdateTask, identity: RequestIdentity | None) -> None:
    """Updates the first WAIT or HUMAN in progress, of the execution itself or else of one of its sub-workflows."""
    await backend.wait_applied(await backend.log.barrier())
    async with Family(backend, update.namespace, (), signalled=True) as family:
        place = await family.first(update.workflow_id)
    # Also if there is none: the request may be one that has been done before.
    command = commands.UpdateTask(
        update.namespace,
        update.workflow_id if place is None else place.held.execution.workflow_id,
        "" if place is None else place.attempt.reference,
        update.status,
        update.output,
        update.reason,
    )
    try:
        await backend.submit(command, Done, identity)
    except RpcFailure as failure:
        if place is None and failure.reason == "TASK_NOT_FOUND":
            message = f"the workflow {update.workflow_id!r} waits neither at a WAIT nor at a HUMAN"
            raise RpcFailure(failure.code, failure.reason, message, {"workflow": update.workflow_id}) from None
        raise


async def _get(backend: Backend, asked: Wanted) -> ExecutionState:
    held = await backend.execution(asked.namespace, asked.workflow_id)
    if held is None:
        raise not_found("workflow", asked.workflow_id)
    return held


# --- where it is blocked


class Place(NamedTuple):
    """A task at which an execution is blocked, or for which it was waited."""

    held: ExecutionState
    attempt: TaskAttempt

    @property
    def is_current(self) -> bool:
        """Others may have been read since."""
        return self.held.tasks.get(self.attempt.sequence) is self.attempt


class _Linked(asyncio.Event):
    """An event that sets another one, too."""

    def __init__(self, other: asyncio.Event) -> None:
        super().__init__()
        self._other = other

    def set(self) -> None:
        super().set()
        self._other.set()


class _Member:
    """One execution: what was found when it was last looked at."""

    def __init__(self, event: asyncio.Event, subscription: AsyncExitStack) -> None:
        self.event = event
        self.subscription = subscription
        self.place: Place | None = None
        self.children: list[tuple[int, str]] = []  # (sequence of its task, id), ascending


class Family:
    """An execution and its sub-workflows that run, while they are watched. `changed` is set after each change.

    `signalled`: those of an execution's own tasks come first, and a WAIT counts also if it has a time.
    """

    def __init__(
        self, backend: Backend, namespace: str, until: Sequence[str], *, signalled: bool = False
    ) -> None:
        self.changed = asyncio.Event()
        self._backend = backend
        self._namespace = namespace
        self._until = until
        self._signalled = signalled
        self._members: dict[str, _Member] = {}
        self._seen: dict[str, None] = {}

    async def __aenter__(self) -> Family:
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self._members.values():
            await member.subscription.aclose()

    async def first(self, workflow_id: str) -> Place | None:
        """The first place in the order in which the tasks were made; None if nothing is blocked."""
        self._seen = {}
        place = await self._first(workflow_id)
        if place is None:
            for name in [name for name in self._members if name not in self._seen]:
                await self._members.pop(name).subscription.aclose()
        return place

    async def _first(self, workflow_id: str) -> Place | None:
        self._seen[workflow_id] = None
        member = self._members.get(workflow_id) or await self._follow(workflow_id)
        if member.event.is_set():
            member.event.clear()
            await self._look(member, workflow_id)
        place = member.place
        own = place.attempt.sequence if place is not None else 0
        for sequence, child in member.children:
            if place is not None and (self._signalled or own < sequence):
                break
            if child not in self._seen and len(self._seen) < EXECUTIONS_MAX:
                found = await self._first(child)
                if found is not None:
                    return found
        return place

    async def _follow(self, workflow_id: str) -> _Member:
        event, subscription = _Linked(self.changed), AsyncExitStack()
        await subscription.enter_async_context(
            self._backend.changes.execution(self._namespace, workflow_id, event)
        )
        event.set()
        member = self._members[workflow_id] = _Member(event, subscription)
        return member

    async def _look(self, member: _Member, workflow_id: str) -> None:
        held = await self._backend.execution(self._namespace, workflow_id)
        member.place, member.children = None, []
        if held is None or held.execution.clearing:
            return
        state = self._backend.state()
        is_open = [held.tasks[sequence] for sequence in sorted(held.open)]
        member.children = [(one.sequence, one.child) for one in is_open if one.child and not one.compensates]
        blocking = next((one for one in is_open if self._blocks(state, one)), None)
        attempts = [*self._awaited(held), *([] if blocking is None else [blocking])]
        if attempts:
            member.place = Place(held, min(attempts, key=lambda attempt: attempt.sequence))

    def _blocks(self, state: State, attempt: TaskAttempt) -> bool:
        if attempt.type not in _WAITS or attempt.status is not TaskStatus.IN_PROGRESS or attempt.compensates:
            return False
        # What it was given is being looked at.
        if attempt.is_looked_at:
            return False
        return self._signalled or not any(_ends_by_itself(state, number) for number in attempt.timers)

    def _awaited(self, held: ExecutionState) -> list[TaskAttempt]:
        """Those of the tasks to wait for that have ended, and are not tried again."""
        newest = [held.latest(reference) or held.newest(reference) for reference in self._until]
        return [one for one in newest if one is not None and one.status in TASK_TERMINAL and not one.retried]


def _ends_by_itself(state: State, number: int) -> bool:
    timer = state.timers.get((number,))
    return timer is not None and timer.kind is TimerKind.WAIT


# --- what is answered


async def _answer(
    backend: Backend, asked: Wanted, target: ExecutionState, place: Place | None, *, timed_out: bool
) -> pb.Awaited:
    answer = pb.Awaited(
        return_strategy=asked.strategy,
        target_workflow_id=target.execution.workflow_id,
        target_status=views.WORKFLOW_STATUS[target.execution.status],
        timed_out=timed_out,
    )
    if asked.strategy in (pb.RETURN_STRATEGY_BLOCKING_TASK, pb.RETURN_STRATEGY_BLOCKING_TASK_INPUT):
        await _answer_task(backend, asked, answer, target, place)
        return answer
    is_blocking = asked.strategy == pb.RETURN_STRATEGY_BLOCKING_WORKFLOW and place is not None
    held = place.held if is_blocking and place is not None else target
    answer.workflow_id = held.execution.workflow_id
    try:
        await _answer_workflow(backend, asked, answer, target, held, include_tasks=True)
    except (conductor_view.TooLarge, RpcFailure) as error:
        if isinstance(error, RpcFailure) and error.reason != "ANSWER_TOO_LARGE":
            raise
        # It has been done: that it can't be shown as a whole is no failure.
        answer.tasks_left_out = True
        await _answer_workflow(backend, asked, answer, target, held, include_tasks=False)
    return answer


async def _answer_task(
    backend: Backend, asked: Wanted, answer: pb.Awaited, target: ExecutionState, place: Place | None
) -> None:
    about = _about(asked, answer, target)
    if place is None:
        if asked.conductors:
            answer.conductor_json = conductor_view.nothing_run(about)
        return
    held, attempt = place.held, place.attempt
    answer.workflow_id = held.execution.workflow_id
    if not asked.conductors:
        answer.task.CopyFrom(await showing.task(backend, held, attempt, conductors=False))
        return

    async def draw(whole: Whole) -> bytes:
        return conductor_view.task_run(backend.state(), held, attempt, about, whole)

    answer.conductor_json = await shown(backend, held, draw)


async def _answer_workflow(
    backend: Backend,
    asked: Wanted,
    answer: pb.Awaited,
    target: ExecutionState,
    held: ExecutionState,
    *,
    include_tasks: bool,
) -> None:
    if not asked.conductors:
        workflow = await showing.workflow(backend, held, include_tasks=include_tasks, conductors=False)
        answer.workflow.CopyFrom(workflow)
        return
    about = _about(asked, answer, target)

    async def draw(whole: Whole) -> bytes:
        def slices(held: ExecutionState) -> Slices[bytes]:
            most = showing.ANSWER_BYTES_MAX
            return conductor_view.workflow_run(
                backend.state(), held, about, include_tasks=include_tasks, bytes_max=most, whole=whole
            )

        return await drawn(backend, held, slices)

    answer.conductor_json = await shown(backend, held, draw)


def _about(asked: Wanted, answer: pb.Awaited, target: ExecutionState) -> list[tuple[str, bytes]]:
    strategy = pb.ReturnStrategy.Name(asked.strategy).removeprefix("RETURN_STRATEGY_")
    return [
        ("responseType", dump_string(strategy)),
        ("targetWorkflowId", dump_string(target.execution.workflow_id)),
        ("targetWorkflowStatus", dump_string(conductor_view.status_of(target.execution))),
        ("requestId", dump_string(asked.request_id) if asked.request_id else b""),
        ("signalTimeout", b"true" if answer.timed_out else b"false"),
    ]
