"""One run of one seed: trouble for a while, then peace, in which every member must catch up."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.history import FAILED, OK, History, Operation
from tests.simulation.stock.cluster import LogCluster
from tests.simulation.stock.faults import LogFaults
from tests.simulation.stock.members import StockMember
from tests.simulation.stock.probe import LIVELOCK
from tests.simulation.stock.watcher import UNEXPLAINED, Finding

TROUBLE_SECONDS = 20.0
# In peace: a member that is up has all entries within so many seconds, of which in the last ones nothing moves.
CATCH_UP_SECONDS, STUCK_SECONDS = 25.0, 5.0
CLIENTS, PAUSE_SECONDS = 5, 0.3
PATIENCE_SECONDS, TIMEOUT_SECONDS = 1.5, 3.0
KEYS = ("a", "b", "c")


@dataclass
class Result:
    """What one seed showed."""

    seed: int
    findings: dict[str, Finding] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    trace_hash: str = ""
    lines: list[str] = field(default_factory=list)
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    acknowledged: int = 0
    # Of commands whose place in the log is another one's.
    false_answers: int = 0
    snapshots: int = 0


def run_seed(
    seed: int, *, ours: bool = False, verbose: bool = False, trouble_seconds: float = TROUBLE_SECONDS
) -> Result:
    """Repeats itself exactly, findings included."""
    began = time.process_time()
    with _undisturbed():
        result = _run_seed(seed, ours=ours, verbose=verbose, trouble_seconds=trouble_seconds)
    result.cpu_seconds = time.process_time() - began
    return result


def _run_seed(seed: int, *, ours: bool, verbose: bool, trouble_seconds: float) -> Result:
    cluster = LogCluster(seed, ours=ours, verbose=verbose)
    run = _Run(cluster)
    with nullcontext() if ours else cluster.library.installed():
        run.run(trouble_seconds)
        cluster.loop.close()
    watcher = cluster.watcher
    return Result(
        seed=seed,
        findings=watcher.findings,
        violations=watcher.violations,
        trace_hash=watcher.trace_hash,
        lines=watcher.lines,
        simulated_seconds=cluster.loop.now,
        acknowledged=sum(operation.outcome == OK for operation in run.history.operations),
        false_answers=run.false_answers,
        snapshots=watcher.snapshots,
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No log lines of what is meant to fail; no collections, which would come at other moments each time."""
    level, hook = logging.root.manager.disable, sys.unraisablehook
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        sys.unraisablehook = lambda left: None
        with warnings.catch_warnings(action="ignore"):  # coroutines of killed processes
            gc.collect()
        gc.enable()
        sys.unraisablehook = hook
        logging.disable(level)


