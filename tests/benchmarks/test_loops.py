"""Windows that are cut from calls that go on: what is in them, and what is not."""

from __future__ import annotations

import asyncio

import pytest

from tests.benchmarks.loops import streaming


def test_a_window_has_what_completed_in_it() -> None:
    async def main() -> None:
        turns: asyncio.Queue[None] = asyncio.Queue()
        spent = {"leader": 0.0}

        async def call(number: int) -> None:
            await turns.get()
            spent["leader"] += 1

        async def let(calls: int) -> None:
            wanted = stream.count + calls
            for _ in range(calls):
                turns.put_nowait(None)
            while stream.count < wanted:  # noqa: ASYNC110 - turns of the loop are what it waits for
                await asyncio.sleep(0)

        async with asyncio.timeout(10), streaming(2, call, lambda: dict(spent)) as stream:
            await let(3)
            stream.begin_window()
            await let(4)
            first = stream.end_window()
            await let(5)
            second = stream.end_window()
            stream.stop = True
            await let(2)
        assert [len(window.samples_ms) for window in (first, second)] == [4, 5]
        assert (first.before, first.after) == ({"leader": 3.0}, {"leader": 7.0})
        assert (second.before, second.after) == ({"leader": 7.0}, {"leader": 12.0})
        assert first.samples_ms == sorted(first.samples_ms)
        assert 0 < first.pause_ms <= 1000 * first.seconds
        assert first.per_second == pytest.approx(4 / first.seconds)

    asyncio.run(main())


def test_the_first_error_of_a_caller_ends_all() -> None:
    async def main() -> None:
        async def call(number: int) -> None:
            if number == 5:
                raise RuntimeError("number 5")
            await asyncio.sleep(0)

        async with asyncio.timeout(10), streaming(3, call, dict):
            await asyncio.get_running_loop().create_future()

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [str(error) for error in caught.value.exceptions] == ["number 5"]
