"""Elections: pre-vote, durable votes counted per voter, voters loyal to a living leader, a quick start when it died.

Promises: one vote per term, also across a power loss; a node that cannot win does not raise the term of others; no
vote is sent, and the candidate's own not counted, before it is durable. Two that start at once do not wait for a
timeout: one of them gives way, and who has lost an election tries again soon.
"""

from __future__ import annotations

import logging

from orchestrator.replication.frames import PreVoteReply, PreVoteRequest, TimeoutNow, VoteReply, VoteRequest
from orchestrator.replication.state import Role, SyncObj

logger = logging.getLogger(__name__)

# A node that stands back misses the leader for so many election timeouts before it stands for election itself.
STAND_BACK_TIMEOUTS = 4
NEVER = float("inf")


class Elections:
    def __init__(self, raft: SyncObj) -> None:
        self._raft = raft
        self._round = 0
        self._pre_votes: set[str] | None = None
        self._votes: set[str] = set()
        self._denials: set[str] = set()
        # Elections in a row that this node lost because the votes were split.
        self._lost = 0
        self._requested = False
        self._transfer = False
        # A candidate whose time is not over yet.
        self._patient = False
        # A vote given but not yet durable: (candidate, term).
        self._owed: tuple[str, int] | None = None
        self._leader_heard_at = float("-inf")
        # Its connection closed and redialling was refused: its process is gone.
        self._leader_refused = False
        self._quick_at: float | None = None
        # Why others than this node are to lead, if any of them can.
        self._stands_back: set[str] = set()
        self._stands_back_since = raft.clock.monotonic()
        # Who asked for votes since the leader was heard, and lacks what this node has; and from when on it can't be
        # left to the others for that.
        self._lacking: set[str] = set()
        self._needed_at = NEVER

    def stand_back(self, why: str, does: bool) -> None:
        """Leaves it to others to stand for election, as long as they may be able to; votes are given as ever."""
        if does == (why in self._stands_back):
            return
        self._stands_back ^= {why}
        self._stands_back_since = self._raft.clock.monotonic()
        self._raft.wake()

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        self._send_owed()
        raft = self._raft
        if raft.role is Role.LEADER:
            return
        if not raft.is_voter:
            self._wait(now)
            return
        if raft.role is Role.CANDIDATE and not self._requested and self._own_vote_durable():
            self._request_votes()
        if self._leaves_it_to_others(now):
            return
        if self._quick_at is not None and now >= self._quick_at:
            self._quick_at = self._quick_again(now) if self._leader_refused else None
            self._start_pre_vote()
        elif now >= raft.election_deadline:
            self._timed_out()

    def _leaves_it_to_others(self, now: float) -> bool:
        raft = self._raft
        if not self._stands_back or now >= self._needed_at or raft.role is not Role.FOLLOWER:
            return False
        since = max(self._leader_heard_at, self._stands_back_since)
        if now >= since + STAND_BACK_TIMEOUTS * raft.settings.election_timeout_max_ms / 1000:
            return False
        self._quick_at = self._needed_at if self._needed_at < NEVER else None
        if now >= raft.election_deadline:
            raft.follow(raft.term, None)
            raft.defer_election()
        return True

    def _timed_out(self) -> None:
        raft = self._raft
        self._patient = False
        if raft.role is not Role.CANDIDATE:
            raft.follow(raft.term, None)
        elif not self._requested:
            # A further term would have to wait for the same slow disk.
            raft.defer_election()
            return
        # A candidate stays one meanwhile: votes that took long to become durable count.
        self._start_pre_vote()

    def _wait(self, now: float) -> None:
        """A learner, or a node that was removed, never campaigns; it votes when it is asked."""
        raft = self._raft
        self._quick_at = None
        self._pre_votes = None
        if raft.role is Role.CANDIDATE or now >= raft.election_deadline:
            raft.follow(raft.term, None)
            raft.defer_election()

    def next_deadline(self) -> float:
        if self._raft.role is Role.LEADER:
            return NEVER
        deadline = self._raft.election_deadline
        return deadline if self._quick_at is None else min(deadline, self._quick_at)

    # -- what is heard of the leader -------------------------------------------------------------------------------

    def leader_heard(self) -> None:
        self._leader_heard_at = self._raft.clock.monotonic()
        self._leader_refused = False
        self._quick_at = None
        self._pre_votes = None
        self._lost = 0
        self._lacking.clear()
        self._needed_at = NEVER
        self._raft.defer_election()

    def leader_refused(self, name: str) -> None:
        """Dialling `name` was refused. Only a leader, or candidate, that was also heard before can have just died."""
        raft = self._raft
        if raft.role is not Role.FOLLOWER:
            return
        if raft.leader == name and not self._leader_refused:
            self._leader_refused = True
        elif raft.leader is not None or raft.voted_for != name or self._quick_at is not None:
            return
        self._quick_at = self._quick_time()
        raft.wake()

    def _quick_time(self) -> float:
        """Soon; later with each election that was lost, for then the candidates were too close to each other."""
        raft, settings = self._raft, self._raft.settings
        latest_ms = min(settings.fast_failover_max_ms * 2 ** min(self._lost, 8), settings.election_timeout_min_ms)
        return raft.clock.monotonic() + raft.rng.uniform(settings.fast_failover_min_ms, latest_ms) / 1000

    def _quick_again(self, now: float) -> float:
        """Pauses grow with the silence: an answer that is longer under way finds a round that is over."""
        raft = self._raft
        silence_s = min(now - self._leader_heard_at, raft.settings.election_timeout_max_ms / 1000)
        return max(self._quick_time(), now + silence_s * raft.rng.uniform(0.5, 1.0))

    def _leader_lives(self) -> bool:
        raft = self._raft
        if raft.role is Role.LEADER:
            return True
        recently = self._leader_heard_at + raft.settings.election_timeout_min_ms / 1000 > raft.clock.monotonic()
        return raft.leader is not None and recently and not self._leader_refused

    # -- pre-vote ------------------------------------------------------------------------------------------------

    def _start_pre_vote(self) -> None:
        raft = self._raft
        raft.defer_election()
        self._round += 1
        self._pre_votes = {raft.name}
        request = PreVoteRequest(raft.term + 1, raft.last_index, raft.last_term, self._round)
        for name in raft.other_voters:
            if raft.connected(name):
                raft.send(name, request)
        self._count_pre_votes()

    def on_pre_vote_request(self, name: str, message: PreVoteRequest) -> None:
        raft = self._raft
        # What it proposes must be news to us, else it has to learn our term first.
        granted = (
            message.term > raft.term
            and not self._leader_lives()
            and self._up_to_date(message.last_index, message.last_term)
            and not self._may_win_over(message)
            and not self._owes_vote()
        )
        if granted:
            self._give_way(name, message)
        elif not self._leader_lives() and not self._up_to_date(message.last_index, message.last_term):
            self._go_instead(name)
        raft.send(name, PreVoteReply(raft.term, message.round, granted))

    def _may_win_over(self, message: PreVoteRequest) -> bool:
        """A candidate waits for its votes: a later term could only depose it. Unless the log of the other is longer."""
        raft = self._raft
        equal = (message.last_term, message.last_index) == (raft.last_term, raft.last_index)
        return raft.role is Role.CANDIDATE and self._patient and equal

    def _owes_vote(self) -> bool:
        """A vote is being made durable: with a slow disk, a further term would begin before any vote is given."""
        raft = self._raft
        return self._owed is not None and self._owed == (raft.voted_for, raft.term)

    def _give_way(self, name: str, message: PreVoteRequest) -> None:
        """Who asks first goes first. Of two that ask at once it is the one with the longer log, or the greater name."""
        raft = self._raft
        if self._pre_votes is not None:
            theirs = (message.last_term, message.last_index, name)
            if theirs < (raft.last_term, raft.last_index, raft.name):
                return
            self._pre_votes = None
        if self._quick_at is not None:
            self._quick_at = self._quick_time() + raft.settings.fast_failover_max_ms / 1000

    def _go_instead(self, name: str) -> None:
        """Who asks lacks something that this node has, and both miss the leader: then it is this node's turn.

        Who stands back lets those go first who may have it as well: they are asked, too.
        """
        raft = self._raft
        self._lacking.add(name)
        now = raft.clock.monotonic()
        wait_ms = raft.settings.election_timeout_min_ms if self._stands_back and self._others_may_have_it() else 0
        self._needed_at = min(self._needed_at, now + wait_ms / 1000)
        if raft.role is Role.FOLLOWER and (self._quick_at is None or self._stands_back):
            self._quick_at = max(self._quick_time(), self._needed_at)
            raft.wake()

    def _others_may_have_it(self) -> bool:
        raft = self._raft
        dead = raft.leader if self._leader_refused else None
        return any(raft.connected(one) and one != dead for one in raft.other_voters if one not in self._lacking)

    def on_pre_vote_reply(self, name: str, message: PreVoteReply) -> None:
        raft = self._raft
        if message.term > raft.term:
            self._pre_votes = None
            raft.follow(message.term, None)
            # Our term was behind, that was all: ask again soon. A living leader's next heartbeat cancels it.
            self._quick_at = self._quick_time()
        elif message.granted and message.round == self._round and self._pre_votes is not None:
            self._pre_votes.add(name)
            self._count_pre_votes()

    def _count_pre_votes(self) -> None:
        if self._pre_votes is not None and len(self._pre_votes & self._raft.voters) >= self._raft.majority:
            self._campaign(transfer=False)

    # -- vote ----------------------------------------------------------------------------------------------------

    def on_timeout_now(self, name: str, message: TimeoutNow) -> None:
        """The leader hands over to us; it has checked that we hold its whole log."""
        raft = self._raft
        if message.term == raft.term and raft.leader == name and raft.role is Role.FOLLOWER and raft.is_voter:
            self._campaign(transfer=True)

    def _campaign(self, *, transfer: bool) -> None:
        raft = self._raft
        self._pre_votes = None
        self._quick_at = None
        self._votes = set()
        self._denials = set()
        self._requested = False
        self._transfer = transfer
        self._owed = None
        self._patient = True
        raft.defer_election()
        raft.campaign()
        logger.info("node %s campaigns in term %d", raft.name, raft.term)

    def _own_vote_durable(self) -> bool:
        durable = self._raft.hard_state.durable
        return durable.term == self._raft.term and durable.voted_for == self._raft.name

    def _request_votes(self) -> None:
        raft = self._raft
        self._requested = True
        raft.defer_election()
        request = VoteRequest(raft.term, raft.last_index, raft.last_term, self._transfer)
        for name in raft.other_voters:
            raft.send(name, request)
        self._count(raft.name)

    def on_vote_request(self, name: str, message: VoteRequest) -> None:
        raft = self._raft
        if self._leader_lives() and not message.transfer and message.term > raft.term:
            return
        if message.term > raft.term:
            raft.follow(message.term, None)
        if (
            message.term < raft.term
            or raft.role is Role.LEADER
            or raft.voted_for not in (None, name)
            or not self._up_to_date(message.last_index, message.last_term)
        ):
            raft.send(name, VoteReply(raft.term, False))
            return
        # A start of our own, or answers to a pre-vote that are still under way, would depose whom we vote for.
        self._pre_votes = None
        self._quick_at = None
        raft.vote_for(name)
        raft.defer_election()
        self._owed = (name, raft.term)
        self._send_owed()

    def _send_owed(self) -> None:
        if self._owed is None:
            return
        name, term = self._owed
        raft = self._raft
        if raft.term != term or raft.voted_for != name:
            self._owed = None
        elif (raft.hard_state.durable.term, raft.hard_state.durable.voted_for) == (term, name):
            self._owed = None
            raft.send(name, VoteReply(term, True))

    def on_vote_reply(self, name: str, message: VoteReply) -> None:
        raft = self._raft
        if message.term > raft.term:
            raft.follow(message.term, None)
        elif message.term == raft.term and raft.role is Role.CANDIDATE and self._requested:
            if message.granted:
                self._count(name)
            else:
                self._denied(name)

    def _count(self, name: str) -> None:
        self._votes.add(name)
        if len(self._votes & self._raft.voters) >= self._raft.majority:
            self._lost = 0
            self._raft.lead()

    def _denied(self, name: str) -> None:
        """Without a majority that could still vote for it, a candidate need not wait for its timeout."""
        raft = self._raft
        self._denials.add(name)
        others = {voter for voter in raft.other_voters if raft.connected(voter)}
        if 1 + len(others - self._denials) < raft.majority:
            self._lost += 1
            raft.follow(raft.term, None)
            self._quick_at = self._quick_time()

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        return (last_term, last_index) >= (self._raft.last_term, self._raft.last_index)
