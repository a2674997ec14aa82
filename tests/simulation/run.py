"""One run of one seed: trouble for a while, then peace, in which everything must come to an end and agree."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import read_applied
from orchestrator.testing.isolation import isolated
from orchestrator_client import attempts
from tests.simulation import findings
from tests.simulation.cluster import Member, SimulatedCluster
from tests.simulation.faults import Faults
from tests.simulation.held import Held, collect
from tests.simulation.workload import Work

TROUBLE_SECONDS = 20.0
# How long the cluster has, after the faults, until a client is answered, everything has ended, and all agree.
SETTLE_SECONDS = 240.0
BACKLOG_SECONDS = 3_600.0
AGREE_SECONDS = 20.0
CHANGE_SECONDS = 60.0
LOGGERS = ("orchestrator", "orchestrator_client")


class Trouble(NamedTuple):
    """For how long there are faults, and until the run is how old at least; and which of those that the seed has."""

    seconds: float = TROUBLE_SECONDS
    at_least_seconds: float = 0.0
    only: Container[int] | None = None


class Happened(NamedTuple):
    """A fault that began, so many seconds after the first could have."""

    number: int
    after_seconds: float
    line: str


@dataclass
class Result:
    """What one seed showed."""

    seed: int
    violations: list[str] = field(default_factory=list)
    trace_hash: str = ""
    lines: list[str] = field(default_factory=list)
    simulated_seconds: float = 0.0
    trouble_seconds: float = 0.0
    cpu_seconds: float = 0.0
    operations: int = 0
    checks: int = 0
    entries: int = 0
    snapshots: int = 0
    calls: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    # Of members: what was done, and with what reasons it was refused at first.
    changes: Counter[str] = field(default_factory=Counter)
    happened: list[Happened] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """Whatever was compared with what it must be: steps of nodes, and answers to clients."""
        return self.operations + self.checks


def run_seed(seed: int, trouble: Trouble | None = None, *, verbose: bool = False, calls: bool = False) -> Result:
    """Repeats itself exactly, violations included. `calls`: the nodes make calls for the workflows."""
    began = time.process_time()
    with simulating(verbose=verbose) as scratch:
        result = _run(seed, scratch, trouble or Trouble(), verbose=verbose, calls=calls)
    result.cpu_seconds = time.process_time() - began
    return result


@contextlib.contextmanager
def simulating(*, verbose: bool) -> Iterator[Path]:
    """What runs inside repeats itself exactly, and nothing is left of it; gives a directory for SQLite."""
    session_ids, level = attempts.new_session_id, logging.root.manager.disable
    if not verbose:
        logging.disable(logging.CRITICAL)
    try:
        with isolated("simulation") as scratch, warnings.catch_warnings(action="ignore"):
            try:
                yield scratch
            finally:
                attempts.new_session_id = session_ids
                logging.disable(logging.CRITICAL)
    finally:
        logging.disable(level)


@contextlib.contextmanager
def repeatable(cluster: SimulatedCluster) -> Iterator[None]:
    """Ids that the SDK draws are the seed's; what nodes and the SDK log goes into a verbose trace."""
    handler = _into_trace(cluster) if cluster.watcher.verbose else None
    ids = cluster.dice("sessions")
    attempts.new_session_id = lambda: f"{ids.getrandbits(128):032x}"
    try:
        yield
    finally:
        if handler is not None:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(handler)
        cluster.close()


def _run(seed: int, scratch: Path, trouble: Trouble, *, verbose: bool, calls: bool) -> Result:
    size = 3 if random.Random(seed).random() < 0.75 else 5
    cluster = SimulatedCluster(seed, size, scratch, verbose=verbose, calls=calls)
    result = Result(seed)
    with repeatable(cluster):
        _Run(cluster, result).run(trouble)
    watcher = cluster.watcher
    result.violations = watcher.violations
    result.trace_hash, result.lines, result.checks = watcher.trace_hash, watcher.lines, watcher.checks
    result.entries, result.snapshots, result.steps = watcher.highest, watcher.snapshots, cluster.loop.steps
    result.simulated_seconds = cluster.loop.now
    result.calls = 0 if cluster.outside is None else cluster.outside.calls
    return result


