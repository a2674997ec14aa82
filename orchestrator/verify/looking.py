"""What the cluster holds when nobody is at work: read with the public client, and from every node by itself."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from orchestrator.verify import rules
from orchestrator.verify.connecting import Connecting
from orchestrator.verify.history import Operation
from orchestrator.verify.judge import WORK, Judge, Seen, Violation
from orchestrator.verify.models import ABSENT, kind_of
from orchestrator.verify.work import mail, shown, value
from orchestrator_client import Client, DeadlineExceeded, Execution, NoLeader, NotFound, Overloaded

AT_ONCE = 32
REMEMBERED_MAX = 1_000
REPLICATED_S = 60.0
COMPARED_MAX = 100
_POLL_S = 0.1
JUDGE = "judge"
_VIEWS: dict[str, Callable[[Execution], Any]] = {"register": value, "mailbox": mail}

T = TypeVar("T")
S = TypeVar("S")


class Observer:
    """`ends_s`: for how long work may go on once all faults are over."""

    def __init__(self, client: Client, dice: random.Random, ends_s: float) -> None:
        self._client = client
        self._dice = dice
        self._ends_s = ends_s
        # Some of those that have been judged, to be looked at again at the end.
        self._remembered: list[Execution] = []
        self._judged = 0

    async def look(self, judge: Judge) -> tuple[dict[str, Seen], list[Violation]]:
        """Every object that is to be judged, once it has ended; a read of the judge's own is added to its history."""
        names = judge.objects
        seen = dict(zip(names, await _each(names, lambda name: self._look_at(judge, name)), strict=True))
        late = [Violation("progress", execution.workflow_id, f"is {execution.status} {self._ends_s:.0f} s after all "
                                                              "faults were over")
                for name in names for execution in seen[name].executions
                if _must_end(name) and not execution.status.ended]
        return seen, late

    async def _look_at(self, judge: Judge, name: str) -> Seen:
        kind = kind_of(name)
        if kind == "once":
            found = [each.workflow_id async for each in self._client.search(correlation_id=name)]
            executions = [await self._ended(workflow_id) for workflow_id in found]
            return Seen(tuple(each for each in executions if each is not None))
        began = time.monotonic()
        execution = await self._ended(name) if kind in WORK else await self._get(name)
        view: Callable[[Execution], Any] = _VIEWS.get(kind, shown)
        answer = ABSENT if execution is None else view(execution)
        judge.history.add(Operation(f"{JUDGE}-{name}", JUDGE, "read", name, None, began, time.monotonic(), "answered",
                                    answer))
        return Seen(() if execution is None else (execution,))

    async def _ended(self, workflow_id: str) -> Execution | None:
        """As it is, if it does not end."""
        try:
            return await self._client.wait(workflow_id, self._ends_s, tasks=True)
        except NotFound:
            return None
        except DeadlineExceeded:
            return await self._get(workflow_id)

    async def _get(self, workflow_id: str) -> Execution | None:
        try:
            return await self._client.get(workflow_id, tasks=True)
        except NotFound:
            return None

    # -- again, at the end -----------------------------------------------------------------------------------------

    async def keep_some(self, seen: Iterable[Seen]) -> None:
        """Remembers a sample of all that has ended, each as likely as any other; what is not in it is deleted."""
        unwanted = []
        for execution in (each for one in seen for each in one.executions):
            dropped: Execution | None = execution
            if execution.status.ended:
                self._judged += 1
                if len(self._remembered) < REMEMBERED_MAX:
                    self._remembered.append(execution)
                    dropped = None
                elif (place := self._dice.randrange(self._judged)) < REMEMBERED_MAX:
                    dropped, self._remembered[place] = self._remembered[place], execution
            if dropped is not None:
                unwanted.append(dropped.workflow_id)
        await self._client.operate("terminate_and_delete", unwanted, reason="judged", compensation="skip",
                                   effects="keep")

    async def look_again(self) -> list[Violation]:
        """What has ended is as it was."""
        found = await _each(self._remembered, lambda execution: self._get(execution.workflow_id))
        return [Violation("final", before.workflow_id, what)
                for before, after in zip(self._remembered, found, strict=True)
                for what in rules.wrong_replica("the cluster, at first,", before, "now", after)]


def _must_end(name: str) -> bool:
    kind = kind_of(name)
    return kind == "once" or kind in WORK


async def _each(given: Sequence[T], do: Callable[[T], Awaitable[S]]) -> list[S]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> S:
        async with gate:
            return await do(item)

    return await asyncio.gather(*map(one, given))


class Replicas:
    """Every node of a cluster by itself: all show the same of what does not change any more."""

    def __init__(self, connecting: Connecting, client: Client, dice: random.Random) -> None:
        self._connecting = connecting
        self._client = client
        self._dice = dice

    async def compare(self, names: Sequence[str]) -> list[Violation]:
        """By stale reads of some of these executions, when all nodes have applied what is committed."""
        chosen = self._dice.sample(list(names), min(COMPARED_MAX, len(names)))
        async with AsyncExitStack() as stack:
            status = await self._caught_up()
            if status is None:
                return [Violation("replicas", "", f"not all nodes had caught up {REPLICATED_S:.0f} s after all faults")]
            nodes = {name: await stack.enter_async_context(self._connecting.client(10.0, [address]))
                     for name, address in status.items()}
            found = {name: await _each(chosen, functools.partial(_stale, node)) for name, node in nodes.items()}
        first, *others = found
        return [Violation("replicas", workflow_id, what)
                for place, workflow_id in enumerate(chosen) for other in others
                for what in rules.wrong_replica(first, found[first][place], other, found[other][place])]

    async def _caught_up(self) -> dict[str, str] | None:
        """Addresses by name, once all members have applied what the leader had committed."""
        deadline = time.monotonic() + REPLICATED_S
        goal = 0
        while time.monotonic() < deadline:
            try:
                status = await self._client.status()
            except (NoLeader, Overloaded):
                continue
            goal = goal or max(node.commit_index for node in status.nodes)
            if status.leader and all(node.applied_index >= goal for node in status.nodes):
                return {node.name: node.grpc_address for node in status.nodes if node.grpc_address}
            await asyncio.sleep(_POLL_S)
        return None


async def _stale(node: Client, workflow_id: str) -> Execution | None:
    try:
        return await node.get(workflow_id, tasks=True, stale_ok=True)
    except NotFound:
        return None
