"""What happens to the cluster: each run draws which kinds of faults it has, and when.

Every occurrence has a number, a time and dice of its own, so that any of them can be left out of a run and the others
are drawn as before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container

from tests.simulation.cluster import Member, SimulatedCluster
from tests.simulation.faults import disks, network, processes
from tests.simulation.faults.occasion import Kind, Occasion
from tests.simulation.faults.plan import Planned, plan

RESTART_SECONDS = 0.4
KINDS: dict[str, Kind] = {**processes.KINDS, **network.KINDS, **disks.KINDS}


class Faults:
    """Runs in nobody's process. `heal` ends everything."""

    def __init__(self, cluster: SimulatedCluster, seconds: float, only: Container[int] | None = None) -> None:
        self.cluster = cluster
        dice = cluster.dice("faults")
        kinds = sorted(dice.sample(sorted(KINDS), dice.randint(2, 7)))
        # What happened, in the order in which it began.
        self.occasions: list[Occasion] = []
        # Who is being kept down or paused; the supervisor leaves them alone.
        self.held: Counter[str] = Counter()
        self._began = cluster.loop.now
        planned = [one for one in plan(dice, cluster.dice, kinds, seconds) if only is None or one.number in only]
        self._tasks = [cluster.loop.create_task(self._supervise(member)) for member in cluster.members.values()]
        self._to_come = [cluster.loop.create_task(self._occur(one)) for one in planned]
        for task in self._to_come:
            task.add_done_callback(self._ended)

    async def _occur(self, planned: Planned) -> None:
        await asyncio.sleep(self._began + planned.at - self.cluster.loop.now)
        occasion = Occasion(self.cluster, self.held, planned)
        self.occasions.append(occasion)
        await KINDS[planned.kind](occasion)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.cluster.watcher.violated(f"a fault of ours fails: {error!r}")

    async def _supervise(self, member: Member) -> None:
        """Starts whatever has ended, as a service manager does."""
        dice = self.cluster.dice(f"supervisor/{member.name}")
        while True:
            await asyncio.sleep(RESTART_SECONDS * (0.5 + dice.random()))
            if not member.machine.running and not member.is_out and self.held[member.name] <= 0:
                if member.machine.disk.failing_syncs or member.may_fail:
                    member.machine.lose_power()
                    member.may_fail = False
                member.start()

    def heal(self) -> None:
        """No more faults, and none left."""
        for task in self._to_come:
            task.cancel()
        self.cluster.network.heal()
        self.held.clear()
        for member in self.cluster.members.values():
            machine = member.machine
            machine.resume()
            machine.stall_seconds = 0.0
            machine.disk.strikes_in = 0
            machine.disk.full = False
            machine.disk.failing_syncs = 0
            machine.wall_offset_ms = 0
