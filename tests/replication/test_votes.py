"""Elections, one rule at a time."""

from __future__ import annotations

from orchestrator.replication.frames import (
    Append,
    Heartbeat,
    PreVoteReply,
    PreVoteRequest,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from orchestrator.replication.log import Role
from tests.replication.bench import Bench, entries


async def test_a_vote_is_sent_only_when_it_is_durable() -> None:
    bench = Bench()
    bench.hear("n2", VoteRequest(5, 0, 0, False))
    assert bench.tick() == []
    await bench.settle()
    assert bench.tick() == [("n2", VoteReply(5, True))]
    bench.disk.close()


async def test_one_vote_per_term_but_the_same_candidate_may_ask_again() -> None:
    bench = Bench()
    bench.hear("n2", VoteRequest(5, 0, 0, False))
    await bench.settle()
    bench.tick()
    bench.hear("n3", VoteRequest(5, 9, 4, False))
    bench.hear("n2", VoteRequest(5, 0, 0, False))
    assert bench.tick() == [("n3", VoteReply(5, False)), ("n2", VoteReply(5, True))]
    bench.disk.close()


async def test_its_own_vote_counts_only_when_it_is_durable() -> None:
    bench = Bench(1)
    bench.tick(after_ms=700)
    assert bench.role() is Role.CANDIDATE
    await bench.settle()
    bench.tick()
    assert bench.role() is Role.LEADER
    assert bench.raft.commit_index == 0  # the no-op is not durable yet
    await bench.settle()
    bench.tick()
    assert bench.raft.commit_index == 1
    bench.disk.close()


async def test_a_voter_counts_once() -> None:
    bench = Bench(5)
    bench.raft.elections._campaign(transfer=False)
    await bench.settle()
    bench.tick()
    for _ in range(4):
        bench.hear("n2", VoteReply(1, True))
    assert bench.role() is Role.CANDIDATE
    bench.hear("n3", VoteReply(0, True))
    bench.hear("n4", VoteReply(1, False))
    assert bench.role() is Role.CANDIDATE
    bench.hear("n3", VoteReply(1, True))
    assert bench.role() is Role.LEADER
    bench.disk.close()


async def test_no_vote_for_a_log_that_is_behind() -> None:
    bench = Bench()
    bench.hear("n2", Append(3, 0, 0, 0, entries(2, 3)))
    bench.clock.now += 10
    bench.raft.follow(3, None)
    bench.take()
    for last_index, last_term, granted in [(9, 2, False), (1, 3, False), (2, 3, True), (1, 4, True)]:
        bench.hear("n3", PreVoteRequest(9, last_index, last_term, 1))
        assert bench.take() == [("n3", PreVoteReply(3, 1, granted))]
    bench.hear("n3", VoteRequest(4, 1, 3, False))
    assert bench.take() == [("n3", VoteReply(4, False))]
    bench.disk.close()


async def test_silence_leads_to_a_pre_vote_that_leaves_the_term_alone() -> None:
    bench = Bench()
    sent = bench.tick(after_ms=700)
    assert [(name, type(message)) for name, message in sent] == [("n2", PreVoteRequest), ("n3", PreVoteRequest)]
    assert (bench.raft.term, bench.role()) == (0, Role.FOLLOWER)
    bench.hear("n2", PreVoteReply(0, 99, True))  # an answer to another round
    assert bench.role() is Role.FOLLOWER
    bench.hear("n2", PreVoteReply(0, 1, True))
    assert (bench.raft.term, bench.role()) == (1, Role.CANDIDATE)
    bench.disk.close()


async def test_a_vote_given_ends_its_own_pre_vote() -> None:
    """Else an answer that is still under way would depose the leader for which it has just voted."""
    bench = Bench()
    bench.tick(after_ms=700)
    bench.hear("n2", VoteRequest(1, 0, 0, False))
    bench.hear("n3", PreVoteReply(0, 1, True))
    assert (bench.raft.term, bench.role()) == (1, Role.FOLLOWER)
    bench.disk.close()


async def test_a_voter_is_loyal_while_its_leader_lives() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(3, 0, 1))
    await bench.settle()
    bench.tick()
    bench.clock.now += 0.2
    bench.hear("n3", PreVoteRequest(4, 9, 3, 1))
    assert bench.take() == [("n3", PreVoteReply(3, 1, False))]
    bench.hear("n3", VoteRequest(9, 9, 9, False))
    assert (bench.take(), bench.raft.term) == ([], 3)
    # In a handover the leader itself asked for it.
    bench.hear("n3", VoteRequest(4, 9, 3, True))
    await bench.settle()
    assert ("n3", VoteReply(4, True)) in bench.tick()
    bench.disk.close()


async def test_a_refused_connection_to_the_leader_starts_a_pre_vote_soon() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(3, 0, 1))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n3")
    assert bench.tick(after_ms=60) == []
    bench.raft.elections.leader_refused("n2")
    assert {type(message) for _, message in bench.tick(after_ms=51)} == {PreVoteRequest}
    # And as a voter it no longer protects the dead leader; a heartbeat brings back its loyalty.
    bench.hear("n3", PreVoteRequest(4, 9, 3, 1))
    assert bench.take() == [("n3", PreVoteReply(3, 1, True))]
    bench.hear("n2", Heartbeat(3, 0, 2))
    bench.take()
    bench.hear("n3", PreVoteRequest(4, 9, 3, 2))
    assert bench.take() == [("n3", PreVoteReply(3, 2, False))]
    bench.disk.close()


async def test_only_its_leader_can_tell_it_to_campaign() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(3, 0, 1))
    bench.hear("n3", TimeoutNow(3))
    bench.hear("n2", TimeoutNow(2))
    assert bench.role() is Role.FOLLOWER
    bench.hear("n2", TimeoutNow(3))
    assert (bench.role(), bench.raft.term) == (Role.CANDIDATE, 4)
    bench.disk.close()