class _Run:
    def __init__(self, cluster: LogCluster) -> None:
        self.cluster = cluster
        self.watcher = cluster.watcher
        self.history = History(lambda: cluster.loop.now, self.watcher.trace, self.watcher.violated)
        self.stopped = False

    def run(self, trouble_seconds: float) -> None:
        cluster, loop = self.cluster, self.cluster.loop
        with cluster.inside():
            for member in cluster.members.values():
                member.start()
            for number in range(CLIENTS):
                loop.create_task(self._client(number))
        self._until(10.0, lambda: bool(cluster.leaders()), "the cluster forms")
        if self._broken():
            return
        with cluster.inside():
            faults = LogFaults(cluster, trouble_seconds)
        loop.run(loop.now + trouble_seconds, self._broken)
        if self._broken():
            return
        faults.heal()
        self.stopped = True
        self.watcher.trace("FAULT", "no more of them")
        loop.run(loop.now + TIMEOUT_SECONDS, self._broken)
        self._catch_up()
        if not self._broken():
            histories = {name: member.history for name, member in cluster.members.items()}
            self.watcher.final(self.history.operations, histories)
        for error in loop.errors:
            self.watcher.breach(f"nobody caught: {error}", 0)

    @property
    def false_answers(self) -> int:
        """Clients that were told of success where another command was applied first."""
        commands = self.watcher.commands
        return sum(
            operation.outcome == OK and commands[operation.answer[0]] != operation.detail
            for operation in self.history.operations
        )

    def _broken(self) -> bool:
        return bool(self.watcher.violations)

    def _until(self, seconds: float, reached: Callable[[], bool], what: str) -> None:
        loop = self.cluster.loop
        loop.run(loop.now + seconds, lambda: self._broken() or reached())
        if not reached() and not self._broken():
            self.watcher.breach(f"not within {seconds:.0f} s: {what}", 0)

    # -- clients ---------------------------------------------------------------------------------------------------

    async def _client(self, number: int) -> None:
        """Swaps registers through one node, which it thinks leads, until that one fails it or lets it wait."""
        cluster = self.cluster
        dice = cluster.dice(f"client {number}")
        count = 0
        member: Any = None
        asked: list[Operation] = []
        while not self.stopped:
            await asyncio.sleep(dice.expovariate(1 / PAUSE_SECONDS))
            if member is None or any(self._is_bad(operation) for operation in asked):
                members = list(cluster.members.values())
                if dice.random() < 0.8:
                    members = cluster.leaders() or members
                member, asked = dice.choice(members), []
            for _ in range(dice.choice((1, 1, 10, 30))):
                count += 1
                asked.append(self._swap(member, f"c{number}", dice.choice(KEYS), f"c{number}-{count}"))

    def _is_bad(self, operation: Operation) -> bool:
        if operation.returned_at == float("inf"):
            return operation.invoked_at + PATIENCE_SECONDS < self.cluster.loop.now
        return operation.outcome != OK

    def _swap(self, member: Any, client: str, key: str, command: str) -> Operation:
        operation = self.history.invoke(client, "swap", key, command)
        padding = "." * self.cluster.profile.payload_bytes

        def answered(outcome: str, answer: object) -> None:
            if operation.returned_at == float("inf"):
                self.history.complete(operation, outcome, answer)

        member.propose(key, command, padding, answered)
        return operation

    # -- peace -----------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        loop = self.cluster.loop
        until = loop.now + CATCH_UP_SECONDS
        probe: Operation | None = None
        while loop.now < until and not self._broken():
            leader = self.cluster.leader()
            if leader is not None and (probe is None or probe.outcome == FAILED):
                probe = self._swap(leader, "last", KEYS[0], f"last-{loop.now}")
            if probe is not None and probe.outcome == OK and self._agree():
                return
            if loop.now < until - STUCK_SECONDS:
                before = self._thrown_forward()
            loop.run(loop.now + 0.2, self._broken)
        if not self._broken():
            self._blame_for_lag(before)

    def _agree(self) -> bool:
        members = self.cluster.members.values()
        last = {member.last_index for member in members}
        return all(member.serving for member in members) and len(last) == 1 and all(
            member.applied_index in last for member in members
        )

    def _thrown_forward(self) -> dict[tuple[str, str], int]:
        leader = self.cluster.leader()
        if not isinstance(leader, StockMember):
            return {}
        return {(leader.name, follower): count for follower, count in leader.thrown_forward.items()}

    def _blame_for_lag(self, before: dict[tuple[str, str], int]) -> None:
        """A livelock is one only while the leader is thrown forward again and again."""
        after = self._thrown_forward()
        stuck = [pair for pair, count in after.items() if count > before.get(pair, count) + 3]
        behind = {
            name: (member.applied_index, member.last_index) if member.serving else None
            for name, member in self.cluster.members.items()
        }
        what = f"not all caught up after {CATCH_UP_SECONDS:.0f} s of peace: {behind}"
        if stuck:
            leader, follower = stuck[0]
            self.watcher.named(LIVELOCK, f"{what}; {leader} is thrown forward by {follower} for ever")
        else:
            broken = {getattr(member, "broken", "") for member in self.cluster.members.values()} - {""}
            self.watcher.named(" or ".join(sorted(broken)) or UNEXPLAINED, what)
