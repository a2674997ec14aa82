"""Every call that waits is answered: when leadership goes, when a quorum is missing, when the node stops or fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.replication.errors import (
    LostLeadership,
    NotLeader,
    OutcomeUnknown,
    ReplicationError,
    Stopped,
    WouldLoseQuorum,
)
from orchestrator.replication.frames import Ack
from orchestrator.replication.log import Role
from tests.replication.cluster import Cluster, Node, within
from tests.replication.test_leader import leading

Call = Callable[[Node], Awaitable[object]]
CALLS: dict[str, Call] = {
    "barrier": lambda node: node.log.barrier(),
    "committed": lambda node: node.log.committed(node.applied_index),
    "add": lambda node: node.log.add_member("n9", "f" * 32, "127.0.0.1:1"),
    "add again": lambda node: node.log.add_member("n2", node.log.status().configuration.members["n2"].incarnation, ""),  # type: ignore[union-attr]  # it is formed
    "replace": lambda node: node.log.replace_member("n2", "f" * 32),
    "remove": lambda node: node.log.remove_member("n2"),
    "remove itself": lambda node: node.log.remove_member(node.name),
    "transfer": lambda node: node.log.transfer_leadership(),
}


async def outcome(call: Coroutine[Any, Any, object]) -> object:
    try:
        return await within("an answer", call)
    except ReplicationError as error:
        return error


async def as_coroutine(call: Awaitable[object]) -> object:
    return await call


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["stop", "abort", "fail"])
async def test_calls_are_answered_when_the_node_ends(tmp_path: Path, name: str, when: str, how: str) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        node = await cluster.leader()

        async def end() -> None:
            if how == "stop":
                await node.log.stop()
            elif how == "abort":
                node.log.abort()
            else:
                node.log.fail(OSError(5, "Input/output error"))

        if when == "before":
            call = asyncio.create_task(outcome(as_coroutine(CALLS[name](node))))
            for _ in range(4):  # as far as it gets without an answer from others
                await asyncio.sleep(0)
            await end()
        else:
            await end()
            call = asyncio.create_task(outcome(as_coroutine(CALLS[name](node))))
        answer = await call
        if name == "transfer":
            assert answer is False or when == "before"
        elif when == "after":
            assert isinstance(answer, Stopped)
        else:
            assert isinstance(answer, Stopped | LostLeadership | NotLeader | OutcomeUnknown)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "committed"])
async def test_calls_are_answered_when_the_quorum_is_gone(tmp_path: Path, name: str) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        node = await cluster.leader()
        cluster.network.isolate(node.name)
        answer = await outcome(as_coroutine(CALLS[name](node)))
        assert name == "transfer" or isinstance(answer, LostLeadership | NotLeader | OutcomeUnknown | WouldLoseQuorum)
        assert node.log.role is not Role.LEADER or name == "transfer"


@pytest.mark.parametrize("size", [3, 5])
async def test_a_leader_without_a_quorum_steps_down_within_one_election_timeout(size: int) -> None:
    """Counted from the last answer that made a majority, and not before it is over."""
    bench = await leading(size)
    timeout_ms = bench.settings.election_timeout_max_ms
    failed: list[str] = []
    bench.raft.on_transition = lambda: failed.append(bench.role().value)
    answering = [f"n{number}" for number in range(2, 2 + size // 2)]
    for _ in range(20):
        bench.tick(after_ms=100)
        for name in answering:
            bench.hear(name, Ack(1, 1, bench.raft.barrier.round))
    reading = asyncio.create_task(bench.raft.barrier.wait())
    await asyncio.sleep(0)
    heard_at, wakes = bench.clock.now, 0
    while bench.role() is Role.LEADER:
        # One follower fewer than a majority needs goes on answering.
        for name in answering[1:]:
            bench.hear(name, Ack(1, 1, 0))
        wait_ms = max(1, int((min(bench.raft.next_deadline(), bench.clock.now + 0.05) - bench.clock.now) * 1000))
        bench.tick(after_ms=wait_ms)
        wakes += 1
        assert wakes < 1000
    passed_ms = (bench.clock.now - heard_at) * 1000
    assert timeout_ms * 0.95 <= passed_ms <= timeout_ms + 60
    assert failed == ["follower"]
    bench.raft.barrier.fail()
    with pytest.raises(LostLeadership):
        await reading
    bench.disk.close()


async def test_a_learners_answers_keep_nobody_in_office() -> None:
    bench = await leading()
    raft = bench.raft
    raft.reconfigure(raft.voters, frozenset({"n9"}), set(), is_voter=True)
    for _ in range(10):
        bench.hear("n9", Ack(1, 0, 0))
        bench.tick(after_ms=100)
    assert bench.role() is Role.FOLLOWER
    bench.disk.close()


