"""What a leader knows of a peer ends with the peer: its successor by name, or itself once back, begins with nothing.
And who is to take over is chosen among those that are there."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.replication.frames import Ack, EncodedAppend, TimeoutNow
from orchestrator.replication.handover import hand_over
from orchestrator.replication.leader import Mode
from orchestrator.replication.log import Role
from tests.replication.bench import Bench
from tests.replication.test_leader import append, leading


def with_learner(bench: Bench, renewed: set[str] | None = None) -> None:
    bench.transport.nodes.setdefault("n4", bench.raft.nodes["n2"].__class__("n4"))
    bench.raft.reconfigure(bench.raft.voters, frozenset({"n4"}), renewed or set(), is_voter=True)
    bench.transport._onNodeConnected(bench.raft.nodes["n4"])


async def test_a_learner_is_promoted_by_what_it_acknowledged_since_it_was_admitted() -> None:
    bench = await leading()
    raft = bench.raft
    append(bench, 10)
    await bench.settle()
    with_learner(bench)
    bench.take()
    bench.hear("n4", Ack(1, 11, 0))
    assert raft.replicator.caught_up("n4", 11)
    # Removed, and admitted again with the same data directory: perhaps it was put back from a backup meanwhile.
    raft.reconfigure(raft.voters, frozenset(), {"n4"}, is_voter=True)
    bench.hear("n4", Ack(1, 11, 0))  # still on its way from before
    with_learner(bench)
    assert not raft.replicator.caught_up("n4", 11)
    assert (raft.match_index("n4"), raft.replicator.progress["n4"].mode) == (0, Mode.PROBE)
    [probe] = [m for name, m in bench.tick() if name == "n4" and isinstance(m, EncodedAppend)]
    assert probe.prev_index == 11
    # Replaced in one step: another data directory under the name.
    bench.hear("n4", Ack(1, 11, 0))
    assert raft.replicator.caught_up("n4", 11)
    with_learner(bench, {"n4"})
    assert not raft.replicator.caught_up("n4", 11) and raft.match_index("n4") == 0
    bench.disk.close()


async def test_a_renewed_voter_confirms_no_read_and_commits_nothing_by_what_its_name_did_before() -> None:
    bench = await leading()
    raft = bench.raft
    append(bench, 1)
    await bench.settle()
    reading = asyncio.create_task(raft.barrier.wait())
    await asyncio.sleep(0)
    bench.tick()
    round_ = raft.barrier.round
    raft.reconfigure(raft.voters, raft.learners, {"n2"}, is_voter=True)
    bench.tick()
    await asyncio.sleep(0)
    assert not reading.done() and raft.commit_index == 1
    bench.hear("n3", Ack(1, 2, round_))
    bench.tick()
    assert await reading == 1 and raft.commit_index == 2
    bench.disk.close()


async def test_readers_share_rounds_and_write_nothing() -> None:
    """All that come while a round is under way wait for the next one, however many they are."""
    bench = await leading()
    raft = bench.raft
    began, last_index, answered = raft.barrier.round, raft.last_index, 0
    for wave in range(1, 11):
        readers = [asyncio.create_task(raft.barrier.wait()) for _ in range(1000)]
        await asyncio.sleep(0)
        sent = bench.tick()
        assert raft.barrier.round == began + wave
        assert len(sent) <= 2 + 2 * (wave == 1)  # a heartbeat to each follower; one more was due at the beginning
        late = asyncio.create_task(raft.barrier.wait())
        await asyncio.sleep(0)
        assert bench.tick() == [] and raft.barrier.round == began + wave
        bench.hear("n3", Ack(1, 1, raft.barrier.round))
        assert set(await asyncio.gather(*readers)) == {1}
        assert not late.done()
        late.cancel()
        answered += len(readers)
    assert (answered, raft.last_index) == (10_000, last_index)
    bench.disk.close()


async def transferring(bench: Bench) -> list[str]:
    """Whom a handover told to campaign, after everybody acknowledged what they were asked for."""
    told: list[str] = []
    waits = 0

    async def wait(seconds: float) -> None:
        nonlocal waits
        waits += 1
        for name, message in bench.tick(after_ms=5):
            if isinstance(message, TimeoutNow):
                told.append(name)
                bench.raft.follow(bench.raft.term + 1, name)
        if waits == 5:
            for name in bench.raft.peers:
                bench.hear(name, Ack(1, bench.raft.last_index, 0))
        await asyncio.sleep(0)

    assert await asyncio.wait_for(hand_over(bench.raft, wait), 30)
    return told


@pytest.mark.parametrize("most", ["n2", "n3", "n4", "n5"])
async def test_leadership_goes_to_the_most_caught_up_member_once_it_has_everything(most: str) -> None:
    bench = await leading(5)
    append(bench, 8)
    await bench.settle()
    for name in bench.raft.peers:
        bench.hear(name, Ack(1, 6 if name == most else 3, 0))
    bench.take()
    assert await transferring(bench) == [most]
    assert bench.role() is Role.FOLLOWER
    bench.disk.close()


async def test_leadership_goes_neither_to_a_learner_nor_to_who_does_not_answer() -> None:
    bench = await leading()
    raft = bench.raft
    append(bench, 8)
    await bench.settle()
    with_learner(bench)
    bench.hear("n4", Ack(1, 9, 0))
    bench.hear("n3", Ack(1, 8, 0))
    # n3 has more, and says nothing any more; its connection is still up.
    bench.clock.now += raft.settings.election_timeout_max_ms / 1000
    bench.hear("n2", Ack(1, 3, 0))
    bench.take()
    assert await transferring(bench) == ["n2"]
    bench.disk.close()