class _Run:
    def __init__(self, cluster: SimulatedCluster, result: Result) -> None:
        self.cluster = cluster
        self.result = result
        self.watcher = cluster.watcher

    def run(self, trouble: Trouble) -> None:
        cluster, loop = self.cluster, self.cluster.loop
        asyncio._set_running_loop(loop)
        for member in cluster.members.values():
            member.start()
        asyncio._set_running_loop(None)
        self._until(10.0, lambda: bool(cluster.leaders()), "the cluster forms")
        if self._broken():
            return
        asyncio._set_running_loop(loop)
        work = Work(cluster)
        asyncio._set_running_loop(None)
        if cluster.dice("beginning").random() < 0.5:
            self._until(30.0, lambda: work.is_prepared, "the first workflows start")
        if self._broken():
            return
        asyncio._set_running_loop(loop)
        began = loop.now
        seconds = round(max(trouble.seconds, trouble.at_least_seconds - began), 3)
        faults = Faults(cluster, seconds, trouble.only)
        asyncio._set_running_loop(None)
        self._advance(seconds)
        self.result.trouble_seconds = loop.now - began
        faults.heal()
        self.watcher.trace("FAULT", "no more of them")
        self.result.happened = [Happened(it.number, it.planned.at, str(it)) for it in faults.occasions]
        self.result.faults = faults.counts
        if self._broken():
            return
        self._until(CHANGE_SECONDS, lambda: faults.is_over, "the members are those that were asked for")
        self.result.changes = faults.changes
        self._until(60.0, lambda: work.is_prepared, "the first workflows start")
        work.stopped = True
        if cluster.outside is not None:
            cluster.outside.is_calm = True
        settling = work.operator.machine.spawn(work.operator.settle(), "settle")
        self._settle(work, settling)
        self._until(60.0, lambda: work.callers_left == 0, "every caller is answered")
        for person in work.people:
            person.machine.kill()
        self._agree()
        self.result.operations = len(work.history.operations)
        if not self.watcher.violations:
            for problem in findings.problems(work, self.watcher, self.executions):
                self.watcher.violated(problem)
        for error in loop.errors:
            self.watcher.violated(f"nobody caught: {error}")

    def _advance(self, seconds: float) -> None:
        loop = self.cluster.loop
        loop.run(loop.now + seconds, self.watcher.violations.__len__)

    def _until(self, seconds: float, reached: Any, what: str) -> None:
        loop = self.cluster.loop
        violations = self.watcher.violations
        loop.run(loop.now + seconds, lambda: violations or reached())
        if not reached() and not self._broken():
            self.watcher.violated(f"not within {seconds:.0f} s of peace: {what}")

    def _settle(self, work: Work, settling: asyncio.Task[None]) -> None:
        """What waits for its turn behind a limit takes its time, as long as it becomes less."""
        loop, operator, violations = self.cluster.loop, work.operator, self.watcher.violations
        began = loop.now

        def is_over() -> bool:
            return operator.settled or settling.done()

        def stands() -> bool:
            return loop.now > max(began, operator.progress_at) + SETTLE_SECONDS

        loop.run(began + BACKLOG_SECONDS, lambda: bool(violations) or is_over() or stands())
        if not is_over() and not self._broken():
            self.watcher.violated(f"not within {SETTLE_SECONDS:.0f} s of peace: everything comes to an end")

    def _broken(self) -> bool:
        return bool(self.watcher.violations)

    # -- agreement ---------------------------------------------------------------------------------------------------

    def _agree(self) -> None:
        """All members hold the same rows at the same index, and the rows are those of their hash."""
        loop = self.cluster.loop
        self.executions: list[Held] = []
        self._until(AGREE_SECONDS, lambda: all(member.serving for member in self._members()), "all members serve")
        deadline = loop.now + AGREE_SECONDS
        stands: list[Any] = []
        while not self._broken():
            stands = [stand for member in self._members() if (stand := self._of(member, self._flushed)) is not None]
            if len({stand[0] for stand in stands}) == 1:
                break
            if loop.now > deadline:
                self.watcher.violated(f"the members do not come to stand at one index: {stands}")
            self._advance(0.5)
        if self._broken():
            return
        if len(set(stands)) != 1:
            self.watcher.violated(f"the members hold different rows: {stands}")
        # Damage in rows that nobody has read is not known yet.
        sound = [member for member in self._members() if not member.is_damaged]
        for member in sound:
            if (scanned := self._of(member, self._scanned)) is None or scanned[0] != scanned[1]:
                self.watcher.violated(f"{member.name} holds rows that are not those of its content hash")
            assert member.node is not None
            self.watcher.check_state(member.name, member.node._machine().state)
        self.executions = self._of(sound[0], collect)

    def _members(self) -> list[Member]:
        """Whose disk was damaged may have refused to go on; whoever else has a vote must agree."""
        return [member for member in self.cluster.voters() if not member.is_out]

    def _of(self, member: Member, question: Callable[[Member], Any]) -> Any:
        """The answer, or None from a member that goes away with its damaged disk."""
        if not member.machine.running:
            return None
        task = member.machine.spawn(question(member), "question")
        self._until(30.0, lambda: task.done() or member.is_out, f"{member.name} answers")
        if not task.done() or (member.is_damaged and task.exception() is not None):
            return None
        return task.result()

    @staticmethod
    async def _flushed(member: Member) -> tuple[int, bytes, int]:
        node = member.node
        assert node is not None
        node._applier.stage_soon()
        await node._flusher.flush_now()
        applied = node._database.applied()
        return applied.index, applied.chain_hash, applied.content_hash

    @staticmethod
    async def _scanned(member: Member) -> tuple[int, int]:
        """The content hash that is said, and that of the rows, at one moment."""

        def scan(connection: apsw.Connection) -> tuple[int, int]:
            connection.execute("BEGIN")
            try:
                return read_applied(connection).content_hash, content_hash(connection)
            finally:
                connection.execute("COMMIT")

        assert member.node is not None
        return await member.node._database.search(scan)


def _into_trace(cluster: SimulatedCluster) -> logging.Handler:
    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines = cluster.watcher.lines
            lines.append(f"{cluster.loop.now:10.6f}          {record.levelname.lower()}: {record.getMessage()}")

    handler = Lines()
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("orchestrator").setLevel(logging.INFO)
    return handler
