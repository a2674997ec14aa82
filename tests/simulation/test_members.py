"""One node becomes three, five, and three again, under callers and in virtual time; nodes are drained on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from orchestrator_client import errors
from tests.simulation.administrator import Administrator
from tests.simulation.cluster import Member
from tests.simulation.failover import Callers, Drive, QuietCluster
from tests.simulation.run import repeatable, simulating

CALLED_SECONDS = 1.0
CHECKS_AT_ONCE = 50


class Changes(Drive):
    """What an operator does, one after the other, while callers call."""

    def __init__(self, cluster: QuietCluster) -> None:
        super().__init__(cluster)
        self.dice = cluster.dice("changes")
        self.callers = self.started()
        self.administrator: Administrator = self.do(lambda: Administrator(cluster))

    def begun(self, what: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self.do(lambda: self.cluster.loop.create_task(what))
        return task

    def grow(self, size: int) -> None:
        while len(self.cluster.members) < size:
            member = self.do(self.cluster.add_machine)
            self.do(member.start)
            by_name = self.dice.random() < 0.5
            self.do(lambda member=member, by_name=by_name: self.administrator.add(member, by_name=by_name))  # type: ignore[misc]  # run now
            self.until(lambda: not self.administrator.busy, f"{member.name} votes")
            self.advance(CALLED_SECONDS * self.dice.random())

    def shrink(self, size: int) -> None:
        """The leader is among those that go."""
        while len(self.cluster.members) > size:
            self.until(lambda: self.cluster.leading() is not None, "somebody leads")
            leader = self.cluster.leading()
            assert leader is not None
            self.do(lambda leader=leader: self.administrator.remove(leader, retires=True))  # type: ignore[misc]  # run now
            self.until(lambda: not self.administrator.busy, f"{leader.name} is gone")
            self.advance(CALLED_SECONDS * self.dice.random())

    def drain(self, member: Member) -> None:
        self._service(member, lambda node: node._service.drain())
        if member is self.cluster.leading():
            self.cluster.watcher.violated(f"{member.name} is drained, and leads")

    def undrain(self, member: Member) -> None:
        self._service(member, lambda node: node._service.undrain())

    def _service(self, member: Member, call: Callable[[Any], Awaitable[None]]) -> None:
        node = member.node
        assert node is not None
        task = self.do(lambda: member.machine.spawn(call(node), "in or out of service"))
        self.until(task.done, f"{member.name} goes in or out of service")
        task.result()

    def lose_leader(self, *, never: Member) -> None:
        """Whoever leads is killed, and comes back when another one leads."""
        self.until(lambda: self.cluster.ready, "all nodes serve")
        leader = self.cluster.leading()
        assert leader is not None and leader is not never
        self.do(leader.machine.kill)
        self.until(lambda: self.cluster.leading(other_than=leader) is not None, "another one leads")
        if self.cluster.leading() is never:
            self.cluster.watcher.violated(f"{never.name} leads, which is drained, and others could")
        self.do(leader.start)
        self.until(lambda: self.cluster.ready, "all nodes serve")

    def check(self) -> None:
        """Everything that was acknowledged is there."""
        self.callers.stopped = True
        checking = self.begun(_missing(self.callers))
        self.until(checking.done, "all executions are looked up")
        assert checking.result() == []
        assert not self.cluster.watcher.violations, self.cluster.watcher.violations[:3]


async def _missing(callers: Callers) -> list[str]:
    client = await callers.client
    gate = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def look(workflow_id: str) -> str | None:
        async with gate:
            try:
                await client.get(workflow_id)
            except errors.NotFound:
                return workflow_id
            return None

    found = await asyncio.gather(*map(look, callers.acknowledged))
    return [workflow_id for workflow_id in found if workflow_id is not None]


@pytest.mark.parametrize("seed", range(3))
def test_one_three_five_three(seed: int) -> None:
    with simulating(verbose=False) as scratch:
        _grows_and_shrinks(QuietCluster(seed, 1, scratch, verbose=False))


def _grows_and_shrinks(cluster: QuietCluster) -> None:
    with repeatable(cluster):
        changes = Changes(cluster)
        changes.grow(3)
        changes.grow(5)
        drained = cluster.leading()
        assert drained is not None
        changes.drain(drained)
        for _ in range(3):
            changes.lose_leader(never=drained)
        changes.undrain(drained)
        changes.shrink(3)
        changes.advance(CALLED_SECONDS)
        assert len(changes.callers.acknowledged) > 50
        assert sorted(cluster.watcher.configurations.newest.members) == sorted(cluster.members)
        changes.check()
