"""Things that are dear to make, shared by whoever needs the same: connections, above all."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Shared(Generic[T]):
    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.users = 0
        self.is_forgotten = False


class Pool(Generic[K, T]):
    """Keeps `most` of them. Whatever is in use stays; of the others the least recently used go first."""

    def __init__(self, close: Callable[[T], Awaitable[None]], most: int) -> None:
        self._close = close
        self._most = most
        self._shared: OrderedDict[K, _Shared[T]] = OrderedDict()
        self._making: dict[K, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._shared)

    @asynccontextmanager
    async def using(self, key: K, make: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
        """The thing under this key, made if there is none; what `make` raises is raised."""
        shared = await self._found(key, make)
        self._shared.move_to_end(key)
        shared.users += 1
        try:
            yield shared.thing
        finally:
            shared.users -= 1
            if shared.is_forgotten and not shared.users:
                await self._close(shared.thing)
            await self._trim()

    def forget(self, key: K, thing: T) -> None:
        """Of use to nobody: who wants it next gets another one. It is closed when those that use it are done."""
        shared = self._shared.get(key)
        if shared is not None and shared.thing is thing:
            del self._shared[key]
            shared.is_forgotten = True

    async def close(self) -> None:
        """Closes all of them, those in use too."""
        for making in self._making.values():
            making.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        shared, self._shared = list(self._shared.values()), OrderedDict()
        for one in shared:
            await self._close(one.thing)

    async def _found(self, key: K, make: Callable[[], Awaitable[T]]) -> _Shared[T]:
        """Made once for all who wait for it, also when the first of them does not want it any more."""
        while (shared := self._shared.get(key)) is None:
            making = self._making.get(key)
            if making is None:
                making = self._making[key] = asyncio.create_task(self._make(key, make))
                making.add_done_callback(_failed_alone)
            await asyncio.shield(making)
        return shared

    async def _make(self, key: K, make: Callable[[], Awaitable[T]]) -> None:
        try:
            self._shared[key] = _Shared(await make())
        finally:
            del self._making[key]

    async def _trim(self) -> None:
        if len(self._shared) <= self._most:
            return
        for key, shared in list(self._shared.items()):
            if len(self._shared) > self._most and not shared.users:
                del self._shared[key]
                await self._close(shared.thing)


def _failed_alone(making: asyncio.Task[None]) -> None:
    """Who waited has the exception; if nobody did any more, nobody need hear of it."""
    if not making.cancelled():
        making.exception()
