"""The alarm that wakes the replicated log."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvloop

from orchestrator.replication.alarm import LATE_S, Alarm
from orchestrator.testing.loop import VirtualLoop


def rings(steps: list[tuple[float, float | None]]) -> tuple[list[float], int]:
    """When it rang, and how many callbacks that took; a step is (at, set after so long or cancel)."""
    loop = VirtualLoop()
    rang: list[float] = []

    async def main() -> None:
        alarm = Alarm(lambda: rang.append(round(loop.now, 3)))
        for at, after_s in steps:
            await asyncio.sleep(at - loop.now)
            if after_s is None:
                alarm.cancel()
            else:
                alarm.set(after_s)
        await asyncio.sleep(100)

    loop.run_until_complete(main())
    return rang, loop.steps


@pytest.mark.parametrize(
    ("steps", "rang"),
    [
        ([(0, 5)], [5]),
        ([(0, 5), (1, 9)], [10]),
        ([(0, 5), (1, 2)], [3]),
        ([(0, 5), (1, 9), (2, 1)], [3]),
        ([(0, 5), (1, None)], []),
        ([(0, 5), (1, 9), (6, None)], []),
        ([(0, 5), (6, 5)], [5, 11]),
        ([(0, 5), (1, None), (2, 1)], [3]),
    ],
)
def test_it_rings_once_when_it_was_set_to_last(steps: list[tuple[float, float | None]], rang: list[float]) -> None:
    assert rings(steps)[0] == rang


def test_to_put_it_off_takes_no_timer() -> None:
    often: list[tuple[float, float | None]] = [(at / 100, 5.0) for at in range(1_000)]
    rang, steps = rings(often)
    assert rang == [14.99]
    # Each sleep takes two callbacks, and the alarm one for each five seconds.
    assert steps < 2 * len(often) + 20


def test_after_a_standstill_it_rings_when_everything_that_came_is_heard() -> None:
    """With the loop of real nodes, which comes from one message to its timers before it reads the next."""
    happened: list[str] = []
    near, far = socket.socketpair()
    other_near, other_far = socket.socketpair()

    async def main() -> None:
        loop, rang = asyncio.get_running_loop(), asyncio.Event()

        def hear() -> None:
            near.recv(1)
            happened.append("heard")

        def stand_still() -> None:
            loop.remove_reader(other_near)
            time.sleep(0.05 + 2 * LATE_S)
            far.send(b"x")

        def ring() -> None:
            happened.append("rang")
            rang.set()

        loop.add_reader(near, hear)
        loop.add_reader(other_near, stand_still)
        Alarm(ring).set(0.05)
        other_far.send(b"x")
        await asyncio.wait_for(rang.wait(), 60)

    with near, far, other_near, other_far:
        uvloop.run(main())
    assert happened == ["heard", "rang"]
