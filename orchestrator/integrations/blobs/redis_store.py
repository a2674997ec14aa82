"""Values in Redis: as safe as that Redis is.

    PREFIX:CLUSTER:blob-store     names the store
    PREFIX:CLUSTER:blob:SHA256    a hash: `content`, and `version`, which is another each time it is put anew

Made for a Redis that keeps its data and evicts nothing. One that has lost its data is the same store, without what was
in it; a Redis that never was this store is another one, and takes nothing for this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from orchestrator.engine.blobs import BlobRef, is_store_id
from orchestrator.file_watch import OffLoop
from orchestrator.integrations.blobs.store import BlobMissing, StoreUnavailable, check_store, checked
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable

T = TypeVar("T")

_DELETE = "if redis.call('HGET',KEYS[1],'version')==ARGV[1] then return redis.call('UNLINK',KEYS[1]) end return 0"


class Commands(Protocol):
    """A link to Redis."""

    async def execute(self, *command: str | bytes | int) -> Any:
        """What Redis answers: bytes, numbers, None. Raises RedisUnavailable and RedisRefused."""


class RedisStore:
    """`cluster` keeps apart what clusters have in the same Redis under one prefix. `off_loop` runs what takes long;
    `entropy` gives so many bytes that nobody else has.
    """

    def __init__(
        self, redis: Commands, *, prefix: str, cluster: str, off_loop: OffLoop, entropy: Callable[[int], bytes]
    ) -> None:
        self._redis = redis
        self._mark = f"{prefix}:{cluster}:blob-store"
        self._keys = f"{prefix}:{cluster}:blob:"
        self._off_loop = off_loop
        self._entropy = entropy
        self._id = ""

    @property
    def store_id(self) -> str:
        if not self._id:
            raise StoreUnavailable(f"Redis has not been asked for {self._mark} yet")
        return self._id

    async def prepare(self) -> None:
        await _answered(self._check_evictions())
        found = await _answered(self._marked())
        if not found:
            found = await self._make_mark(self._id or f"redis-{self._entropy(16).hex()}")
        if not is_store_id(found):
            raise StoreUnavailable(f"{self._mark} in Redis has no name of a store in it")
        self._check_same(found)
        self._id = found

    async def put(self, ref: BlobRef, content: bytes) -> None:
        store_id = self.store_id
        if ref.store != store_id:
            raise StoreUnavailable(f"{self._mark} in Redis is the store {store_id}, and not {ref.store}")
        await self._off_loop(lambda: checked(ref, content, "what is to be put"))
        # One that has lost its data goes on as the store that it was: it is missed what is missing, and nothing else.
        self._check_same(await _answered(self._marked()) or await self._make_mark(store_id))
        key = self._key(ref)
        if await _answered(self._redis.execute("HGET", key, "content")) == content:
            return
        version = self._entropy(16).hex()
        await _answered(self._redis.execute("HSET", key, "version", version, "content", content))

    async def get(self, ref: BlobRef) -> bytes:
        check_store(ref, self.store_id, "Redis")
        key = self._key(ref)
        content = await _answered(self._redis.execute("HGET", key, "content"))
        if content is None:
            raise await self._missing(key)
        return await self._off_loop(lambda: checked(ref, bytes(content), f"{key} in Redis"))

    async def version(self, ref: BlobRef) -> str:
        check_store(ref, self.store_id, "Redis")
        found = await _answered(self._redis.execute("HGET", self._key(ref), "version"))
        if found is None:
            self._check_same(await _answered(self._marked()) or self.store_id)
            return ""
        return bytes(found).decode("ascii", "replace")

    async def delete(self, ref: BlobRef, version: str | None = None) -> None:
        # Also for whoever gives none: what was sent may be carried out when this call is long over.
        doomed = await self.version(ref) if version is None else version
        if doomed:
            check_store(ref, self.store_id, "Redis")
            await _answered(self._redis.execute("EVAL", _DELETE, 1, self._key(ref), doomed))

    def _key(self, ref: BlobRef) -> str:
        return self._keys + ref.sha256

    async def _marked(self) -> str:
        found = await self._redis.execute("GET", self._mark)
        return "" if found is None else bytes(found).decode("utf-8", "replace")

    async def _make_mark(self, name: str) -> str:
        """Of several nodes one gives the name."""
        await _answered(self._redis.execute("SET", self._mark, name, "NX"))
        return await _answered(self._marked())

    def _check_same(self, found: str) -> None:
        if self._id and found != self._id:
            raise StoreUnavailable(f"{self._mark} in Redis is the store {found}, and was the store {self._id}")

    async def _missing(self, key: str) -> BlobMissing:
        found = await _answered(self._marked())
        if not found:
            return BlobMissing(f"{key} is not in Redis, nor is {self._mark}: Redis has lost its data")
        self._check_same(found)
        return BlobMissing(f"{key} is not in Redis, which may have lost some of its data")

    async def _check_evictions(self) -> None:
        try:
            about = bytes(await self._redis.execute("INFO", "memory")).decode("utf-8", "replace")
        except RedisRefused:
            return  # whoever may not ask has to know
        for line in about.splitlines():
            name, _, policy = line.partition(":")
            if name == "maxmemory_policy" and policy.startswith("allkeys"):
                message = f"its maxmemory-policy is {policy}, and must be noeviction"
                raise StoreUnavailable(f"Redis evicts values when it is full: {message}")


async def _answered(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except RedisUnavailable as failure:
        raise StoreUnavailable(f"Redis is unavailable: {failure}") from failure
    except RedisRefused as refused:
        raise StoreUnavailable(f"Redis refuses: {refused}") from refused
