"""What a leader sends, believes and commits, one rule at a time."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.replication.errors import LostLeadership
from orchestrator.replication.frames import Ack, Heartbeat, Reject
from orchestrator.replication.leader import Mode
from orchestrator.replication.log import Role
from orchestrator.replication.segment import WIRE_OVERHEAD_BYTES
from orchestrator.replication.settings import RaftSettings
from tests.replication.bench import Bench


async def leading(size: int = 3, settings: RaftSettings | None = None) -> Bench:
    """n1 leads term 1; all have its no-op; nothing is in flight."""
    bench = Bench(size, settings)
    await bench.lead()
    await bench.settle()
    for name in bench.raft.peers:
        bench.hear(name, Ack(1, 1, 0))
    bench.tick()
    assert bench.raft.commit_index == 1
    return bench


def append(bench: Bench, count: int, data: bytes = b"x") -> None:
    for _ in range(count):
        bench.raft.journal.append(bench.raft.last_index + 1, bench.raft.term, 0, data)


async def test_its_own_copy_counts_only_when_it_is_durable() -> None:
    bench = await leading()
    append(bench, 1)
    bench.hear("n2", Ack(1, 2, 0))
    bench.tick()
    assert bench.raft.commit_index == 1
    bench.hear("n3", Ack(1, 2, 0))  # two others are a majority without it
    bench.tick()
    assert (bench.raft.commit_index, bench.raft.handed_out_index) == (2, 1)
    await bench.settle()
    bench.tick()
    assert bench.raft.handed_out_index == 2
    bench.disk.close()


async def test_what_is_in_flight_is_not_sent_again_and_late_acks_move_nothing_back() -> None:
    bench = await leading()
    for first in (2, 5, 8):
        append(bench, 3)
        assert [len(message.entries) for message in bench.take_appends("n2")] == [3]
        assert bench.raft.next_index("n2") == first + 3
    for match in (4, 1, 7, 4):
        bench.hear("n2", Ack(1, match, 0))
        assert bench.raft.next_index("n2") == 11
        assert bench.take_appends("n2") == []
    assert bench.raft.match_index("n2") == 7
    bench.disk.close()


async def test_bytes_in_flight_are_bounded() -> None:
    bench = await leading(settings=RaftSettings(batch_bytes_max=1000, in_flight_bytes_max=3000))
    append(bench, 100, b"x" * (100 - WIRE_OVERHEAD_BYTES))
    sent = [message for _ in range(20) for message in bench.take_appends("n2")]
    assert [len(message.entries) for message in sent] == [10, 10, 10]
    bench.hear("n2", Ack(1, 11, 0))
    assert [len(message.entries) for _ in range(5) for message in bench.take_appends("n2")] == [10]
    bench.disk.close()


async def test_acknowledgements_of_another_term_mean_nothing() -> None:
    bench = await leading()
    append(bench, 1)
    await bench.settle()
    bench.hear("n2", Ack(0, 2, 0))
    bench.tick()
    assert bench.raft.commit_index == 1
    bench.hear("n2", Ack(2, 0, 0))
    assert (bench.role(), bench.raft.term) == (Role.FOLLOWER, 2)
    bench.disk.close()


async def test_entries_of_an_earlier_term_are_not_committed_by_counting() -> None:
    bench = Bench()
    append(bench, 0)
    bench.raft.journal.append(1, 0, 0, b"old")
    await bench.lead()
    await bench.settle()
    bench.hear("n2", Ack(1, 1, 0))
    bench.tick()
    assert bench.raft.commit_index == 0
    bench.hear("n2", Ack(1, 2, 0))
    bench.tick()
    assert bench.raft.commit_index == 2
    bench.disk.close()


async def test_a_rejection_skips_a_term_of_conflict_in_one_step_and_a_stale_one_does_nothing() -> None:
    bench = await leading()
    append(bench, 50)
    bench.take_appends("n2")
    bench.hear("n2", Reject(1, 51, 20, 1))
    assert bench.raft.next_index("n2") == 21
    bench.hear("n2", Reject(1, 45, 3, 1))
    bench.hear("n2", Reject(1, 1, 0, 0))
    assert bench.raft.next_index("n2") == 21
    [probe] = bench.take_appends("n2")
    assert (probe.prev_index, probe.prev_term) == (20, 1)
    assert bench.take_appends("n2") == []  # one probe at a time
    bench.disk.close()


async def test_after_a_reconnect_the_follower_is_asked_where_it_stands() -> None:
    bench = await leading()
    append(bench, 5)
    bench.take_appends("n2")
    bench.raft.replicator.peer_connected("n2")
    [probe] = bench.take_appends("n2")
    assert (probe.prev_index, probe.entries) == (6, [])
    bench.hear("n2", Reject(1, 6, 1, 1))
    [probe] = bench.take_appends("n2")
    assert (probe.prev_index, len(probe.entries)) == (1, 5)
    bench.disk.close()


async def test_what_a_follower_acknowledged_and_no_longer_has_is_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = await leading()
    append(bench, 5)
    bench.take_appends("n2")
    bench.hear("n2", Ack(1, 6, 0))
    assert bench.raft.match_index("n2") == 6
    # It starts again, and its last two records were cut like a torn tail.
    bench.raft.replicator.peer_connected("n2")
    append(bench, 1)
    [probe] = bench.take_appends("n2")
    assert probe.prev_index == 6
    bench.hear("n2", Reject(1, 6, 4, 1))
    assert "n2 acknowledged entries up to 6, and now it has none after 4" in caplog.text
    [probe] = bench.take_appends("n2")
    assert (probe.prev_index, len(probe.entries)) == (4, 3)
    bench.hear("n2", Ack(1, 7, 0))
    assert bench.raft.match_index("n2") == 7
    assert bench.raft.replicator.progress["n2"].mode is Mode.REPLICATE
    bench.disk.close()


async def test_without_a_majority_for_an_election_timeout_it_steps_down() -> None:
    bench = await leading(5)
    for _ in range(5):
        bench.clock.now += 0.5
        bench.hear("n2", Ack(1, 1, 0))
        bench.hear("n3", Ack(1, 1, 0))
        bench.tick()
        assert bench.role() is Role.LEADER
    bench.clock.now += 0.5
    bench.hear("n2", Ack(1, 1, 0))
    bench.tick(after_ms=300)
    assert (bench.role(), bench.raft.leader, bench.raft.term) == (Role.FOLLOWER, None, 1)
    bench.disk.close()


async def test_a_read_needs_a_round_that_began_after_it_came() -> None:
    bench = await leading()
    bench.tick(after_ms=60)  # a heartbeat is on its way, not yet answered
    before = bench.raft.barrier.round
    read = asyncio.create_task(bench.raft.barrier.wait())
    await asyncio.sleep(0)
    rounds = {message.round for _, message in bench.tick() if isinstance(message, Heartbeat)}
    assert rounds == {before + 1}
    bench.hear("n2", Ack(1, 1, before))
    await asyncio.sleep(0)
    assert not read.done()
    bench.hear("n2", Ack(1, 1, before + 1))
    assert await read == 1
    bench.disk.close()


async def test_a_read_waits_for_the_no_op_and_fails_with_leadership() -> None:
    bench = Bench()
    await bench.lead()
    read = asyncio.create_task(bench.raft.barrier.wait())
    await asyncio.sleep(0)
    before = bench.raft.barrier.round
    bench.tick(after_ms=60)
    assert bench.raft.barrier.round == before
    bench.raft.on_transition = bench.raft.barrier.fail
    bench.hear("n2", Ack(9, 0, 0))
    with pytest.raises(LostLeadership):
        await read
    bench.disk.close()


async def test_an_acknowledgement_of_what_it_never_had_stops_the_node() -> None:
    bench = await leading()
    with pytest.raises(AssertionError, match="acknowledges index 99"):
        bench.hear("n2", Ack(1, 99, 0))
    bench.disk.close()
