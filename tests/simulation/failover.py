"""The pause that clients see when the leader is lost, a thousand times over, in virtual time.

    python -m tests.simulation.failover
    python -m tests.simulation.failover --kinds kill,pause --seeds 100 --jobs 2
    python -m tests.simulation.failover --kinds kill --seed 7        one seed, with its whole trace

Each seed is a cluster of its own (its network, disks and clocks), which loses its leader again and again under a few
callers of one client. Code takes no time here: what a busy machine adds is for the benchmarks to say.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random

from orchestrator.testing.member import STOP_SECONDS
from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.benchmarks.arithmetic import histogram, longest_pause, median, percentile
from tests.simulation.cluster import Member, SimulatedCluster
from tests.simulation.people import Person, Space
from tests.simulation.run import repeatable, simulating
from tests.simulation.workload import SWITCH

LOSSES = 10
CALLERS = 3
# Between two starts of one caller.
PAUSE_SECONDS = (0.02, 0.08)
# From when all nodes serve to the loss of the leader, and from there until it is back.
BEFORE_LOSS_SECONDS = (0.3, 0.8)
LOST_SECONDS = 1.5
IMPATIENT_SECONDS = 0.2
# A call may be answered so long after its deadline, and by who leads no longer so long after that.
LATE_SECONDS = 0.1
READY_SECONDS = 30.0
# Of one way through the network, and of a write to the disk.
LATENCY_SECONDS = (0.0002, 0.001, 0.005)
JOB_SECONDS = (0.0005, 0.002, 0.01, 0.03)
READ_SECONDS = 0.0003
WORST_SHOWN = 5
STEP_MS = 50


@dataclass(frozen=True, order=True)
class Pause:
    """What clients saw of one loss."""

    ms: float
    seed: int
    loss: int
    kind: str
    leader_ms: float  # until another node led


@dataclass
class Measured:
    """One seed."""

    pauses: list[Pause] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    # Starts that failed, whoever waited for them.
    failed: list[str] = field(default_factory=list)
    simulated_seconds: float = 0.0


class QuietCluster(SimulatedCluster):
    """With the default settings, on machines of one hall."""

    def __init__(self, seed: int, size: int, scratch: Path, *, verbose: bool) -> None:
        super().__init__(seed, size, scratch, verbose=verbose)
        dice = self.dice("hall")
        latency = dice.choice(LATENCY_SECONDS)
        self.network._latency_seconds = (latency / 2, latency)
        for member in self.members.values():
            member.machine.job_seconds = dice.choice(JOB_SECONDS)
            member.machine.read_seconds = READ_SECONDS

    @staticmethod
    def _settings(dice: Random) -> dict[str, int]:
        return {}

    def leading(self, *, other_than: Member | None = None) -> Member | None:
        """Who serves clients as the leader; one that was lost may go on believing that it does."""
        members = self.leaders()
        found = [one for one in members if one is not other_than and one.node and one.node._leadership.leading]
        return found[0] if len(found) == 1 else None

    @property
    def ready(self) -> bool:
        leader = self.leading()
        members = self.members.values()
        return leader is not None and all(
            one.serving and one.node is not None and one.node.log.leader == leader.name for one in members
        )


class Callers(Person):
    """Callers of one client, who start workflows and note when each was acknowledged."""

    def __init__(self, cluster: QuietCluster) -> None:
        self.moments: list[float] = []
        self.acknowledged: list[str] = []
        self.failed: list[str] = []
        # By when a call that is under way must have been answered.
        self.overdue_at: dict[int, float] = {}
        self.stopped = False
        super().__init__(cluster, "callers", Space("default", [SWITCH], [SWITCH["name"]]))

    async def live(self) -> None:
        client = await self.client
        await client.register(SWITCH, overwrite=True)
        await asyncio.gather(*(self._call(client, number) for number in range(CALLERS)))

    async def _call(self, client: Client, caller: int) -> None:
        number = 0
        # One of them has less patience than an election takes.
        timeout_s = IMPATIENT_SECONDS if caller == 0 else self.patience_seconds
        while not self.stopped:
            number += 1
            began = self.cluster.loop.now
            self.overdue_at[caller] = began + timeout_s + LATE_SECONDS
            try:
                await client.start("switch", {}, id=f"{caller}-{number}", register=False, timeout_s=timeout_s)
                self.moments.append(self.cluster.loop.now)
                self.acknowledged.append(f"{caller}-{number}")
            except errors.ClusterError as error:
                self.failed.append(f"{caller}-{number}: {error!r}")
                self.cluster.watcher.trace(self.name, f"a start failed: {error!r}")
            self.check_answered(caller)
            del self.overdue_at[caller]
            await asyncio.sleep(self.dice.uniform(*PAUSE_SECONDS))

    def check_answered(self, caller: int) -> None:
        """No call is left without an answer beyond its deadline."""
        if self.cluster.loop.now > self.overdue_at[caller]:
            self.cluster.watcher.violated(f"caller {caller} waits for an answer beyond the deadline of its call")


class Drive:
    """Takes a cluster from one moment of virtual time to another."""

    def __init__(self, cluster: QuietCluster) -> None:
        self.cluster = cluster

    def started(self) -> Callers:
        """All nodes serve, and callers call."""
        cluster = self.cluster
        self.do(lambda: [member.start() for member in cluster.members.values()])
        self.until(lambda: cluster.ready, "the cluster forms")
        callers: Callers = self.do(lambda: Callers(cluster))
        self.until(lambda: len(callers.moments) > 0, "somebody is answered")
        return callers

    def do(self, what: Callable[[], object]):  # type: ignore[no-untyped-def]  # what it answers
        asyncio._set_running_loop(self.cluster.loop)
        try:
            return what()
        finally:
            asyncio._set_running_loop(None)

    def advance(self, seconds: float) -> None:
        loop = self.cluster.loop
        loop.run(loop.now + seconds, lambda: bool(self.cluster.watcher.violations))

    def until(
        self, reached: Callable[[], bool], what: str, *, stop_at: Callable[[], bool] = lambda: False
    ) -> None:
        loop, watcher = self.cluster.loop, self.cluster.watcher
        loop.run(loop.now + READY_SECONDS, lambda: bool(watcher.violations) or stop_at() or reached())
        if not reached() and not stop_at() and not watcher.violations:
            watcher.violated(f"not within {READY_SECONDS:.0f} s: {what}")


class Losses(Drive):
    """One kind of loss, again and again."""

    def __init__(self, cluster: QuietCluster, kind: str) -> None:
        super().__init__(cluster)
        self.kind = kind
        self.dice = cluster.dice("losses")
        self.measured = Measured()

    def run(self, count: int) -> Measured:
        cluster, loop, watcher = self.cluster, self.cluster.loop, self.cluster.watcher
        callers = self.started()
        for number in range(count):
            self.until(lambda: cluster.ready, "all nodes serve")
            self.advance(self.dice.uniform(*BEFORE_LOSS_SECONDS))
            self.until(lambda: cluster.ready, "all nodes serve")
            self._check_answered(callers)
            if watcher.violations:
                break
            leader = cluster.leading()
            assert leader is not None
            self.measured.pauses.append(self._lose(leader, callers, number))
        self.until(lambda: cluster.ready, "all nodes serve")
        self.advance(BEFORE_LOSS_SECONDS[0])
        self._check_answered(callers)
        self.measured.violations = watcher.violations
        self.measured.lines = watcher.lines
        self.measured.failed = callers.failed
        self.measured.simulated_seconds = loop.now
        return self.measured

    def _lose(self, leader: Member, callers: Callers, number: int) -> Pause:
        loop, watcher = self.cluster.loop, self.cluster.watcher
        watcher.trace("FAULT", f"{number}: {self.kind} of {leader.name}")
        began = loop.now
        end = self.do(lambda: loop.create_task(KINDS[self.kind](self.cluster, leader)))
        successor = self.cluster.leading
        self.until(lambda: successor(other_than=leader) is not None, "another node leads", stop_at=end.done)
        leader_ms = (loop.now - began) * 1000
        self.until(end.done, "the loss ends")
        self.until(lambda: bool(callers.moments) and callers.moments[-1] > began, "somebody is answered")
        pause_ms = longest_pause(callers.moments, began, loop.now) * 1000
        watcher.trace("CHECK", f"{number}: a pause of {pause_ms:.0f} ms, another leader after {leader_ms:.0f} ms")
        return Pause(pause_ms, self.cluster.seed, number, self.kind, leader_ms)


    def _check_answered(self, callers: Callers) -> None:
        for caller in callers.overdue_at:
            callers.check_answered(caller)
        for member in self.cluster.members.values():
            if member.serving and member is not self.cluster.leading():
                check_nothing_pending(member)


def check_nothing_pending(member: Member) -> None:
    """Who does not lead has answered all calls; each was answered when the leadership ended, at the latest."""
    pending = {method: count for method, count in member.server.under_way.items() if count}
    if pending:
        member.watcher.violated(f"{member.name} does not lead, and has not answered {pending}")


async def _kill(cluster: QuietCluster, leader: Member) -> None:
    leader.machine.kill()
    await asyncio.sleep(LOST_SECONDS)
    leader.start()


async def _power(cluster: QuietCluster, leader: Member) -> None:
    """Nobody is told: connections hang."""
    leader.machine.lose_power()
    await asyncio.sleep(LOST_SECONDS)
    leader.start()


async def _pause(cluster: QuietCluster, leader: Member) -> None:
    leader.machine.pause()
    await asyncio.sleep(LOST_SECONDS)
    leader.machine.resume()


async def _partition(cluster: QuietCluster, leader: Member) -> None:
    """From the other nodes; clients still reach it."""
    await _cut_off(cluster, leader, [name for name in cluster.members if name != leader.name])


async def _isolation(cluster: QuietCluster, leader: Member) -> None:
    """From everybody."""
    await _cut_off(cluster, leader, ["callers", *(name for name in cluster.members if name != leader.name)])


async def _cut_off(cluster: QuietCluster, leader: Member, others: list[str]) -> None:
    cluster.network.block([pair for other in others for pair in ((leader.name, other), (other, leader.name))])
    await asyncio.sleep(LOST_SECONDS)
    cluster.network.heal()


async def _handover(cluster: QuietCluster, leader: Member) -> None:
    """SIGTERM."""
    stopping = leader.machine.spawn(leader.stop(), "stop")
    await asyncio.wait([stopping], timeout=STOP_SECONDS)
    if not [member for member in cluster.leaders() if member is not leader]:
        cluster.watcher.violated(f"{leader.name} has ended, and nobody leads in its place")
    await asyncio.sleep(LATE_SECONDS)
    check_nothing_pending(leader)
    await asyncio.sleep(LOST_SECONDS)
    leader.machine.kill()
    leader.start()


KINDS: dict[str, Callable[[QuietCluster, Member], Awaitable[None]]] = {
    "kill": _kill,
    "power": _power,
    "pause": _pause,
    "partition": _partition,
    "isolation": _isolation,
    "handover": _handover,
}


def measure(seed: int, kind: str, losses: int, *, size: int = 3, verbose: bool = False) -> Measured:
    """Repeats itself exactly."""
    with simulating(verbose=verbose) as scratch:
        return _measure(QuietCluster(seed, size, scratch, verbose=verbose), kind, losses)


def _measure(cluster: QuietCluster, kind: str, losses: int) -> Measured:
    with repeatable(cluster):
        return Losses(cluster, kind).run(losses)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.failover", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=_kinds, default=list(KINDS), metavar=",".join(KINDS), help="default: all")
    parser.add_argument("--seed", type=int, help="this one only, with its trace")
    parser.add_argument("--seeds", type=int, default=100, help="so many, one after the other (%(default)s)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--losses", type=int, default=LOSSES, help="in each seed (%(default)s)")
    parser.add_argument("--size", type=int, default=3, choices=(3, 5), help="nodes (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    violations: list[str] = []
    summary: dict[str, dict[str, float]] = {}
    for kind in options.kinds:
        measured = list(_measured(kind, options))
        for one in measured:
            violations += one.violations
            print("\n".join(one.lines))
        summary[kind] = _report(kind, [pause for one in measured for pause in one.pauses], options)
    print("\n".join(violations[:10]))
    print(json.dumps({"kinds": summary, "violations": len(violations)}))
    return 1 if violations else 0


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(f"no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return kinds


def _measured(kind: str, options: argparse.Namespace) -> Iterator[Measured]:
    if options.seed is not None:
        yield measure(options.seed, kind, options.losses, size=options.size, verbose=True)
        return
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=20) as pool:
        seeds = range(options.first, options.first + options.seeds)
        running = [pool.submit(measure, seed, kind, options.losses, size=options.size) for seed in seeds]
        for future in running:
            yield future.result()


def _report(kind: str, pauses: list[Pause], options: argparse.Namespace) -> dict[str, float]:
    ordered = sorted(pauses)
    times = [pause.ms for pause in ordered]
    leaders = sorted(pause.leader_ms for pause in pauses)
    print(f"{kind}: {len(times)} losses")
    print("\n".join(histogram(times, STEP_MS)))
    for pause in reversed(ordered[-WORST_SHOWN:]):
        print(f"  {pause.ms:.0f} ms (another leader after {pause.leader_ms:.0f} ms) in loss {pause.loss}: "
              f"python -m tests.simulation.failover --kinds {kind} --seed {pause.seed} --size {options.size}")
    sys.stdout.flush()
    named = {"p50": median(times), "p99": percentile(times, 0.99), "worst": times[-1] if times else 0.0,
             "leader_p50": median(leaders), "leader_worst": leaders[-1] if leaders else 0.0}
    return {"losses": len(times), **{name: round(value, 1) for name, value in named.items()}}


if __name__ == "__main__":
    sys.exit(main())
