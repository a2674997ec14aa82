"""All people of a run, and what they share."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.engine.scenario import Definitions
from tests.simulation.callers import Caller
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.doubler import Doubler
from tests.simulation.foreman import Foreman
from tests.simulation.history import History
from tests.simulation.housekeeper import Housekeeper
from tests.simulation.labour import Labourer, Zombie
from tests.simulation.outside import with_calls
from tests.simulation.people import Person, Space
from tests.simulation.spectators import Reader, Spectator

SWITCH = {
    "name": "switch",
    "version": 1,
    "schemaVersion": 2,
    "tasks": [
        {
            "name": "wait",
            "taskReferenceName": "wait",
            "type": "WAIT",
            "inputParameters": {"signal": "end"},
        }
    ],
}
SWITCHES = 3
# The same ids and names mean other workflows there.
OTHER_NAMESPACE = "other"


# At most two of the workers have one at the same time.
LIMITED = {"name": "n1", "concurrentExecLimit": 2}


class Work:
    """All people of one run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        dice = cluster.dice("work")
        self.cluster = cluster
        watcher = cluster.watcher
        self.history = History(lambda: cluster.loop.now, watcher.trace, watcher.violated)
        self.stopped = False
        self.rate = dice.choice((3.0, 6.0, 12.0))
        self.spaces = [_space("default", dice)]
        if dice.random() < 0.4:
            self.spaces.append(_space(OTHER_NAMESPACE, dice))
        if cluster.outside is not None:
            calls = cluster.dice("calls")
            for space in self.spaces:
                space.definitions = [with_calls(document, calls) for document in space.definitions]
        # Of tasks that workers hold or held: (namespace, workflow id, fencing token), by id.
        self.handed_out: dict[str, tuple[str, str, int]] = {}
        callers = [f"c{number}" for number in range(max(dice.randint(2, 4), len(self.spaces)))]
        self.callers: list[Person] = [
            Caller(cluster, name, self._space_of(at), self) for at, name in enumerate(callers)
        ]
        self.callers.append(Spectator(cluster, "s0", dice.choice(self.spaces), self))
        self.callers.append(Reader(cluster, "r0", dice.choice(self.spaces), self))
        self.callers.append(Doubler(cluster, "b0", dice.choice(self.spaces), self))
        if cluster.dice("chores").random() < 0.25:
            self.callers.append(Housekeeper(cluster, "h0", self._space_of(cluster.seed), self))
        if cluster.dice("kinds").random() < 0.4:
            self.callers.append(Foreman(cluster, "f0", self._space_of(cluster.seed), self))
        self.callers_left = len(self.callers)
        workers = [f"w{number}" for number in range(max(dice.randint(1, 3), len(self.spaces)))]
        self.workers: list[Person] = [
            Labourer(cluster, name, self._space_of(at), self) for at, name in enumerate(workers)
        ]
        self.workers += [Zombie(cluster, f"z{at}", self._space_of(at), self) for at in range(dice.randint(1, 2))]
        self.operator = Operator(cluster, "op", self)

    def _space_of(self, number: int) -> Space:
        return self.spaces[number % len(self.spaces)]

    @property
    def people(self) -> list[Person]:
        return [*self.callers, *self.workers, self.operator]

    @property
    def is_prepared(self) -> bool:
        """Definitions are registered, and the switches wait."""
        return all(len(space.switches) == SWITCHES for space in self.spaces)


def _space(namespace: str, dice: random.Random) -> Space:
    made = [Definitions(dice, for_workers=True).make(f"d{number}") for number in range(3)]
    return Space(namespace, [*made, SWITCH], [document["name"] for document in made])


class Operator(Person):
    """Prepares the ground, and at the end sees to it that whatever can end does."""

    def __init__(self, cluster: SimulatedCluster, name: str, work: Work) -> None:
        self.work = work
        self.settled = False
        # Log time when the cluster first took something after the faults.
        self.recovered_ms = 0
        # Of what had not ended; and when it became less for the last time.
        self.fewest_left: float = float("inf")
        self.progress_at = 0.0
        super().__init__(cluster, name, work.spaces[0])
        self.clients = [self.client, *(self.open_client(space) for space in work.spaces[1:])]

    async def live(self) -> None:
        for client, space in zip(self.clients, self.work.spaces, strict=True):
            await self._prepare(await client, space)

    async def _prepare(self, client: Client, space: Space) -> None:
        while len(space.switches) < SWITCHES:
            workflow_id = f"switch-{len(space.switches)}"
            try:
                # Until the first switch is there nobody else calls.
                if not space.switches:
                    await client.register(*space.definitions, LIMITED, overwrite=True)
                await client.start("switch", {}, id=workflow_id, if_exists="return", register=False)
            except errors.ClusterError:
                continue
            space.switches.append(workflow_id)

    async def settle(self) -> None:
        """Resumes, signals and unsticks everything until nothing runs but the switches, and nobody could start more."""
        clients, watcher = [await client for client in self.clients], self.cluster.watcher
        while True:
            try:
                if not self.recovered_ms:
                    await clients[0].register(SWITCH, overwrite=True)
                    self.recovered_ms = watcher.applied[watcher.highest].log_time_ms
                left = 0
                for client in clients:
                    left += await self._settle(client)
                if left < self.fewest_left:
                    self.fewest_left, self.progress_at = left, self.cluster.loop.now
                if not left and not self.work.callers_left:
                    self.settled = True
                    return
            except errors.ClusterError as error:
                watcher.trace(self.name, f"settling: {error!r}")
            await asyncio.sleep(1.0)

    async def _settle(self, client: Client) -> int:
        """How many had not ended."""
        left = [
            execution
            async for execution in client.search(statuses=["RUNNING", "PAUSED", "COMPENSATING"])
            if execution.name != "switch"
        ]
        if left:
            shown = [f"{one.workflow_id} {one.name} {one.status} {one.compensation.state}" for one in left]
            self.cluster.watcher.trace(self.name, f"left: {shown}")
        for execution in left:
            await self._nudge(client, execution)
        return len(left)

    async def _nudge(self, client: Client, execution: Any) -> None:
        try:
            if execution.status == "PAUSED":
                await client.resume(execution.workflow_id)
            elif execution.compensation.state == "STUCK":
                await client.skip_compensation(execution.workflow_id)
            elif execution.status == "RUNNING":
                held = await client.get(execution.workflow_id, tasks=True)
                waits = [one for one in held.tasks if one.type == "WAIT" and str(one.status) == "IN_PROGRESS"]
                for wait in waits:
                    if "duration" not in wait.input or "signal" in wait.input:
                        # By default the signal is called as the task is, in whatever iteration of a loop.
                        name = wait.input.get("signal", wait.reference.partition("__")[0])
                        await client.signal(execution.workflow_id, name, {})
        except errors.RequestError as error:
            self.cluster.watcher.trace(self.name, f"{execution.workflow_id}: {error!r}")
