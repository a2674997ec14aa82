"""Who deletes: workflows that end at once, again and again under the same few ids, which nobody else uses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.people import Person, Space

if TYPE_CHECKING:
    from tests.simulation.workload import Work

IDS = 3
CHORE = {
    "name": "chore",
    "version": 1,
    "schemaVersion": 2,
    "tasks": [
        {
            "name": "keep",
            "taskReferenceName": "keep",
            "type": "SET_VARIABLE",
            "inputParameters": {"pad": "${workflow.input.pad}"},
        },
        {"name": "nothing", "taskReferenceName": "nothing", "type": "NOOP"},
    ],
}


class Housekeeper(Person):
    """Sees each workflow after its start, none after its deletion, and never one under the mark of another."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        self.work = work
        super().__init__(cluster, name, space)

    async def live(self) -> None:
        client = await self.client
        number = 0
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(2.0))
            if self.work.is_prepared:
                number += 1
                await self._do_a_chore(client, f"chore-{self.dice.randint(1, IDS)}", f"{self.name}-{number}")
        self.work.callers_left -= 1

    async def _do_a_chore(self, client: Client, workflow_id: str, mark: str) -> None:
        given = {"pad": "x" * self.dice.choice((0, 300, 5_000, 40_000))}
        started, unsure = await self._insist(
            lambda: client.start(CHORE, given, id=workflow_id, correlation_id=mark)
        )
        if isinstance(started, errors.RequestError) and not (unsure and isinstance(started, errors.AlreadyExists)):
            self._violated(f"{workflow_id} was deleted, and can't be started: {started!r}")
        seen, _ = await self._insist(lambda: client.get(workflow_id))
        if isinstance(seen, errors.RequestError) or (seen.correlation_id, str(seen.status)) != (mark, "COMPLETED"):
            self._violated(f"{workflow_id} was started as {mark}, and {seen!r} is there")
        deleted, unsure = await self._insist(lambda: client.delete(workflow_id))
        if isinstance(deleted, errors.RequestError) and not (unsure and isinstance(deleted, errors.NotFound)):
            self._violated(f"{workflow_id} has ended, and can't be deleted: {deleted!r}")
        seen, _ = await self._insist(lambda: client.get(workflow_id))
        found, _ = await self._insist(lambda: _all(client, mark))
        if not isinstance(seen, errors.NotFound) or found:
            self._violated(f"{workflow_id} was deleted, and {seen!r} is there and {found!r} is found")
        self.cluster.watcher.trace(self.name, f"{workflow_id} has come and gone as {mark}")

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """The answer or refusal, and whether an earlier attempt may have taken effect, too."""
        unsure = False
        while True:
            try:
                return await call(), unsure
            except errors.RequestError as refused:
                return refused, unsure
            except errors.ClusterError as error:
                unsure = unsure or isinstance(error, errors.OutcomeUnknown | errors.DeadlineExceeded)
                await asyncio.sleep(0.1)

    def _violated(self, what: str) -> None:
        self.cluster.watcher.violated(f"{self.name}: {what}")


async def _all(client: Client, mark: str) -> list[str]:
    return [found.workflow_id async for found in client.search(correlation_id=mark)]
