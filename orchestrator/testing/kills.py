"""Runs a test again and again, and kills the leader at another log entry each time.

First it runs without a kill: the entries that it makes, from the formed cluster on, are the plan. Two moments of each
entry are tried, as they ask different things of the cluster and of the tasks:

- `written`: the entry is on the leader's disk, and nobody else has it. It is lost, or comes back with the old leader
  and has to go; whoever caused it must say it again.
- `committed`: it is on a majority of disks and in the leader's state, and neither callers nor workers have been told.
  It has happened, and must not happen twice.
"""

from __future__ import annotations

import functools
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from orchestrator.codec.entries import decode_entry
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.state import State
from orchestrator.replication.log import EntryKind
from orchestrator.testing.async_tests import AsyncTest, as_sync_test
from orchestrator.testing.cluster import RESTART_SECONDS, Cluster
from orchestrator.testing.nodes import LogObserver, TestMember
from orchestrator.world import SystemClock

Moment = Literal["written", "committed"]
MOMENTS: tuple[Moment, ...] = ("written", "committed")
ONLY = "EVERY_LEADER_KILL"
PROGRESS_SECONDS = 5.0
COMMANDS_SHOWN = 4



class NotRepeatable(AssertionError):
    """The test took another way than in the run without a kill, before there was one."""


class Kill(NamedTuple):
    """The leader dies at this entry; the first one that the test causes has the number 1."""

    entry: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.entry}:{self.moment}"

    @classmethod
    def parse(cls, text: str) -> Kill:
        """`17:committed`; ValueError otherwise."""
        entry, _, moment = text.partition(":")
        if not entry.isdigit() or moment not in MOMENTS:
            raise ValueError(f"{ONLY} is the number of an entry and a moment, such as '17:committed', not {text!r}")
        return cls(int(entry), moment)


@dataclass(frozen=True)
class Entry:
    """What an entry held, in words."""

    commands: tuple[str, ...]

    def __str__(self) -> str:
        shown, more = ", ".join(self.commands[:COMMANDS_SHOWN]), len(self.commands) - COMMANDS_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


