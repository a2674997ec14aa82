"""Replicas compare what they hold: who differs from the majority stops, and nobody else does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from orchestrator.engine.commands import AnyCommand, Checkpoint
from orchestrator.engine.results import AnyResult, Done
from orchestrator.services.checkpoints import CHECKPOINTS, Checkpointer, ContentCheck, ContentDiffers, in_minority

DEADLINE_S = 10.0
A, B, C = (bytes([value]) * 16 for value in (1, 2, 3))


def told(*checkpoints: tuple[int, bytes]) -> dict[str, int | bytes | str]:
    return {"checkpoints": b"".join(index.to_bytes(8, "big") + content for index, content in checkpoints)}


@pytest.mark.parametrize(
    ("own", "others", "stops"),
    [
        (A, {}, False),
        (A, {"b": A, "c": A}, False),
        (A, {"b": A, "c": B}, False),
        (B, {"b": A, "c": A}, True),
        (A, {"b": B}, False),
        (A, {"b": B, "c": C}, False),
        (A, {"b": B, "c": B, "d": A}, False),
        (A, {"b": B, "c": B, "d": B, "e": A}, True),
    ],
)
def test_only_who_is_outvoted_by_a_majority_of_the_voices_stops(
    own: bytes, others: dict[str, bytes], stops: bool
) -> None:
    assert in_minority(own, others) is stops


def check(content: bytes, index: int = 10) -> ContentCheck:
    made = ContentCheck()
    made.reached(index, int.from_bytes(content, "big"))
    return made


def test_a_node_tells_what_it_holds() -> None:
    mine = check(A)
    assert mine.facts() == told((10, A))
    for index in range(11, 30):
        mine.reached(index, int.from_bytes(B, "big"))
    assert mine.facts() == told(*((index, B) for index in range(30 - CHECKPOINTS, 30)))
    assert ContentCheck().facts() == told()


def test_a_node_that_differs_stops_the_others_go_on() -> None:
    gossip = {"b": told((10, A)), "c": told((10, A))}
    check(A).compare(gossip)
    with pytest.raises(ContentDiffers, match="at index 10"):
        check(B).compare(gossip)


def test_only_the_same_index_is_compared() -> None:
    check(B).compare({"b": told((9, A)), "c": told((11, A)), "d": {}})
    ContentCheck().compare({"b": told((0, A)), "c": told((0, A))})


def test_nodes_that_store_at_different_times_are_compared_all_the_same() -> None:
    mine = check(B)
    mine.reached(20, int.from_bytes(B, "big"))
    with pytest.raises(ContentDiffers, match="at index 10"):
        mine.compare({"b": told((9, A), (10, A)), "c": told((8, A), (9, A), (10, A))})


@pytest.mark.parametrize("fact", [7, "text", b"", b"short", told((10, A))["checkpoints"][:-1], b"x" * 100_000])  # type: ignore[index]  # bytes
def test_what_is_no_list_of_checkpoints_is_no_voice(fact: int | bytes | str) -> None:
    check(B).compare({"b": {"checkpoints": fact}, "c": {"checkpoints": fact}})


def test_two_that_differ_say_so_once_and_go_on(caplog: pytest.LogCaptureFixture) -> None:
    mine = check(A)
    with caplog.at_level(logging.ERROR):
        mine.compare({"b": told((10, B))})
        mine.compare({"b": told((10, B))})
    assert len(caplog.records) == 1
    mine.reached(20, int.from_bytes(A, "big"))
    mine.compare({"b": told((20, B))})
    assert len(caplog.records) == 2


async def turns() -> None:
    """More than enough for whatever can happen by itself: the interval is zero."""
    for _ in range(50):
        await asyncio.sleep(0)


class Proposals:
    def __init__(self) -> None:
        self.made = 0
        self.changed = asyncio.Event()
        self.checkpointer = Checkpointer(self.submit, 0)

    async def submit(self, command: AnyCommand) -> AnyResult:
        assert command == Checkpoint()
        self.made += 1
        # Applying the checkpoint is itself an entry.
        self.checkpointer.entry_applied()
        self.changed.set()
        return Done()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.made < count:
                self.changed.clear()
                await self.changed.wait()


async def test_a_checkpoint_is_proposed_when_there_is_something_new_and_only_then() -> None:
    proposals = Proposals()
    running = asyncio.create_task(proposals.checkpointer.run())
    await turns()
    assert proposals.made == 0
    proposals.checkpointer.entry_applied()
    await proposals.wait(1)
    await turns()
    assert proposals.made == 1
    proposals.checkpointer.entry_applied()
    await proposals.wait(2)
    running.cancel()


async def test_what_came_during_the_interval_is_compared_though_nothing_follows_it() -> None:
    proposals = Proposals()
    proposals.checkpointer.entry_applied()
    running = asyncio.create_task(proposals.checkpointer.run())
    await proposals.wait(1)
    running.cancel()
