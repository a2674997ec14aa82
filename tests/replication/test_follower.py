"""What a follower takes, keeps and acknowledges, one rule at a time."""

from __future__ import annotations

import pytest

from orchestrator.replication.frames import Ack, Append, Heartbeat, Reject
from tests.replication.bench import Bench, entries


async def test_nothing_is_acknowledged_before_it_is_durable() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(1, 0, 0))
    await bench.settle()  # the term is durable, so that only the entries are missing
    bench.tick()
    bench.hear("n2", Append(1, 0, 0, 0, entries(1, 1)))
    assert bench.tick() == []
    await bench.settle()
    assert bench.tick() == [("n2", Ack(1, 2, 0))]
    bench.disk.close()


async def test_a_heartbeat_is_answered_with_what_is_durable_so_far() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(1, 0, 1))
    await bench.settle()
    bench.tick()
    bench.hear("n2", Append(1, 0, 0, 0, entries(1, 1)))
    bench.hear("n2", Heartbeat(1, 2, 7))
    assert bench.tick() == [("n2", Ack(1, 0, 7))]
    # Committed by others: still not handed out here before it is durable here.
    assert (bench.raft.commit_index, bench.raft.handed_out_index) == (2, 0)
    await bench.settle()
    assert bench.tick() == [("n2", Ack(1, 2, 7))]
    assert bench.raft.handed_out_index == 2
    bench.disk.close()


async def test_a_batch_that_comes_again_removes_nothing() -> None:
    """B11: the library deletes everything after the previous index, acknowledged entries included."""
    bench = Bench()
    bench.hear("n2", Append(1, 0, 0, 0, entries(1, 1, 1, 1)))
    await bench.settle()
    bench.tick()
    bench.hear("n2", Append(1, 0, 0, 0, entries(1, 1)))
    assert bench.raft.last_index == 4
    assert bench.tick() == [("n2", Ack(1, 4, 0))]
    bench.disk.close()


async def test_a_conflict_replaces_the_tail_and_only_the_tail() -> None:
    bench = Bench()
    bench.hear("n2", Append(1, 0, 0, 0, entries(1, 1, 1, 1)))
    bench.hear("n3", Append(2, 0, 0, 0, entries(1, 1, 2)))
    assert [bench.raft.journal.term_at(index) for index in range(1, 5)] == [1, 1, 2, None]
    bench.disk.close()


async def test_a_leader_that_contradicts_a_committed_entry_stops_the_node() -> None:
    bench = Bench()
    bench.hear("n2", Append(1, 0, 0, 2, entries(1, 1)))
    assert bench.raft.commit_index == 2
    with pytest.raises(AssertionError, match="was committed here"):
        bench.hear("n3", Append(2, 0, 0, 0, entries(1, 2)))
    assert bench.raft.journal.term_at(2) == 1
    bench.disk.close()


async def test_the_commit_index_covers_only_what_was_checked_against_this_leader() -> None:
    """B1: a message without a checked position must not commit an old leader's leftovers."""
    bench = Bench()
    bench.hear("n2", Append(1, 0, 0, 0, entries(1, 1, 1)))
    bench.hear("n3", Heartbeat(2, 3, 1))
    assert bench.raft.commit_index == 0
    bench.hear("n3", Append(2, 1, 1, 3, []))
    assert bench.raft.commit_index == 1
    bench.hear("n3", Append(2, 1, 1, 3, entries(2)))
    assert bench.raft.commit_index == 2
    bench.disk.close()


async def test_a_rejection_says_where_the_logs_may_agree() -> None:
    bench = Bench()
    bench.hear("n2", Append(5, 0, 0, 0, entries(1, 1, 4, 4, 5)))
    bench.hear("n3", Append(6, 9, 6, 0, []))
    bench.hear("n3", Append(6, 5, 3, 0, []))
    assert bench.take() == [("n3", Reject(6, 9, 5, 5)), ("n3", Reject(6, 5, 2, 1))]
    bench.disk.close()


async def test_an_old_leader_is_told_the_new_term() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(5, 0, 1))
    bench.take()
    bench.hear("n3", Append(4, 0, 0, 0, entries(4)))
    assert bench.take() == [("n3", Ack(5, 0, 0))]
    assert bench.raft.last_index == 0
    bench.disk.close()


async def test_a_term_is_acknowledged_only_when_it_is_durable() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(5, 0, 1))
    assert bench.tick() == []
    await bench.settle()
    assert bench.tick() == [("n2", Ack(5, 0, 1))]
    bench.disk.close()


async def test_a_snapshot_commits_what_it_holds_and_nothing_beyond_it() -> None:
    """Though the leader has long said that more is committed: here it is not yet."""
    bench = Bench()
    bench.hear("n2", Append(1, 0, 0, 2, entries(1, 1)))
    bench.hear("n2", Heartbeat(1, 1000, 1))
    await bench.settle()
    bench.raft.journal.reset(50, 1)
    bench.raft.commit_index = 50
    bench.raft.follower.stands_at(50)
    await bench.settle()
    assert bench.tick() == [("n2", Ack(1, 50, 1))]
    assert (bench.raft.commit_index, bench.raft.handed_out_index) == (50, 50)
    bench.hear("n2", Append(1, 50, 1, 1000, entries(1, 1)))
    assert bench.raft.commit_index == 52
    bench.disk.close()


async def test_the_commit_index_goes_neither_back_nor_beyond_the_log() -> None:
    bench = Bench()
    bench.hear("n2", Append(1, 0, 0, 2, entries(1, 1, 1)))
    for wrong in (1, 4):
        with pytest.raises(AssertionError, match="commit index may not go"):
            bench.raft.commit_index = wrong
    bench.hear("n2", Heartbeat(1, 0, 1))
    assert bench.raft.commit_index == 2
    bench.disk.close()
