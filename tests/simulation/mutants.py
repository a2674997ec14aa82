"""Mistakes that can be planted in the product, to see that the simulation finds them.

Each replaces one function by one with a plausible mistake, for as long as it is planted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from orchestrator.engine import attempts, commands, dedup, limits
from orchestrator.engine.handlers import results
from orchestrator.engine.machine import COMMANDS
from orchestrator.engine.messages import TimerFired
from orchestrator.engine.model import Table, TaskStatus, TimerKind
from orchestrator.engine.results import Done
from orchestrator.engine.state import State
from orchestrator.replication import sequencer
from orchestrator.replication.barrier import ReadBarrier
from orchestrator.replication.changes import MembershipChanges
from orchestrator.replication.configuration import Configuration
from orchestrator.replication.core import SyncObj
from orchestrator.replication.errors import NotLeader
from orchestrator.replication.follower import Follower
from orchestrator.replication.frames import Ack, VoteReply
from orchestrator.replication.hard_state import HardStateFile
from orchestrator.replication.journal import SegmentWriter
from orchestrator.replication.leader import Replicator
from orchestrator.replication.log import ReplicatedLog
from orchestrator.replication.sequencer import Sequencer
from orchestrator.replication.state import Role
from orchestrator.replication.votes import Elections
from orchestrator.rpc import workflows
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.workflows import WorkflowServicer
from orchestrator.services import liveness
from orchestrator.services.notifier import Notifier
from orchestrator.services.ticker import Ticker
from orchestrator.storage import schema

VARIABLE = "SIMULATION_MUTANT"


class Mutant(NamedTuple):
    """A mistake: what is replaced (an attribute, or the item of a dict), and what makes the replacement of it.

    `also`: other mistakes without which it would do no harm.
    """

    about: str
    owner: Any
    name: Any
    make: Callable[[Any], Any]
    also: tuple[Any, ...] = ()


# -- the state ------------------------------------------------------------------------------------------------------


def _knows_hot_ones_only(original: Any) -> Any:
    return lambda self, key: self.execution(key) is not None


# -- the replicated log --------------------------------------------------------------------------------------------


def _journal_without_fsync(original: Any) -> Any:
    def sync(self: SegmentWriter) -> None:
        if self._buffer:
            assert self._file is not None
            self._file.write(self.take())

    return sync


def _acknowledges_before_durable(original: Any) -> Any:
    def send_ack(self: Follower) -> None:
        raft = self._raft
        if self._leader is None or raft.leader != self._leader or raft.term != self._term:
            return
        match = min(self._verified, raft.last_index)
        if match <= self._acked and not self._ack_due:
            return
        self._ack_due = False
        self._acked = match
        raft.send(self._leader, Ack(self._term, match, self._round))

    return send_ack


def _counts_stale_acknowledgements(original: Any) -> Any:
    def to_leader(self: SyncObj, handle: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
        def received(name: str, message: Any) -> None:
            if message.term > self.term:
                self.follow(message.term, None)
            elif self.role is Role.LEADER and name in self.replicator.progress:
                handle(name, message)

        return received

    return to_leader


def _counts_stale_acknowledgements_of_anything(original: Any) -> Any:
    counting = _counts_stale_acknowledgements(original)

    def to_leader(self: SyncObj, handle: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
        def believed(name: str, message: Any) -> None:
            if isinstance(message, Ack) and message.match_index > self.last_index:
                # What follows is taken for acknowledged as it is appended.
                self.raise_match_index(name, message.match_index)
            else:
                handle(name, message)

        return counting(self, believed)

    return to_leader


def _commits_what_one_has_not_synced(original: Any) -> Any:
    def advance_commit(self: Replicator) -> None:
        raft = self._raft
        matches = sorted([raft.last_index, *(raft.match_index(name) for name in raft.peers)], reverse=True)
        index = matches[raft.majority - 1]
        if index > raft.commit_index and raft.journal.term_at(index) == raft.term:
            raft.commit_index = index

    return advance_commit


def _commits_entries_of_earlier_terms(original: Any) -> Any:
    def advance_commit(self: Replicator) -> None:
        raft = self._raft
        matches = sorted([raft.journal.durable_index, *(raft.match_index(name) for name in raft.peers)], reverse=True)
        raft.commit_index = max(raft.commit_index, matches[raft.majority - 1])

    return advance_commit


def _commits_without_a_majority(original: Any) -> Any:
    def advance_commit(self: Replicator) -> None:
        raft = self._raft
        index = raft.journal.durable_index
        if index > raft.commit_index and raft.journal.term_at(index) == raft.term:
            raft.commit_index = index

    return advance_commit


def _votes_twice(original: Any) -> Any:
    def on_vote_request(self: Elections, name: str, message: Any) -> None:
        raft = self._raft
        if message.term > raft.term:
            raft.follow(message.term, None)
        if message.term == raft.term and self._up_to_date(message.last_index, message.last_term):
            raft.send(name, VoteReply(raft.term, True))

    return on_vote_request


def _votes_before_durable(original: Any) -> Any:
    def save(self: HardStateFile, state: Any) -> None:
        if state != self.current:
            original(self, state)
            self.durable = state
            self._on_durable()

    return save


def _votes_for_whoever_asks(original: Any) -> Any:
    return lambda self, last_index, last_term: True


def _cuts_without_a_conflict(original: Any) -> Any:
    def take(self: Follower, prev_index: int, entries: Any) -> None:
        raft = self._raft
        index = max(prev_index, raft.commit_index)
        entries = entries[index - prev_index :]
        if entries:
            raft.journal.truncate_from(index + 1)
        for entry in entries:
            index += 1
            raft.journal.append(index, entry.term, entry.kind, entry.data)

    return take


def _sends_again(original: Any) -> Any:
    def peer_connected(self: Replicator, name: str) -> None:
        original(self, name)
        if self._raft.role is Role.LEADER and name in self.progress:
            self._raft.set_next_index(name, self._raft.match_index(name) + 1)

    return peer_connected


def _reads_without_a_round(original: Any) -> Any:
    async def wait(self: ReadBarrier) -> int:
        if self._raft.role is not Role.LEADER:
            raise NotLeader(self._raft.leader)
        return self._raft.commit_index

    return wait


def _cuts_the_journal_too_early(original: Any) -> Any:
    def flushed(self: ReplicatedLog, index: int) -> None:
        original(self, index)
        journal = self._core.journal
        journal.remove_below(self._core.handed_out_index)
        self._durable.disk.kick()

    return flushed


def _counts_learners(original: Any) -> Any:
    def advance_commit(self: Replicator) -> None:
        raft = self._raft
        matches = sorted([raft.journal.durable_index, *(raft.match_index(name) for name in raft.peers)], reverse=True)
        index = matches[raft.majority - 1]
        if index > raft.commit_index and raft.journal.term_at(index) == raft.term:
            raft.commit_index = index

    return advance_commit


def _changes_at_once(original: Any) -> Any:
    return lambda self, before, name: None


def _takes_a_blank_disk_for_the_old_one(original: Any) -> Any:
    return lambda self, name, incarnation: self.find(name) is not None


# -- the sequencer and the database --------------------------------------------------------------------------------


def _calls_the_unknown_certain(original: Any) -> Any:
    return lambda: NotLeader(None)


class _AnyTerm(int):
    def __ne__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


def _answers_whoever_waits(original: Any) -> Any:
    def close(self: Sequencer, leader: str | None) -> None:
        kept, self._in_flight = self._in_flight, {}
        original(self, leader)
        for entry in kept.values():
            entry.term = _AnyTerm()
        self._in_flight = kept

    return close


def _answers_before_commit(original: Any) -> Any:
    def pump(self: Sequencer) -> None:
        original(self)
        for entry in self._in_flight.values():
            for future in entry.futures:
                if not future.done():
                    future.set_result(Done())

    return pump


def _database_without_sync(original: Any) -> Any:
    def connect(*arguments: Any, **options: Any) -> Any:
        connection = original(*arguments, **options)
        connection.pragma("synchronous", "OFF")
        return connection

    return connect


# -- the engine ----------------------------------------------------------------------------------------------------


def _accepts_late_completions(original: Any) -> Any:
    return lambda step, attempt, token: attempt.status is TaskStatus.IN_PROGRESS


def _forgets_requests(original: Any) -> Any:
    return lambda state, identity: None


def _fires_early(original: Any) -> Any:
    def fire_timers(step: Any, command: Any) -> Any:
        for _ in range(limits.TIMERS_PER_COMMAND):
            timer = step.state.next_timer()
            if timer is None or timer.fire_ms > step.now + 700:
                break
            if timer.kind is TimerKind.CLIENT_SESSION_IDLE:
                break
            step.write(Table.TIMER, (timer.number,), None)
            step.send(TimerFired(timer.namespace, timer.workflow_id, timer.kind, timer.task_sequence, timer.number))
        return original(step, command)

    return fire_timers


def _retries_early(original: Any) -> Any:
    return lambda step, policy, attempt: original(step, policy, attempt) // 2


def _forgets_request_ids(original: Any) -> Any:
    return lambda state, identity: original(state, identity) if identity.session_id else None


# -- what only a leader does, and what it tells ---------------------------------------------------------------------


def _times_out_early(original: Any) -> Any:
    return lambda self, key, timeout_ms, now: original(self, key, timeout_ms // 2, now)


def _fires_late(original: Any) -> Any:
    def until_due_ms(self: Ticker) -> int | None:
        timer = self._machine().state.next_timer()
        return None if timer is None else max(0, timer.fire_ms + 8_000 - self._log_time_ms())

    return until_due_ms


def _lets_anybody_be_watched(original: Any) -> Any:
    async def current(self: WorkflowServicer) -> None:
        object.__setattr__(self.backend, "require_leading", lambda: None)

    return current


def _reads_on_any_node(original: Any) -> Any:
    async def read_point(self: Backend, options: Any) -> None:
        """Whatever this node has applied."""

    return read_point


def _mixes_namespaces(original: Any) -> Any:
    return lambda value: original("")


def _wakes_nobody(original: Any) -> Any:
    def wake(self: Notifier, topic: Any) -> None:
        """Whoever waits looks again when the leader changes."""

    return wake


MUTANTS: dict[str, Mutant] = {
    "skip_fsync": Mutant("the journal is not synced", SegmentWriter, "sync", _journal_without_fsync),
    "ack_before_durable": Mutant(
        "a follower acknowledges what it has not synced", Follower, "send_ack", _acknowledges_before_durable
    ),
    "count_stale_ack": Mutant(
        "acknowledgements of earlier terms count", SyncObj, "_to_leader", _counts_stale_acknowledgements
    ),
    "count_any_ack": Mutant(
        "they count, also of what this leader does not have",
        SyncObj,
        "_to_leader",
        _counts_stale_acknowledgements_of_anything,
    ),
    "commit_unsynced": Mutant(
        "the leader counts its own copy before it is durable",
        Replicator,
        "advance_commit",
        _commits_what_one_has_not_synced,
    ),
    "commit_old_term": Mutant(
        "entries of earlier terms are committed by counting",
        Replicator,
        "advance_commit",
        _commits_entries_of_earlier_terms,
    ),
    "commit_alone": Mutant(
        "the leader commits without a majority", Replicator, "advance_commit", _commits_without_a_majority
    ),
    "vote_twice": Mutant("two votes in one term", Elections, "on_vote_request", _votes_twice),
    "vote_before_durable": Mutant("a vote is sent before it is durable", HardStateFile, "save", _votes_before_durable),
    "vote_for_anybody": Mutant(
        "a candidate that lacks committed entries is voted for", Elections, "_up_to_date", _votes_for_whoever_asks
    ),
    "cut_without_conflict": Mutant(
        "a repeated append cuts what came after it", Follower, "_take", _cuts_without_a_conflict
    ),
    "resend_and_cut": Mutant(
        "the same, and what was in flight is sent again after a reconnection",
        Follower,
        "_take",
        _cuts_without_a_conflict,
        (Mutant("", Replicator, "peer_connected", _sends_again),),
    ),
    "read_without_round": Mutant(
        "reads do not ask whether this node still leads", ReadBarrier, "wait", _reads_without_a_round
    ),
    "cut_journal_early": Mutant(
        "the journal is cut above what the database holds", ReplicatedLog, "flushed", _cuts_the_journal_too_early
    ),
    "count_learners": Mutant("copies of learners count", Replicator, "advance_commit", _counts_learners),
    "change_at_once": Mutant(
        "members change while another change is under way", MembershipChanges, "_check_alone", _changes_at_once
    ),
    "forget_incarnation": Mutant(
        "a blank disk passes for the one that was lost", Configuration, "lists", _takes_a_blank_disk_for_the_old_one
    ),
    "unknown_is_certain": Mutant(
        "a call that may take effect is told that it will not",
        sequencer,
        "OutcomeUnknown",
        _calls_the_unknown_certain,
    ),
    "answer_by_index": Mutant(
        "callers get the results of another leader's entry", Sequencer, "close", _answers_whoever_waits
    ),
    "answer_before_commit": Mutant(
        "a call is answered when it is appended", Sequencer, "_pump", _answers_before_commit
    ),
    "database_unsynced": Mutant("the database is not synced", schema, "connect", _database_without_sync),
    "accept_late": Mutant(
        "a completion is accepted under any token", results, "holds", _accepts_late_completions
    ),
    "forget_requests": Mutant("repeated requests are executed again", dedup, "recall", _forgets_requests),
    "forget_request_ids": Mutant(
        "requests of plain clients are executed again", dedup, "recall", _forgets_request_ids
    ),
    "retry_early": Mutant("retries wait half as long", attempts, "_delay_ms", _retries_early),
    "timeout_early": Mutant(
        "deadlines in the leader's memory pass in half the time", liveness._Deadlines, "add", _times_out_early
    ),
    "fire_late": Mutant("timers fire 8 s late", Ticker, "_until_due_ms", _fires_late),
    "wake_nobody": Mutant("whoever waits for a change is not told of it", Notifier, "_wake", _wakes_nobody),
    "watch_anybody": Mutant(
        "any node serves watchers of what it has applied", WorkflowServicer, "_current", _lets_anybody_be_watched
    ),
    "read_anywhere": Mutant("any node answers reads of what it has applied", Backend, "read_point", _reads_on_any_node),
    "mix_namespaces": Mutant("all namespaces are one for workflows", workflows, "namespace_of", _mixes_namespaces),
    "read_deleted": Mutant(
        "what was deleted is read again from a database that still has it", State, "is_known", _knows_hot_ones_only
    ),
    "fire_early": Mutant("timers fire up to 0.7 s early", COMMANDS, commands.FireTimers, _fires_early),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The mistake is in force inside; nothing is for an empty name."""
    if not name:
        yield
        return
    with ExitStack() as stack:
        for mutant in (MUTANTS[name], *MUTANTS[name].also):
            stack.enter_context(_replaced(mutant))
        yield


@contextmanager
def _replaced(mutant: Mutant) -> Iterator[None]:
    if isinstance(mutant.owner, dict):
        original = mutant.owner[mutant.name]
        mutant.owner[mutant.name] = mutant.make(original)
    else:
        original = getattr(mutant.owner, mutant.name)
        setattr(mutant.owner, mutant.name, mutant.make(original))
    try:
        yield
    finally:
        if isinstance(mutant.owner, dict):
            mutant.owner[mutant.name] = original
        else:
            setattr(mutant.owner, mutant.name, original)
