"""The store of values outside the log, as a node's door uses it: prepared when it is first needed, with a small cache.

Values never change, so what is in the cache is right for as long as somebody may ask for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from orchestrator.engine.blobs import BlobRef
from orchestrator.integrations.blobs.store import BlobFailure, BlobStore, StoreUnavailable

CACHE_BYTES = 64 << 20

T = TypeVar("T")


class BlobAccess:
    """`bytes_max`: of a payload with all its values; `on_failure` is called with the kind of each failure."""

    def __init__(
        self,
        store: BlobStore,
        *,
        bytes_max: int,
        cache_bytes: int = CACHE_BYTES,
        on_failure: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.store = store
        self.bytes_max = bytes_max
        self._cache_bytes = cache_bytes
        self._on_failure = on_failure
        self._cache: OrderedDict[BlobRef, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._is_prepared = False
        self._preparing = asyncio.Lock()
        self._fetching: dict[BlobRef, asyncio.Task[bytes]] = {}

    async def prepared_id(self) -> str:
        """The store's id. Raises StoreUnavailable."""
        if not self._is_prepared:
            async with self._preparing:
                if not self._is_prepared:
                    await self._counted(self.store.prepare())
                    self._is_prepared = True
        return self.store.store_id

    async def put(self, contents: Mapping[BlobRef, bytes]) -> None:
        """Raises BlobFailure: then some may have been put."""
        for ref, content in contents.items():
            await self._counted(self.store.put(ref, content))
            self._keep(ref, content)

    async def get(self, refs: Iterable[BlobRef]) -> dict[BlobRef, bytes]:
        """Whole values. Raises BlobMissing, BlobCorrupt, StoreUnavailable."""
        found: dict[BlobRef, bytes] = {}
        for ref in refs:
            content = self._cache.get(ref)
            if content is None:
                content = await self._fetched(ref)
            else:
                self._cache.move_to_end(ref)
            found[ref] = content
        return found

    async def close(self) -> None:
        for task in list(self._fetching.values()):
            task.cancel()
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)

    async def _fetched(self, ref: BlobRef) -> bytes:
        """Whoever else wants the value waits for the same call."""
        task = self._fetching.get(ref)
        if task is None:
            task = self._fetching[ref] = asyncio.create_task(self._fetch(ref))
            task.add_done_callback(lambda _: self._fetching.pop(ref, None))
        return await asyncio.shield(task)

    async def _fetch(self, ref: BlobRef) -> bytes:
        await self.prepared_id()
        content = await self._counted(self.store.get(ref))
        self._keep(ref, content)
        return content

    async def _counted(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except BlobFailure as failure:
            self._on_failure(type(failure).__name__)
            if isinstance(failure, StoreUnavailable):
                self._is_prepared = False
            raise

    def _keep(self, ref: BlobRef, content: bytes) -> None:
        if ref in self._cache or len(content) > self._cache_bytes:
            return
        self._cache[ref] = content
        self._cached_bytes += len(content)
        while self._cached_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)
