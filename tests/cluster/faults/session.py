"""One seed: a cluster, clients and workers, and rounds of faults, each followed by a check of everything."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cli.local_cluster import LocalClusterError
from orchestrator.verify.machines.cluster import FaultyCluster
from orchestrator.verify.machines.contents import ContentsDiffer, same_content
from orchestrator_client import Client
from tests.cluster.faults.history import History
from tests.cluster.faults.processes import Crowd
from tests.cluster.workload import eventually, within

READY_S = 120.0
RESUMED_S = 120.0
SETTLED_S = 120.0
WATCH_S = 0.25
CLIENTS, CALLERS, WORKERS = 2, 5, 2
# More than there are callers: these are not all answers that were on their way when the fault came.
ANSWERS = CLIENTS * CALLERS + 4


class Violation(AssertionError):
    """The cluster broke a promise."""


@dataclass
class Tally:
    """What was done and found; seeds add up."""

    rounds: Counter[str] = field(default_factory=Counter)
    failover_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.rounds += other.rounds
        self.counts += other.counts
        self.violations += other.violations
        for kind, times in other.failover_s.items():
            self.failover_s[kind] += times


class Session:
    def __init__(self, cluster: FaultyCluster, folder: Path, dice: random.Random) -> None:
        folder.mkdir(parents=True)
        self.cluster = cluster
        self.history = History(folder)
        self.crowd = Crowd(self.history, cluster.endpoints, dice, callers=CALLERS)
        self.client = Client(cluster.endpoints, deadline_s=READY_S)
        self.tally = Tally()
        self._term = 0

    async def start(self) -> None:
        await self.cluster.start()
        await self.cluster.wait_ready(READY_S)
        await self.crowd.start(CLIENTS, WORKERS)
        await self.progress()
        self._term = await self._current_term()

    async def stop(self) -> None:
        await self.crowd.stop()
        await self.client.close()
        await self.cluster.stop()

    async def watch(self) -> None:
        """Raises as soon as something is wrong that no round has to wait for; returns never."""
        while True:
            self._check_running()
            self.history.update()
            if self.history.faults:
                raise Violation("\n".join(self.history.faults))
            await asyncio.sleep(WATCH_S)

    # ---- under load

    async def progress(self, answers: int = ANSWERS) -> None:
        """Returns after so many more acknowledgements than at its call."""
        self.history.update()
        goal = len(self.history.acknowledged_at) + answers

        def reached() -> bool:
            self.history.update()
            return len(self.history.acknowledged_at) >= goal

        await eventually(reached, f"{answers} more acknowledgements", RESUMED_S)

    async def resumed(self, since: float) -> float:
        """Seconds from the fault to the acknowledgement that ended the longest pause after it."""
        def ended() -> float:
            self.history.update()
            times = [since, *(at for at in self.history.acknowledged_at if at > since)]
            pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
            if not pauses:
                return 0.0
            longest = pauses.index(max(pauses))
            return times[longest + 1] - since if len(pauses) - longest > ANSWERS else 0.0

        return await eventually(ended, f"{ANSWERS} acknowledgements after the fault", RESUMED_S)

    # ---- between the faults

    async def verify(self, *, all_again: bool = False) -> None:
        """With all callers at rest: what was said holds, all nodes have the same content. Then the callers go on."""
        await self.crowd.pause()
        self.tally.counts["elections"] += await self._new_terms()
        await self._forsaken_end()
        faults = await self.history.check(self.client, all_again=all_again)
        if faults:
            raise Violation("\n".join(faults[:25]))
        try:
            await same_content(self.cluster, scan=all_again)
        except ContentsDiffer as differ:
            raise Violation(str(differ)) from differ
        self.tally.counts["comparisons"] += 1
        # An election that comes of standing still for a look is not the faults'.
        await self._new_terms()
        self.crowd.resume()

    async def _forsaken_end(self) -> None:
        """What a client that was killed had begun goes on without it."""
        self.history.update()
        forsaken = [each.workflow_id for each in self.history.started.values()
                    if each.owner in self.history.killed_clients and each.acknowledged and not each.checked
                    and each.workflow == "arithmetic"]
        for workflow_id in forsaken:
            await within(self.client.wait(workflow_id), f"{workflow_id} to end", SETTLED_S)

        async def idle() -> bool:
            status = await self.cluster.status(await self.cluster.wait_leader())
            return status is not None and status.leased_tasks == status.ready_tasks == 0

        await eventually(idle, "no task to run or wait", SETTLED_S)

    async def _current_term(self) -> int:
        leader = await self.cluster.wait_leader(timeout_s=READY_S)
        status = await self.cluster.status(leader)
        return status.term if status is not None else self._term

    async def _new_terms(self) -> int:
        before, self._term = self._term, await self._current_term()
        return self._term - before

    # ---- one round

    async def nodes_up(self) -> None:
        """Starts those that are down, and waits until all agree on a leader."""
        self._check_running()
        for node in self.cluster.nodes.values():
            if node.running and node.paused:
                self.cluster.resume(node.name)
            if not node.running:
                self.cluster.start_node(node.name)
        try:
            await self.cluster.wait_ready(READY_S)
        except LocalClusterError as error:
            raise Violation(f"the cluster did not recover: {error}") from error

    def _check_running(self) -> None:
        for node in self.cluster.nodes.values():
            if node.exit_code not in (None, 0, -signal.SIGKILL):
                raise Violation(f"node {node.name} stopped itself with exit code {node.exit_code}\n{node.log_tail()}")


def now() -> float:
    """The clock that is the same in all processes."""
    return time.monotonic()
