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
from orchestrator.replication.votes import STAND_BACK_TIMEOUTS
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
    bench.tick(after_ms=800)
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
    sent = bench.tick(after_ms=800)
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
    bench.tick(after_ms=800)
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


async def test_who_has_voted_does_not_start_by_itself() -> None:
    """Its own start was drawn before, and would depose the leader for which it has just voted."""
    bench = Bench()
    bench.hear("n2", Heartbeat(3, 0, 1))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n2")
    bench.hear("n3", VoteRequest(4, 9, 3, False))
    await bench.settle()
    assert bench.tick() == [("n3", VoteReply(4, True))]
    assert bench.tick(after_ms=60) == []
    bench.disk.close()


async def test_a_candidate_that_dies_is_missed_as_soon_as_a_leader() -> None:
    bench = Bench()
    bench.hear("n3", VoteRequest(4, 9, 3, False))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n2")
    assert bench.tick(after_ms=60) == []
    bench.raft.elections.leader_refused("n3")
    assert {type(message) for _, message in bench.tick(after_ms=51)} == {PreVoteRequest}
    bench.disk.close()


async def test_a_candidate_favours_only_a_longer_log_than_its_own() -> None:
    bench = Bench()
    bench.hear("n2", Append(3, 0, 0, 0, entries(2, 3)))
    bench.raft.elections._campaign(transfer=False)
    bench.take()
    for last_index, granted in [(2, False), (3, True)]:
        bench.hear("n3", PreVoteRequest(5, last_index, 3, 1))
        assert bench.take() == [("n3", PreVoteReply(4, 1, granted))]
    bench.disk.close()


async def test_of_two_that_start_at_once_one_gives_way() -> None:
    for other, goes_on in [("n0", True), ("n3", False)]:
        bench = Bench()
        bench.tick(after_ms=800)
        bench.take()
        bench.hear(other, PreVoteRequest(1, 0, 0, 1))
        assert bench.take() == [(other, PreVoteReply(0, 1, True))]
        bench.hear("n3", PreVoteReply(0, 1, True))
        assert (bench.role() is Role.CANDIDATE) == goes_on
        bench.disk.close()


async def test_who_asks_first_goes_first() -> None:
    bench = Bench()
    bench.hear("n2", Heartbeat(3, 0, 1))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n2")
    bench.hear("n3", PreVoteRequest(4, 9, 3, 1))
    assert bench.tick(after_ms=50) == [("n3", PreVoteReply(3, 1, True))]
    # Nothing comes of it: then it is this node's turn.
    assert {type(message) for _, message in bench.tick(after_ms=51)} == {PreVoteRequest}
    bench.disk.close()


async def test_who_has_lost_an_election_tries_again_soon() -> None:
    bench = Bench()
    bench.raft.elections._campaign(transfer=False)
    await bench.settle()
    bench.tick()
    bench.hear("n2", VoteReply(1, False))
    assert bench.role() is Role.CANDIDATE  # the other may still vote for it
    bench.hear("n3", VoteReply(1, False))
    assert bench.role() is Role.FOLLOWER
    assert {type(message) for _, message in bench.tick(after_ms=101)} == {PreVoteRequest}
    bench.disk.close()


async def test_who_loses_again_and_again_tries_at_longer_intervals() -> None:
    bench = Bench()
    waits = []
    for _ in range(12):
        bench.raft.elections._campaign(transfer=False)
        await bench.settle()
        bench.tick()
        for voter in ("n2", "n3"):
            bench.hear(voter, VoteReply(bench.raft.term, False))
        waits.append(round((bench.raft.elections.next_deadline() - bench.clock.now) * 1000))
    assert max(waits[:2]) <= 200
    assert 200 < max(waits) <= bench.settings.election_timeout_min_ms
    bench.disk.close()


async def test_a_candidate_waits_for_its_own_disk() -> None:
    bench = Bench()
    bench.raft.elections._campaign(transfer=False)
    assert bench.tick(after_ms=800) == bench.tick(after_ms=800) == []
    assert (bench.role(), bench.raft.term) == (Role.CANDIDATE, 1)
    await bench.settle()
    assert [type(message) for _, message in bench.tick()] == [VoteRequest, VoteRequest]
    # From now on the others have a full timeout.
    assert bench.tick(after_ms=499) == []
    bench.disk.close()


async def test_votes_that_took_long_to_become_durable_count() -> None:
    bench = Bench()
    bench.raft.elections._campaign(transfer=False)
    await bench.settle()
    bench.tick()
    assert {type(message) for _, message in bench.tick(after_ms=800)} == {PreVoteRequest}
    bench.hear("n2", VoteReply(1, True))
    assert (bench.role(), bench.raft.term) == (Role.LEADER, 1)
    bench.disk.close()


async def test_a_candidate_whose_time_is_over_no_longer_stands_in_the_way_of_others() -> None:
    bench = Bench()
    bench.raft.elections._campaign(transfer=False)
    await bench.settle()
    bench.tick()
    for after_ms, granted in [(0, False), (800, True)]:
        bench.tick(after_ms=after_ms)
        bench.hear("n3", PreVoteRequest(2, 0, 0, 1))
        assert bench.take() == [("n3", PreVoteReply(1, 1, granted))]
    bench.disk.close()


