"""How a stream finds out that its node is gone, without a clock for each message."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_client.silence import Silence

PATIENCE_S = 0.02


class Node:
    def __init__(self, *, is_there: bool) -> None:
        self.is_there = is_there
        self.asked = asyncio.Event()
        self.count = 0

    async def check(self) -> bool:
        self.count += 1
        self.asked.set()
        return self.is_there


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_node_that_is_silent_is_asked_and_left_if_it_gives_no_sign(is_there: bool) -> None:
    node = Node(is_there=is_there)
    silence = Silence(node.check, PATIENCE_S, now)
    silence.listen()
    if is_there:
        for _ in range(2):
            node.asked.clear()
            await asyncio.wait_for(node.asked.wait(), 10)
        assert not silence.broken.done()
    else:
        await asyncio.wait_for(silence.broken, 10)
    silence.end()


async def test_who_awaits_nothing_is_not_asked_until_it_does() -> None:
    node, awaited = Node(is_there=True), [False]
    silence = Silence(node.check, PATIENCE_S, now, lambda: awaited[0])
    silence.listen()
    await asyncio.sleep(3 * PATIENCE_S)
    assert not node.count
    awaited[0] = True
    silence.listen()
    await asyncio.wait_for(node.asked.wait(), 10)
    silence.end()


async def test_a_node_that_speaks_while_it_is_asked_is_not_left() -> None:
    node = Node(is_there=False)
    silence = Silence(node.check, PATIENCE_S, now)
    said = asyncio.get_running_loop().time()

    async def check() -> bool:
        silence.heard()
        node.asked.set()
        return False

    silence._check = check
    silence.listen()
    await asyncio.wait_for(node.asked.wait(), 10)
    await asyncio.sleep(0)
    assert not silence.broken.done()
    assert silence._heard_at > said
    silence.end()
