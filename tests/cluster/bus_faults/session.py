"""Three nodes, a Redis behind a gate, and everybody who uses them."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.bus_faults.crowd import ANSWERS, DEAD_LETTERS, IN, OUT, QUESTIONS, Crowd
from tests.cluster.bus_faults.gate import Gate
from tests.cluster.bus_faults.judge import Judge
from tests.cluster.bus_faults.reading import Reading
from tests.cluster.nodes import metric
from tests.cluster.workload import eventually
from tests.integrations.redis.servers import Servers

TIMEOUT_MS = 500
"""Of the nodes at Redis: what is swallowed for longer they take for lost."""


class Session:
    """In a directory of its own. All ends with the `async with`."""

    def __init__(self, directory: Path, dice: random.Random) -> None:
        self._directory = directory
        self.dice = dice
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _begin(self) -> None:
        servers = self._stack.enter_context(Servers(self._directory / "servers"))
        self.redis = servers.redis()
        self.gate = Gate(self.redis.port)
        await self.gate.listen()
        self._stack.push_async_callback(self.gate.close)
        self.cluster = LocalCluster(self._directory / "cluster", 3, node_settings={
            "redis_endpoints": self.gate.endpoint, "redis_timeout_ms": TIMEOUT_MS})
        self._stack.push_async_callback(self.cluster.stop, timeout_s=0)
        await self.cluster.start()
        await self.cluster.wait_ready()
        self.client = await self._stack.enter_async_context(Client(self.cluster.endpoints))
        self.reading = Reading(self.redis, OUT, QUESTIONS, DEAD_LETTERS)
        self._stack.push_async_callback(self.reading.stop)
        self.reading.start()
        self.crowd = Crowd(self.client, self.redis, self.reading, self.dice)
        self._stack.push_async_callback(self.crowd.stop)
        self.judge = Judge(self.client, self.crowd, self.reading)
        await self.crowd.start()

    async def verify(self, *, at_last: bool = False) -> None:
        """Everybody rests until all is there that they have done, and then goes on, unless it is for the last time:
        then all is looked at again that was ever done."""
        await self.crowd.pause()
        await self.judge.check(all_again=at_last, unread=at_last)
        if not at_last:
            self.crowd.resume()

    async def backlog_is_visible(self) -> None:
        """That Redis is away, and what it is owed, is told to whoever asks."""
        async def seen() -> bool:
            status = await self.client.events.streams()
            return not status.connected and bool(status.last_error) and any(
                stream.stream == OUT and stream.owed_events and stream.oldest_time for stream in status.outgoing)

        await eventually(seen, "the backlog to be told")

    async def backlog_is_measured(self) -> None:
        """The same as metrics."""
        async def seen() -> bool:
            leader = self.cluster.nodes[await self.cluster.wait_leader()]
            return (await metric(leader, "orchestrator_outbox_events", f'stream="{OUT}"') > 0
                    and await metric(leader, "orchestrator_outbox_oldest_age_seconds", f'stream="{OUT}"') > 0
                    and await metric(leader, "orchestrator_redis_connected") == 0)

        await eventually(seen, "the backlog to be measured")

    async def cursor(self) -> tuple[int, int]:
        """How far what is written was taken up, as soon as anything was."""
        async def found() -> str:
            status = await self.client.events.streams()
            return next((each.cursor for each in status.incoming if each.stream == IN and each.received), "")

        return position(await eventually(found, f"the cursor of {IN}"))

    def tails(self) -> str:
        return "\n".join(f"--- node {node.name}\n{node.log_tail(60)}" for node in self.cluster.nodes.values())


def position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


STREAMS = (OUT, IN, QUESTIONS, ANSWERS, DEAD_LETTERS)