async def test_who_is_about_to_vote_favours_nobody_for_a_further_term() -> None:
    """Else a candidate whose voter has a slow disk would begin one term after the other."""
    bench = Bench()
    bench.hear("n2", VoteRequest(5, 0, 0, False))
    bench.hear("n2", PreVoteRequest(6, 0, 0, 1))
    assert bench.tick() == [("n2", PreVoteReply(5, 1, False))]
    await bench.settle()
    assert bench.tick() == [("n2", VoteReply(5, True))]
    bench.hear("n2", PreVoteRequest(6, 0, 0, 2))
    assert bench.take() == [("n2", PreVoteReply(5, 2, True))]
    bench.disk.close()


async def test_who_refuses_a_shorter_log_asks_itself_soon() -> None:
    """It may have asked already, when the other had just heard the leader: both would wait for another timeout."""
    bench = Bench()
    bench.hear("n2", Append(3, 0, 0, 0, entries(2, 3)))
    await bench.settle()
    bench.tick()
    bench.hear("n3", PreVoteRequest(4, 1, 2, 1))
    assert bench.tick(after_ms=60) == [("n3", PreVoteReply(3, 1, False))]  # the leader lives
    assert {type(message) for _, message in bench.tick(after_ms=800)} == {PreVoteRequest}
    bench.hear("n3", PreVoteRequest(4, 1, 2, 2))
    assert bench.take() == [("n3", PreVoteReply(3, 2, False))]
    assert {type(message) for _, message in bench.tick(after_ms=51)} == {PreVoteRequest}
    bench.disk.close()


async def test_who_stands_back_leaves_the_election_to_the_others_while_they_may_win() -> None:
    bench = Bench()
    bench.raft.elections.stand_back("clock", True)
    for _ in range(2):
        bench.hear("n2", Heartbeat(3, 0, 1))
        await bench.settle()
        bench.tick()
        bench.raft.elections.leader_refused("n2")
        patience_ms = STAND_BACK_TIMEOUTS * bench.settings.election_timeout_max_ms
        assert [message for _ in range(8) for message in bench.tick(after_ms=patience_ms // 10)] == []
        # Others have its vote meanwhile.
        bench.hear("n3", PreVoteRequest(4, 9, 3, 1))
        assert bench.take() == [("n3", PreVoteReply(3, 1, True))]
    asked = [message for _ in range(8) for _, message in bench.tick(after_ms=patience_ms // 10)]
    assert {type(message) for message in asked} == {PreVoteRequest}, "nobody else has won: then it is its turn"
    bench.disk.close()


async def test_who_stands_back_stands_at_once_if_it_alone_can_win() -> None:
    bench = Bench()
    bench.raft.elections.stand_back("clock", True)
    bench.hear("n2", Append(3, 0, 0, 0, entries(2, 3)))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n2")
    bench.hear("n3", PreVoteRequest(4, 1, 2, 1))
    assert bench.take()[-1] == ("n3", PreVoteReply(3, 1, False))
    assert {type(message) for _, message in bench.tick(after_ms=51)} == {PreVoteRequest}
    bench.disk.close()


async def test_who_stands_back_lets_those_go_first_who_may_have_what_another_one_lacks() -> None:
    bench = Bench(5)
    bench.raft.elections.stand_back("drained", True)
    bench.hear("n2", Append(3, 0, 0, 0, entries(2, 3)))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n2")
    # Of n4 and n5 nobody knows: they are asked for votes as well, and have the time to stand for election.
    bench.hear("n3", PreVoteRequest(4, 1, 2, 1))
    assert bench.take()[-1] == ("n3", PreVoteReply(3, 1, False))
    early_ms = bench.settings.election_timeout_min_ms // 10
    assert [message for _ in range(8) for message in bench.tick(after_ms=early_ms)] == []
    asked = [message for _ in range(3) for _, message in bench.tick(after_ms=early_ms)]
    assert {type(message) for message in asked} == {PreVoteRequest}, "they have not"
    bench.disk.close()


async def test_who_stands_back_waits_for_nobody_when_all_others_have_said_that_they_lack_something() -> None:
    bench = Bench(5)
    bench.raft.elections.stand_back("drained", True)
    bench.hear("n2", Append(3, 0, 0, 0, entries(2, 3)))
    await bench.settle()
    bench.tick()
    bench.raft.elections.leader_refused("n2")
    for name in ("n3", "n4", "n5"):
        assert bench.tick(after_ms=1) == []
        bench.hear(name, PreVoteRequest(4, 1, 2, 1))
        bench.take()
    assert {type(message) for _, message in bench.tick(after_ms=51)} == {PreVoteRequest}
    bench.disk.close()


async def test_who_stands_back_leads_when_it_is_told_to() -> None:
    bench = Bench()
    bench.raft.elections.stand_back("clock", True)
    bench.hear("n2", Heartbeat(3, 0, 1))
    bench.hear("n2", TimeoutNow(3))
    assert bench.role() is Role.CANDIDATE
    bench.disk.close()
