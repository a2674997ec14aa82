"""What must hold of any replicated log, and whose fault it is when it does not.

The checks know nothing of any bug. Probes beside a log note what it does to its entries against the rules (a commit
index that passes over entries of another leader, a journal wiped at start, ...); when a check fails at an index, what
was noted about that index is the explanation. Several explanations, or none, name no bug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.history import FAILED, OK, Operation, linearizable
from tests.simulation.watcher import Watcher

UNEXPLAINED = "unexplained"


@dataclass
class First:
    """Who applied an index first, and what."""

    term: int
    digest: int
    by: str


@dataclass
class Finding:
    at_seconds: float
    what: str


@dataclass
class LogWatcher(Watcher):
    """One for a whole run; the first breach of a promise to clients or between nodes ends it."""

    firsts: dict[int, First] = field(default_factory=dict)
    # What each bug was caught at: a broken promise, or, under its name and "only noted", a broken rule behind one.
    findings: dict[str, Finding] = field(default_factory=dict)
    # Entries that a node had and should have, with what took them; and those that it took for committed wrongly.
    missing: dict[str, dict[int, tuple[int, str]]] = field(default_factory=dict)
    wrongly_committed: dict[str, dict[int, str]] = field(default_factory=dict)
    commands: dict[int, str] = field(default_factory=dict)
    # (index, term) of every entry that anybody ever wrote.
    written: set[tuple[int, int]] = field(default_factory=set)

    # -- notes of the probes ---------------------------------------------------------------------------------------

    def note(self, bug: str, what: str) -> None:
        name = f"{bug}, only noted"
        if name not in self.findings:
            self.findings[name] = Finding(self.now(), what)
            self.trace("NOTE", f"{name}: {what}")

    def lost(self, node: str, bug: str, entries: dict[int, int]) -> None:
        """The node's journal no longer holds these (index -> term), and nothing has replaced them."""
        self.missing.setdefault(node, {}).update((index, (term, bug)) for index, term in entries.items())

    def holds(self, node: str, index: int, term: int) -> None:
        self.written.add((index, term))
        missing = self.missing.get(node)
        if missing and missing.get(index, (0, ""))[0] == term:
            del missing[index]

    def got_snapshot(self, node: str, last_index: int) -> None:
        """The node holds everything up to there again."""
        held = self.missing.get(node, {})
        for index in [index for index in held if index <= last_index]:
            del held[index]

    def committed_wrongly(self, node: str, bug: str, indexes: Iterable[int]) -> None:
        self.wrongly_committed.setdefault(node, {}).update(dict.fromkeys(indexes, bug))

    def is_committed(self, index: int, term: int) -> bool:
        """Somebody has applied it."""
        return index in self.firsts and self.firsts[index].term == term

    # -- checks ----------------------------------------------------------------------------------------------------

    def applies(self, node: str, index: int, term: int, digest: int) -> None:
        self.checks += 1
        first = self.firsts.setdefault(index, First(term, digest, node))
        if first.by == node:
            self.trace(node, f"applies {index} of term {term}: {digest:08x}")
        if (first.term, first.digest) != (term, digest):
            what = f"{node} applies an entry of term {term} at index {index}, {first.by} one of term {first.term}"
            self.breach(what, index, node, first.by)

    def commands_of(self, node: str, commands: Iterable[tuple[int, str]]) -> None:
        """A state machine that came as a whole."""
        for index, command in commands:
            self.checks += 1
            if self.commands.setdefault(index, command) != command:
                self.breach(f"{node} got {command} at index {index}, others {self.commands[index]}", index, node)
                return

    def elected(self, node: str, term: int, term_at: Callable[[int], int | None], first_index: int) -> None:
        self.trace(node, f"leads term {term}")
        self.checks += 1
        if self.leaders.setdefault(term, node) != node:
            self.breach(f"{node} and {self.leaders[term]} both lead term {term}", 0)
        if any(later > term for later in self.leaders):
            return
        for index in range(max(1, first_index), self.highest_applied + 1):
            if index in self.firsts and term_at(index) != self.firsts[index].term:
                what = f"{node} leads term {term} and lacks index {index}, which {self.firsts[index].by} applied"
                self.breach(what, index, node)
                return

    def commit_fell(self, node: str, before: int, after: int) -> None:
        """Bad enough, and too common to end a run."""
        what = f"{node}: the commit index falls from {before} to {after}"
        self.trace("CHECK", what)
        bug = self._bugs(after + 1, node)
        self.findings.setdefault(bug, Finding(self.now(), what))

    @property
    def highest_applied(self) -> int:
        return max(self.firsts, default=0)

    def breach(self, what: str, index: int, *nodes: str) -> None:
        """A promise is broken at this index, as these nodes see it."""
        if not self.violations:
            self.named(self._bugs(index, *nodes), what)

    def _bugs(self, index: int, *nodes: str) -> str:
        bugs = {self.wrongly_committed.get(node, {}).get(index) for node in nodes or self.wrongly_committed}
        bugs |= {missing[index][1] for missing in self.missing.values() if index in missing}
        bugs.discard(None)
        return " or ".join(sorted(map(str, bugs))) or UNEXPLAINED

    def named(self, bug: str, what: str) -> None:
        """A promise is broken, and this is why."""
        if not self.violations:
            self.findings.setdefault(bug, Finding(self.now(), what))
            self.violated(f"{bug}: {what}")

    # -- the end ---------------------------------------------------------------------------------------------------

    def final(self, operations: list[Operation], histories: dict[str, list[tuple[int, str]]]) -> None:
        """What clients were told, against what every node holds."""
        reference = max(histories.values(), key=len, default=[])
        where = {command: index for index, command in reference}
        for node, history in histories.items():
            if history != reference:
                self.breach(f"{node} holds {len(history)} commands, others {len(reference)}", 0, node)
        if len(where) != len(reference):
            self.breach("a command is there twice", 0)
        for operation in operations:
            self.checks += 1
            if operation.outcome == OK and where.get(operation.detail) != operation.answer[0]:
                self.breach(f"an acknowledged command is lost: {operation}", operation.answer[0])
            elif operation.outcome == FAILED and operation.detail in where:
                self.breach(f"a command that certainly failed is there: {operation}", where[operation.detail])
        for key in sorted({operation.target for operation in operations}):
            if not linearizable(_worth_asking(operations, key), "", swap_model):
                self.breach(f"register {key} is not linearizable", 0)


def swap_model(state: str, operation: Operation) -> tuple[bool, str]:
    """A register that answers with what it held before."""
    if operation.outcome == FAILED:
        return True, state
    return operation.outcome != OK or operation.answer[1] == state, operation.detail


def _worth_asking(operations: list[Operation], key: str) -> list[Operation]:
    """Without unknown outcomes that nobody saw: as nobody did, they may as well not have happened."""
    of_key = [operation for operation in operations if operation.target == key]
    seen: set[Any] = {operation.answer[1] for operation in of_key if operation.outcome == OK}
    return [operation for operation in of_key if operation.outcome == OK or operation.detail in seen]
