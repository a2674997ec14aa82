"""What the conformance suite needs of each kind of store: nodes that share one, and a hand in what it holds."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config import Address
from orchestrator.engine.blobs import BlobRef, ref_to
from orchestrator.integrations.blobs.directory import DirectoryStore
from orchestrator.integrations.blobs.redis_store import RedisStore
from orchestrator.integrations.blobs.store import BlobStore
from orchestrator.integrations.blobs.threads import Threads
from orchestrator.integrations.redis.failures import RedisUnavailable
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import RedisSettings

VALUE = b'{"text":"%b"}' % (b"x" * 100_000)


def value(number: int, size: int = 100_000) -> bytes:
    """Of which each is another."""
    return b'"%d %b"' % (number, b"x" * size)


class Kit(Protocol):
    """`where`: what `other_node` makes the same store of, in another process."""

    kind: str

    @property
    def where(self) -> str: ...

    def bare(self) -> BlobStore:
        """As another node has it, not yet prepared."""

    async def node(self) -> BlobStore:
        """The same, prepared."""

    async def held(self, ref: BlobRef) -> bytes | None:
        """What the store has under the name."""

    async def hold(self, ref: BlobRef, content: bytes) -> None:
        """Puts something else there, behind the store's back."""

    async def lose_everything(self) -> None:
        """As if it had been made anew."""

    async def swap(self) -> None:
        """Another store stands where this was."""

    def cut_off(self) -> None:
        """It does not answer."""


class DirectoryKit:
    kind = "directory"

    def __init__(self, path: Path, threads: Threads) -> None:
        self.root = path / "shared"
        self.root.mkdir()
        self.threads = threads

    @property
    def where(self) -> str:
        return str(self.root)

    def bare(self, answer_ms: int = 30_000) -> DirectoryStore:
        return DirectoryStore(self.root, off_loop=self.threads, entropy=os.urandom, answer_ms=answer_ms)

    async def node(self) -> BlobStore:
        store = self.bare()
        await store.prepare()
        return store

    def path_of(self, ref: BlobRef) -> Path:
        return self.root / "values" / ref.sha256[:2] / ref.sha256

    async def held(self, ref: BlobRef) -> bytes | None:
        try:
            return self.path_of(ref).read_bytes()
        except FileNotFoundError:
            return None

    async def hold(self, ref: BlobRef, content: bytes) -> None:
        self.path_of(ref).write_bytes(content)

    async def lose_everything(self) -> None:
        shutil.rmtree(self.root)
        self.root.mkdir()

    async def swap(self) -> None:
        await self.lose_everything()
        await self.node()

    def cut_off(self) -> None:
        self.root.rename(self.root.with_name("elsewhere"))


@asynccontextmanager
async def directory_kit(path: Path) -> AsyncIterator[DirectoryKit]:
    threads = Threads("blobs", 4)
    try:
        yield DirectoryKit(path, threads)
    finally:
        threads.close()


@asynccontextmanager
async def link_to(port: int) -> AsyncIterator[RedisLink]:
    """Connected inside."""
    settings = RedisSettings(endpoints=(Address("127.0.0.1", port),), timeout_ms=30_000)
    link = RedisLink(settings, monotonic=time.monotonic, random=random.Random(1))
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(60):
            await link.wait_connected()
        yield link
    finally:
        running.cancel()
        await asyncio.wait([running])


class RedisKit:
    kind = "redis"

    def __init__(self, port: int, links: list[RedisLink], threads: Threads) -> None:
        self._port = port
        self._links = links
        self._threads = threads
        self.cluster = os.urandom(8).hex()
        self._nodes = 0
        self._is_cut_off = False

    @property
    def where(self) -> str:
        return f"{self._port}/{self.cluster}"

    async def execute(self, *command: str | bytes | int) -> Any:
        """By another link each time, as of other nodes; what is asked at once is carried out in any order."""
        if self._is_cut_off:
            raise RedisUnavailable("it is cut off")
        self._nodes += 1
        return await self._links[self._nodes % len(self._links)].execute(*command)

    def bare(self) -> RedisStore:
        return RedisStore(self, prefix="test", cluster=self.cluster, off_loop=self._threads, entropy=os.urandom)

    async def node(self) -> BlobStore:
        store = self.bare()
        await store.prepare()
        return store

    def key_of(self, ref: BlobRef) -> str:
        return f"test:{self.cluster}:blob:{ref.sha256}"

    async def held(self, ref: BlobRef) -> bytes | None:
        return await self.execute("HGET", self.key_of(ref), "content")

    async def hold(self, ref: BlobRef, content: bytes) -> None:
        await self.execute("HSET", self.key_of(ref), "content", content)

    async def lose_everything(self) -> None:
        await self.execute("FLUSHALL")

    async def swap(self) -> None:
        await self.lose_everything()
        await self.node()

    def cut_off(self) -> None:
        self._is_cut_off = True


@asynccontextmanager
async def redis_kit(port: int) -> AsyncIterator[RedisKit]:
    threads = Threads("blobs", 2)
    try:
        async with link_to(port) as one, link_to(port) as other:
            yield RedisKit(port, [one, other], threads)
    finally:
        threads.close()


def ref_in(store: BlobStore, content: bytes = VALUE) -> BlobRef:
    return ref_to(store.store_id, content)
