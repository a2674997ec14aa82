"""The faults of the other simulation that a log alone can have, on members of either kind."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulation.faults import network, processes
from tests.simulation.faults.occasion import Kind, Occasion
from tests.simulation.faults.plan import Planned, plan
from tests.simulation.faults.service import Service
from tests.simulation.stock.cluster import LogCluster

ALL: dict[str, Kind] = {**processes.KINDS, **network.KINDS}
# In every run: without an old leader there is little to go wrong.
ALWAYS = "partition"
KINDS = ("kill", "strike", "pause", "one_way", "slow_network", "lost_connections")


class LogFaults:
    """Runs in nobody's process. `heal` ends everything."""

    def __init__(self, cluster: LogCluster, seconds: float) -> None:
        self._cluster = cluster
        dice = cluster.dice("faults")
        kinds = [ALWAYS, *dice.sample(KINDS, dice.randint(1, 4))]
        if cluster.profile.power_fails:
            kinds.append("power_loss")
        # To the faults, any cluster is one that has what they touch.
        like_any: Any = cluster
        self._service = Service(like_any)
        planned = plan(dice, cluster.dice, sorted(kinds), seconds)
        self._began = cluster.loop.now
        self._to_come = [cluster.loop.create_task(self._occur(one)) for one in planned]
        for task in self._to_come:
            task.add_done_callback(self._ended)

    async def _occur(self, planned: Planned) -> None:
        await asyncio.sleep(self._began + planned.at - self._cluster.loop.now)
        await ALL[planned.kind](Occasion(self._service, None, planned))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._cluster.watcher.violated(f"a fault of ours fails: {error!r}")

    def heal(self) -> None:
        """No more faults, and none left."""
        for task in self._to_come:
            task.cancel()
        self._cluster.network.heal()
        self._service.hold_nobody()
        for member in self._cluster.members.values():
            member.machine.resume()
            member.machine.disk.strikes_in = 0
