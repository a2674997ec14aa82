"""Who has workflows of every other kind run, steers them, and lets them run again, wholly or from a task on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.simulation import kinds
from tests.simulation.callers import Caller
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.people import Space

if TYPE_CHECKING:
    from tests.simulation.workload import Work

STEERS = ("pause", "resume", "signal", "terminate", "retry", "skip")


class Foreman(Caller):
    """Nobody else touches what it has started."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        made = kinds.definitions(cluster.dice(name + "/definitions"))
        # The operator registers them with the others.
        space.definitions.extend(made)
        own = Space(space.namespace, made, [made[0]["name"], made[1]["name"]], switches=space.switches)
        super().__init__(cluster, name, own, work)

    async def live(self) -> None:
        client = await self.client
        handlers = kinds.handlers()
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(self.work.rate / 3))
            if not self.work.is_prepared:
                continue
            # What publishes events is started when all of them are handled.
            if handlers:
                await self._put(client, handlers)
            else:
                await self._operate(client)
        self.work.callers_left -= 1

    async def _put(self, client: Client, handlers: list[dict[str, Any]]) -> None:
        try:
            await client.events.put_handler(handlers[-1])
            handlers.pop()
        except errors.ClusterError as error:
            self.cluster.watcher.trace(self.name, f"again: {error!r}")

    async def _operate(self, client: Client) -> None:
        dice, space = self.dice, self.space
        roll = dice.random()
        if roll < 0.3 or not space.started:
            await self._start(client)
        elif roll < 0.5:
            await self._get(client, dice.choice(space.started))
        else:
            await self._steer(client, dice.choice(space.started[-6:]))
            if dice.random() < 0.5:
                await self._let_run_again(client, dice.choice(space.started))

    def _start_arguments(self, mark: str) -> dict[str, Any]:
        given = super()._start_arguments(mark)
        return {**given, "input": {**given["input"], "list": kinds.LIST}}

    async def _steer(self, client: Client, workflow_id: str) -> None:
        kind = self.dice.choice(STEERS)
        calls: dict[str, Any] = {
            "signal": lambda: client.signal(workflow_id, "go", {"s": 1}),
            "terminate": lambda: client.terminate(workflow_id, compensation=self.dice.choice(("run", "skip", None))),
            "skip": lambda: client.run(workflow_id).skip(f"r{self.dice.randint(1, 9)}"),
        }
        operation = self.history.invoke(self.name, kind, self.space.place(workflow_id))
        await self._call(operation, calls.get(kind, lambda: getattr(client, kind)(workflow_id))())

    async def _let_run_again(self, client: Client, workflow_id: str) -> None:
        """Often one that has not ended: it is ended first."""
        target, dice = self.space.place(workflow_id), self.dice
        if dice.random() < 0.6:
            how = dice.choice(("run", "skip", "skip"))
            operation = self.history.invoke(self.name, "terminate", target)
            await self._call(operation, client.terminate(workflow_id, compensation=how))
        effects = dice.choice(("keep", "keep", "compensate_first", None))
        if dice.random() < 0.4:
            operation = self.history.invoke(self.name, "restart", target)
            await self._call(operation, client.restart(workflow_id, effects=effects))
        else:
            task_id = await self._some_task(client, workflow_id)
            operation = self.history.invoke(self.name, "rerun", target, task_id)
            await self._call(operation, client.rerun(workflow_id, task_id, effects=effects))

    async def _some_task(self, client: Client, workflow_id: str) -> str:
        """The id of one of its tasks; "" for its beginning."""
        try:
            tasks = [one.task_id for one in (await client.get(workflow_id, tasks=True)).tasks if not one.compensates]
        except errors.ClusterError:
            return ""
        return self.dice.choice(["", *tasks])
