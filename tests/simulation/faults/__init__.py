"""What happens to the cluster: each run draws which kinds of faults it has, and when.

Every occurrence has a number, a time and dice of its own, so that any of them can be left out of a run and the others
are drawn as before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Container

from tests.simulation.administrator import Administrator
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.faults import disks, members, network, processes, stories
from tests.simulation.faults.occasion import Kind, Occasion
from tests.simulation.faults.plan import Planned, plan
from tests.simulation.faults.service import Service

# What happens in runs of any kind; the rest needs members that may change, or many of them.
SINGLE: dict[str, Kind] = {**processes.KINDS, **network.KINDS, **disks.KINDS, **stories.KINDS}
KINDS: dict[str, Kind] = {**SINGLE, **members.KINDS, **stories.OF_CHANGING, **stories.OF_MANY}
# Of so many seeds one has members that come and go.
CHANGING = 0.4


class Faults:
    """Runs in nobody's process. `heal` ends everything."""

    def __init__(self, cluster: SimulatedCluster, seconds: float, only: Container[int] | None = None) -> None:
        self.cluster = cluster
        dice = cluster.dice("faults")
        kinds = dice.sample(sorted(SINGLE), dice.randint(2, 7))
        self._administrator: Administrator | None = None
        changing = dice.random() < CHANGING
        if len(cluster.members) >= stories.MANY and dice.random() < 0.5:
            # Anything else that happens meanwhile may well end the story.
            kinds = [dice.choice(kinds), *stories.OF_MANY]
        elif changing:
            kinds += [*members.KINDS, *stories.OF_CHANGING]
            self._administrator = Administrator(cluster)
        # What happened, in the order in which it began.
        self.occasions: list[Occasion] = []
        self._began = cluster.loop.now
        self._service = Service(cluster)
        planned = plan(dice, cluster.dice, sorted(kinds), seconds)
        chosen = [one for one in planned if only is None or one.number in only]
        self._to_come = [cluster.loop.create_task(self._occur(one)) for one in chosen]
        for task in self._to_come:
            task.add_done_callback(self._ended)

    @property
    def counts(self) -> Counter[str]:
        """How often each kind had an effect, and how many clocks of members go wrong all the time."""
        drifting = sum(member.machine.rate != 1 for member in self.cluster.members.values())
        return Counter(occasion.kind for occasion in self.occasions if occasion.what) + Counter(clock_drift=drifting)

    @property
    def changes(self) -> Counter[str]:
        """What became of the changes of members that were asked for."""
        return Counter() if self._administrator is None else self._administrator.counts

    @property
    def is_over(self) -> bool:
        """Nothing that the operator began is left."""
        return self._administrator is None or not self._administrator.busy

    async def _occur(self, planned: Planned) -> None:
        await asyncio.sleep(self._began + planned.at - self.cluster.loop.now)
        occasion = Occasion(self._service, self._administrator, planned)
        self.occasions.append(occasion)
        await KINDS[planned.kind](occasion)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.cluster.watcher.violated(f"a fault of ours fails: {error!r}")

    def heal(self) -> None:
        """No more faults, and none left."""
        for task in self._to_come:
            task.cancel()
        self.cluster.network.heal()
        self._service.hold_nobody()
        for member in self.cluster.members.values():
            machine = member.machine
            machine.resume()
            machine.stall_seconds = 0.0
            machine.disk.strikes_in = 0
            machine.disk.full = False
            machine.disk.failing_syncs = 0
            machine.wall_offset_ms = 0
        if self._administrator is not None:
            self._administrator.mend()