def every_leader_kill(
    *,
    nodes: int = 3,
    seed: int = 0,
    moments: Sequence[Moment] = MOMENTS,
    at_most: int | None = None,
    restart_after: float = RESTART_SECONDS,
    only: str | None = None,
) -> Callable[[AsyncTest], Callable[..., None]]:
    """Reruns an async test, which takes `cluster`, with the leader killed at each log entry in turn.

    What is decorated is called again for each kill, in the same process: a state that it shares with earlier runs (a
    fake service in a module, say) has to be made anew in it. The dead node starts again `restart_after` seconds later.

    `at_most` takes so many kills, drawn by the seed, of a test that makes very many entries. `only`, or
    EVERY_LEADER_KILL in the environment, replays one: `EVERY_LEADER_KILL=17:committed pytest -k name`.
    """

    def decorate(test: AsyncTest) -> Callable[..., None]:
        def run(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            wanted = only or os.environ.get(ONLY)
            runs = _Runs(functools.partial(test, *args, **kwargs), nodes, seed, restart_after)
            if wanted:
                runs.kill(Kill.parse(wanted))
                return
            plan = [Kill(number, moment) for number in range(1, runs.count_entries() + 1) for moment in moments]
            if at_most is not None and at_most < len(plan):
                plan = sorted(random.Random(seed).sample(plan, at_most))  # noqa: S311 - a simulation repeats
            for kill in runs.told(plan):
                runs.kill(kill)

        return as_sync_test(test, run)

    return decorate


class _Runs:
    """All runs of one test."""

    def __init__(self, test: AsyncTest, nodes: int, seed: int, restart_after: float) -> None:
        self._test = test
        self._nodes = nodes
        self._seed = seed
        self._restart_after = restart_after
        self._entries: list[Entry] = []

    def count_entries(self) -> int:
        """By a run without a kill."""
        __tracebackhide__ = True
        record = _Record()
        with Cluster(nodes=self._nodes, seed=self._seed, observer=record) as cluster:
            record.begin()
            try:
                cluster.run(self._test(cluster=cluster))
            except Exception as error:
                error.add_note("every_leader_kill: that was the run without a kill")
                raise
        self._entries = record.entries
        return len(self._entries)

    def kill(self, kill: Kill) -> None:
        """One run with a kill. What the test raises says which it was and how to replay it."""
        __tracebackhide__ = True
        executioner = _Executioner(kill, self._restart_after)
        with Cluster(nodes=self._nodes, seed=self._seed, observer=executioner) as cluster:
            executioner.watch(cluster)
            try:
                cluster.run(self._test(cluster=cluster))
                executioner.check(self._entries)
            except Exception as error:
                error.add_note(self._note(kill, executioner))
                raise

    def _note(self, kill: Kill, executioner: _Executioner) -> str:
        if executioner.killed is None:
            return f"every_leader_kill: the leader was to be killed at {kill}, and was not yet"
        of = f" of {len(self._entries)}" if self._entries else ""
        entry = executioner.entries[kill.entry - 1]
        when = {
            "written": f"was on its own disk and nowhere else{', as there is no other' if self._nodes == 1 else ''}",
            "committed": "was on a majority of disks, and nobody had been told",
        }[kill.moment]
        return (
            f"every_leader_kill: {executioner.killed}, the leader, was killed when entry {kill.entry}{of} ({entry}) "
            f"{when}\nto replay only this: {ONLY}={kill} (seed {self._seed}, {self._nodes} nodes)"
        )

    def told(self, plan: Sequence[Kill]) -> Iterator[Kill]:
        """Says now and then how far it is."""
        clock = SystemClock()
        began = said = clock.monotonic()
        for number, kill in enumerate(plan):
            now = clock.monotonic()
            if now - said > PROGRESS_SECONDS:
                said = now
                sys.stderr.write(f"every_leader_kill: {number} of {len(plan)} kills in {now - began:.0f} s\n")
                sys.stderr.flush()
            yield kill


class _Record(LogObserver):
    """Notes what the entries hold, from `begin` on."""

    def __init__(self) -> None:
        self._base: int | None = None
        self._last = 0
        self._entries: dict[int, Entry] = {}

    def begin(self) -> None:
        self._base = self._last

    @property
    def entries(self) -> list[Entry]:
        return [self._entries[index] for index in sorted(self._entries) if index <= self._last]

    def appended(self, member: TestMember, index: int, kind: EntryKind, data: bytes) -> None:
        # A new leader may put another one in the place of what was never committed.
        self._last = index
        if self._base is not None:
            self._entries[index] = described(member, kind, data)

    def number(self, index: int) -> int:
        """The first entry of the test has the number 1; what was before has none that is asked for."""
        return index - self._base if self._base is not None else 0


class _Executioner(_Record):
    """Kills the leader at one moment."""

    def __init__(self, kill: Kill, restart_after: float) -> None:
        super().__init__()
        self._kill = kill
        self._restart_after = restart_after
        self._cluster: Cluster | None = None
        # The leader that has the entry, for itself as yet; and whom it can't reach until it dies.
        self._doomed: TestMember | None = None
        self._blocked: list[tuple[str, str]] = []
        self.killed: str | None = None

    def watch(self, cluster: Cluster) -> None:
        """The test begins."""
        self.begin()
        self._cluster = cluster

    def check(self, entries: Sequence[Entry]) -> None:
        """The kill took place, and until then everything was as in the run without one."""
        if self.killed is None:
            raise NotRepeatable(
                f"entry {self._kill.entry} did not come in this run: the test takes another way each time; does it "
                "look at the real time, at random numbers, at the order of a set, or at what an earlier run has left?"
            )
        for number, (before, now) in enumerate(zip(entries[: self._kill.entry], self.entries, strict=False), 1):
            if before != now:
                raise NotRepeatable(f"entry {number} was ({before}) without a kill, and is ({now}) before this one")

    def appended(self, member: TestMember, index: int, kind: EntryKind, data: bytes) -> None:
        if self.killed is not None:
            return
        super().appended(member, index, kind, data)
        if self._cluster is not None and self._kill == (self.number(index), "written"):
            # Nothing reaches the others any more, so that only this disk will have it.
            self._doomed = member
            self._blocked = [(member.name, other) for other in self._cluster.nodes if other != member.name]
            member.machine.network.block(self._blocked)

    def durable(self, member: TestMember, index: int) -> None:
        if member is self._doomed and self.number(index) >= self._kill.entry:
            self._strike(member)

    def applied(self, member: TestMember, index: int) -> None:
        if self.killed is None and self._kill == (self.number(index), "committed"):
            self._strike(member)

    def _strike(self, member: TestMember) -> None:
        assert self._cluster is not None
        self.killed, self._doomed = member.name, None
        member.machine.kill(lost=1.0 if self._blocked else 0.0)
        member.machine.network.unblock(self._blocked)
        self._cluster.kill(member.name, restart_after=self._restart_after)


def described(member: TestMember, kind: EntryKind, data: bytes) -> Entry:
    """What an entry of the log holds, as its leader sees it."""
    if kind is not EntryKind.COMMANDS:
        return Entry(("the beginning of a term" if kind is EntryKind.NO_OP else "a change of the members",))
    assert member.node is not None
    state = member.node.state
    return Entry(tuple(_in_words(command, state) for _, command in decode_entry(data).commands))


def _in_words(command: Any, state: State) -> str:
    about = []
    if task_id := getattr(command, "task_id", ""):
        held = state.execution((command.namespace, command.workflow_id))
        sequence = held.by_task_id.get(task_id) if held is not None else None
        about.append(f"{held.tasks[sequence].name} of" if held is not None and sequence is not None else "a task of")
    named = [getattr(command, name, "") for name in ("workflow_id", "worker_id", "name")]
    about += [str(name) for name in named if name][:1]
    if isinstance(status := getattr(command, "status", None), TaskStatus):
        about.append(status.name)
    return " ".join((type(command).__name__, *about))
