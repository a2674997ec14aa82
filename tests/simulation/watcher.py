"""What must hold after every step of any node, whatever happens around it. The first breach ends the run."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from orchestrator.engine import invariants, throttle
from orchestrator.engine.model import Table
from orchestrator.engine.state import State
from orchestrator.replication.configuration import Configuration
from orchestrator.replication.segment import HEADER, HEADER_MAGIC, decode_record
from tests.simulation.configurations import Configurations

# The scan of the whole state is made on each node after one entry of so many.
INVARIANTS_EVERY = 24
# They need every execution in memory, which no node promises.
_WHOLE_STATE = {"live_executions_are_counted", "bundles_are_counted", "places_are_counted"}


@dataclass
class Applied:
    """What the first node that applied an index made of it."""

    term: int
    chain: bytes
    log_time_ms: int
    by: str


@dataclass
class Watcher:
    """One for a whole run."""

    now: Callable[[], float]
    verbose: bool = False
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    leaders: dict[int, str] = field(default_factory=dict)
    applied: dict[int, Applied] = field(default_factory=dict)
    # (index, term) -> (what the record holds, the term of the one before it)
    records: dict[tuple[int, int], tuple[int, int | None]] = field(default_factory=dict)
    # Votes, elections, records, applied entries and accepted completions, each as it happened; no scans.
    checks: int = 0
    snapshots: int = 0
    # Outputs that were said for an attempt under a token, and the token under which one was accepted.
    said: dict[tuple[str, int], dict[bytes, None]] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    votes: dict[tuple[str, int], str] = field(default_factory=dict)
    _terms: dict[str, dict[int, int]] = field(default_factory=dict)
    # Of each node: records written to each file and not yet synced; what is synced; what a snapshot covers.
    _unsynced: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    _synced: dict[str, dict[int, int]] = field(default_factory=dict)
    _covered: dict[str, int] = field(default_factory=dict)
    _digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))  # type: ignore[type-arg]

    def __post_init__(self) -> None:
        self.configurations = Configurations(self.violated)

    @property
    def trace_hash(self) -> str:
        return self._digest.hexdigest()

    @property
    def highest(self) -> int:
        """The highest index that anybody has applied."""
        return max(self.applied, default=0)

    def trace(self, who: str, what: str) -> None:
        line = f"{self.now():10.6f} {who:<8} {what}"
        self._digest.update(line.encode())
        if self.verbose:
            self.lines.append(line)

    def violated(self, what: str) -> None:
        self.violations.append(f"at {self.now():.3f} s: {what}")
        self.trace("CHECK", what)

    # -- raft --------------------------------------------------------------------------------------------------------

    def became_leader(self, node: str, term: int, term_at: Callable[[int], int | None], first_index: int) -> None:
        """At most one leader per term, and it holds everything that leaders of earlier terms have committed."""
        self.checks += 1
        if any(later > term for later in self.leaders):
            # Elected long ago, told only now: what a later leader has committed is not its concern.
            first_index = self.highest + 1
        if self.leaders.setdefault(term, node) != node:
            self.violated(f"{node} and {self.leaders[term]} both lead term {term}")
        highest = self.highest
        if highest >= first_index and term_at(highest) != self.applied[highest].term:
            self.violated(
                f"{node} leads term {term} with {term_at(highest)} at index {highest}, where "
                f"{self.applied[highest].by} applied an entry of term {self.applied[highest].term}"
            )

    def elected(self, holder: str, node: str, term: int, configuration: Configuration | None) -> None:
        """Those that vote for a leader are a majority of the members that it knows, and it is one of them."""
        self.checks += 1
        members = self.configurations.holders(configuration) if configuration is not None else set()
        voters = {voter for (voter, at), candidate in self.votes.items() if (at, candidate) == (term, node)}
        if holder not in members or len(voters & members) * 2 <= len(members):
            self.violated(f"{holder} leads term {term} by the votes of {sorted(voters)} among {sorted(members)}")

    def voted(self, node: str, term: int, candidate: str) -> None:
        """One vote per term, whatever happens to the node meanwhile."""
        self.checks += 1
        if self.votes.setdefault((node, term), candidate) != candidate:
            self.violated(f"{node} votes for {candidate} and {self.votes[node, term]} in term {term}")

    def journal_written(self, node: str, path: str, offset: int, data: bytes) -> None:
        """Log matching: where two records agree in index and term, they and the records before them agree."""
        unsynced = self._unsynced.setdefault((node, path), [])
        terms = self._terms.setdefault(node, {})
        at = 0
        if offset == 0 and data[:4] == HEADER_MAGIC:
            _, _, _, base_index, base_term, _ = HEADER.unpack_from(data, 0)
            terms[base_index] = base_term
            self._covered[node] = max(self._covered.get(node, 0), base_index)
            at = HEADER.size
        while (decoded := decode_record(data, at)) is not None:
            record, _, at = decoded
            self.checks += 1
            held = (zlib.crc32(record.data, record.kind), terms.get(record.index - 1))
            known = self.records.setdefault((record.index, record.term), held)
            if known != held:
                self.violated(f"{node} has another entry at index {record.index} of term {record.term}, or before it")
            terms[record.index] = record.term
            unsynced.append((record.index, record.term))

    def journal_synced(self, node: str, path: str) -> None:
        self._synced.setdefault(node, {}).update(self._unsynced.pop((node, path), ()))

    def opened(self, node: str, covered: int, terms: dict[int, int]) -> None:
        """The node has opened its journal, and so made durable what it found there."""
        for place in [place for place in self._unsynced if place[0] == node]:
            del self._unsynced[place]
        self._synced[node] = terms
        self._covered[node] = covered

    def _check_durable(self, node: str, index: int, term: int) -> None:
        """What is applied is on the platters of a majority."""
        holding = {
            holder
            for holder, synced in self._synced.items()
            if synced.get(index) == term or self._covered.get(holder, 0) >= index
        }
        counted = self.configurations.counted_by(index)
        if not any(len(holding & holders) * 2 > len(holders) for holders in counted):
            self.violated(f"{node} applied index {index} of term {term}, and the disks of {sorted(holding)} hold it")

    def completion_said(self, task_id: str, token: int, output: bytes) -> None:
        """Somebody who has, or had, the token says so; whether it counts is another matter."""
        self.said.setdefault((task_id, token), {})[output] = None

    def completion_accepted(self, task_id: str, token: int) -> None:
        """One lease at most of an attempt has a result that counts."""
        self.checks += 1
        if self.accepted.setdefault(task_id, token) != token:
            self.violated(f"completions of {task_id} were accepted under {self.accepted[task_id]} and {token}")

    # -- what is applied ---------------------------------------------------------------------------------------------

    def entry_applied(self, node: str, index: int, term: int, chain: bytes, state: State) -> None:
        """Every node makes the same of the same index."""
        self.checks += 1
        log_time_ms = state.meta.log_time_ms
        is_first = index not in self.applied
        known = self.applied.setdefault(index, Applied(term, chain, log_time_ms, node))
        if is_first:
            self.configurations.applied(index, term)
            self._check_durable(node, index, term)
            self.trace(node, f"applied {index} of term {term}: {chain.hex()[:12]}")
        if (known.term, known.chain, known.log_time_ms) != (term, chain, log_time_ms):
            self.violated(
                f"{node} applied index {index} of term {term} with the chain {chain.hex()}, and "
                f"{known.by} of term {known.term} with {known.chain.hex()}"
            )
        before = self.applied.get(index - 1)
        if before is not None and before.log_time_ms > log_time_ms:
            self.violated(f"log time goes back from {before.log_time_ms} to {log_time_ms} at index {index}")
        if (index + sum(node.encode())) % INVARIANTS_EVERY == 0:
            self.check_state(node, state)

    def check_state(self, node: str, state: State) -> None:
        for check in invariants.CHECKS:
            if check.__name__ not in _WHOLE_STATE:
                for breach in check(state):
                    self.violated(f"{node}: {check.__name__}: {breach}")
        for breach in limits_exceeded(state):
            self.violated(f"{node}: {breach}")


def limits_exceeded(state: State) -> Iterator[str]:
    """Limits are exact, whoever leads. They are registered before anything is started, and nobody changes them."""
    for namespace, name in sorted(state.resident[Table.TASK_DEFINITION]):
        limits = throttle.registered_limits(state, str(namespace), str(name))
        leased = state.leased.get((str(namespace), str(name)), 0)
        if limits is not None and 0 < limits.at_once < leased:
            yield f"{leased} attempts of {name} are leased, the limit is {limits.at_once}"
    places = {
        (row.namespace, row.name): json.loads(row.document).get("rateLimitConfig", {}).get("concurrentExecLimit", 0)
        for row in state.resident[Table.WORKFLOW_DEFINITION].values()
    }
    for group in state.resident[Table.WORKFLOW_GROUP].values():
        if group.running > places[group.namespace, group.name]:
            yield f"{group.running} executions of {group.name} run under {group.key!r}"
