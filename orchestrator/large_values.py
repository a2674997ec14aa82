"""What a node does with values that are too large for the log: its door's access to their store, and the collector."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.config import Config
from orchestrator.integrations.blobs.directory import DirectoryStore
from orchestrator.integrations.blobs.redis_store import RedisStore
from orchestrator.integrations.blobs.store import BlobStore, StoreUnavailable
from orchestrator.integrations.blobs.threads import Threads
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.rpc.blob_access import BlobAccess
from orchestrator.services.blob_collector import BlobCollector
from orchestrator.services.leadership import Service
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.streaming import LinkKeeper, redis_link
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World

logger = logging.getLogger(__name__)

# A store that can't be used is looked at again after this.
AGAIN_SECONDS = 10.0
# The group keeps clusters apart, and not their ids: a cluster that is restored has another one, and the same values.
KEYS = "values"


class LargeValues:
    """Of one node. `access` is None where it has no store; `link` where that is not in Redis. `run` must be running."""

    def __init__(self, config: Config, world: World, metrics: Metrics) -> None:
        self._metrics = metrics
        self._threads: Threads | None = None
        off_loop = world.store_calls
        if off_loop is None and config.blob_store != "none":
            self._threads = off_loop = Threads("values")
        self.link: RedisLink | None = None
        self._store: BlobStore | None = None
        if config.blob_store == "directory" and off_loop is not None:
            self._store = DirectoryStore(Path(config.blob_directory), off_loop=off_loop, entropy=world.entropy)
        elif config.blob_store == "redis" and off_loop is not None:
            self.link = redis_link(config, world)
            assert self.link is not None  # settings that name no Redis are refused
            self._store = RedisStore(
                self.link, prefix=config.redis_group, cluster=KEYS, off_loop=off_loop, entropy=world.entropy
            )
        self.access: BlobAccess | None = None
        if self._store is not None:
            self.access = BlobAccess(self._store, bytes_max=config.blob_bytes_max, on_failure=self._failed)

    def services(
        self, submit: Submit, machine: CurrentMachine, log_time_ms: Callable[[], int]
    ) -> tuple[Service, ...]:
        """A leader's."""
        if self._store is None:
            return ()
        return (BlobCollector(submit, machine, self._store, log_time_ms, self._failed),)

    async def run(self) -> None:
        """Until cancelled; says whether the store can be used before anybody needs it."""
        async with asyncio.TaskGroup() as group:
            if self.link is not None:
                group.create_task(LinkKeeper(self.link).run())
            if self.access is not None:
                await self._look(self.access)

    async def _look(self, access: BlobAccess) -> None:
        told = ""
        while True:
            if self.link is not None:
                await self.link.wait_connected()  # it says itself what keeps it
            try:
                logger.info("large payloads have a store", extra={"store": await access.prepared_id()})
                return
            except StoreUnavailable as failure:
                if str(failure) != told:
                    told = str(failure)
                    logger.warning("large payloads are refused: %s", told)
            await asyncio.sleep(AGAIN_SECONDS)

    async def close(self) -> None:
        if self.access is not None:
            await self.access.close()
        if self._threads is not None:
            self._threads.close()

    def _failed(self, kind: str) -> None:
        self._metrics.blob_failures.labels(kind).inc()
