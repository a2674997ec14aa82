"""Shared things: made once for all who want the same, closed when nobody has wanted them for longest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from orchestrator.integrations.pools import Pool


class Bench:
    def __init__(self, most: int) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.pool: Pool[str, str] = Pool(self._close, most)

    async def _close(self, thing: str) -> None:
        self.closed.append(thing)

    def making(self, key: str) -> Callable[[], Awaitable[str]]:
        async def make() -> str:
            await self.gate.wait()
            self.made.append(key)
            return f"{key}{len(self.made)}"

        return make

    async def use(self, key: str) -> str:
        async with self.pool.using(key, self.making(key)) as thing:
            await asyncio.sleep(0)
            return thing


async def test_who_wants_the_same_gets_the_same() -> None:
    bench = Bench(2)
    assert [await bench.use("a") for _ in range(3)] == ["a1"] * 3
    assert bench.made == ["a"]


async def test_the_least_recently_used_goes_first() -> None:
    bench = Bench(2)
    for key in ("a", "b", "a", "c"):
        await bench.use(key)
    assert bench.closed == ["b2"]


async def test_whatever_is_in_use_stays() -> None:
    bench = Bench(1)
    async with AsyncExitStack() as stack:
        for key in ("a", "b", "c"):
            await stack.enter_async_context(bench.pool.using(key, bench.making(key)))
        assert len(bench.pool) == 3 and bench.closed == []
    assert len(bench.pool) == 1 and len(bench.closed) == 2


async def test_it_is_made_once_for_all_who_want_it_at_once() -> None:
    bench = Bench(2)
    bench.gate.clear()
    both = [asyncio.create_task(bench.use("a")) for _ in range(2)]
    await asyncio.sleep(0)
    bench.gate.set()
    assert await asyncio.gather(*both) == ["a1", "a1"]
    assert (bench.made, bench.closed) == (["a"], [])


async def test_who_wanted_it_first_may_leave() -> None:
    bench = Bench(2)
    bench.gate.clear()
    first, second = (asyncio.create_task(bench.use("a")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bench.gate.set()
    assert first.cancelled() and await second == "a1"


async def test_what_is_being_made_is_not_made_any_more_once_all_is_closed() -> None:
    bench = Bench(2)
    bench.gate.clear()
    wanted = asyncio.create_task(bench.use("a"))
    await asyncio.sleep(0)
    await bench.pool.close()
    assert await asyncio.gather(wanted, return_exceptions=True) != ["a1"]
    assert bench.made == [] and len(bench.pool) == 0


async def test_what_can_not_be_made_is_tried_anew() -> None:
    bench = Bench(1)

    async def broken() -> str:
        raise OSError("no file")

    with pytest.raises(OSError, match="no file"):
        async with bench.pool.using("a", broken):
            raise AssertionError
    assert await bench.use("a") == "a1"


async def test_what_is_forgotten_is_closed_when_its_users_are_done() -> None:
    bench = Bench(3)
    async with bench.pool.using("a", bench.making("a")) as thing:
        async with bench.pool.using("a", bench.making("a")) as again:
            assert again is thing
            bench.pool.forget("a", thing)
        assert await bench.use("a") == "a2" and bench.closed == []
        bench.pool.forget("a", thing)
    assert bench.closed == ["a1"]
    assert await bench.use("a") == "a2"


async def test_closing_closes_everything() -> None:
    bench = Bench(3)
    for key in ("a", "b"):
        await bench.use(key)
    await bench.pool.close()
    assert sorted(bench.closed) == ["a1", "b2"] and len(bench.pool) == 0
