"""Starts whatever has ended, as a service manager does, unless it is being kept down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable

from tests.simulation.cluster import Member, SimulatedCluster

RESTART_SECONDS = 0.4


class Service:
    """For all machines of a cluster."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self._held: Counter[str] = Counter()
        self._tasks = [cluster.loop.create_task(self._supervise(member)) for member in cluster.members.values()]

    def add(self, member: Member) -> None:
        """Begins with one that is new."""
        self._tasks.append(self.cluster.loop.create_task(self._supervise(member)))

    async def hold(self, members: list[Member], wait: Awaitable[object]) -> None:
        """Nobody starts them until that is over."""
        for member in members:
            self._held[member.name] += 1
        await wait
        for member in members:
            self._held[member.name] -= 1

    def hold_nobody(self) -> None:
        self._held.clear()

    async def _supervise(self, member: Member) -> None:
        dice = self.cluster.dice(f"supervisor/{member.name}")
        while self.cluster.members.get(member.name) is member:
            await asyncio.sleep(RESTART_SECONDS * (0.5 + dice.random()))
            if not member.machine.running and not member.is_out and self._held[member.name] <= 0:
                if member.machine.disk.failing_syncs or member.may_fail:
                    member.machine.lose_power()
                    member.may_fail = False
                member.start()
