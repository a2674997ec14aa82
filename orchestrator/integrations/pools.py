"""Things that are dear to make, shared by whoever needs the same: connections, above all."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self._shared)

    @asynccontextmanager
    async def using(self, key: K, make: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
        """The thing under this key, made if there is none; what `make` raises is raised."""
        shared, spare = self._shared.get(key), None
        if shared is None:
            made = await make()
            shared = self._shared.get(key)
            if shared is None:
                shared = self._shared[key] = _Shared(made)
            else:
                spare = made  # somebody else was quicker
        self._shared.move_to_end(key)
        shared.users += 1
        try:
            if spare is not None:
                await self._close(spare)
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
        shared, self._shared = list(self._shared.values()), OrderedDict()
        for one in shared:
            await self._close(one.thing)

    async def _trim(self) -> None:
        if len(self._shared) <= self._most:
            return
        for key, shared in list(self._shared.items()):
            if len(self._shared) > self._most and not shared.users:
                del self._shared[key]
                await self._close(shared.thing)
