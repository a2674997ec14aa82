"""What a workflow of three tasks costs the cluster, counted instead of timed.

In a simulated cluster the same seed takes the same steps, so the counts are the same on every machine and tell what a
change of the code changes, where seconds would also tell what else the machine was doing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from orchestrator.engine import machine
from orchestrator.replication.core import SyncObj
from orchestrator.replication.log import ReplicatedLog
from orchestrator.storage.writing import Committed, Writer
from orchestrator.testing.cluster import Cluster
from orchestrator.testing.nodes import TestMember
from orchestrator_client.client import Client
from tests.benchmarks.workload import W3, Parcel, first, second, third

SEED = 1
# Before what is counted, so that definitions, sessions and connections are there.
WARM_UP = 8


class Counts:
    """Of all nodes together, from one moment on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    def begin(self) -> None:
        """From here on it counts."""
        self._before = self._now()

    async def settle(self) -> None:
        """Returns once everything is in the databases."""
        for member in self._members():
            assert member.node is not None
            await member.machine.spawn(member.node._settle(), "settles")

    def per(self, workflows: int) -> dict[str, float]:
        """What happened since, for each of so many workflows."""
        counted = self._now() - self._before
        return {name: round(counted[name] / workflows, 3) for name in sorted(counted)}

    def _now(self) -> Counter[str]:
        now = Counter(self._seen)
        for member in self._members():
            now["frames"] += _traffic(member, "frames_sent")
            now["bytes_sent"] += _traffic(member, "bytes_sent")
        return now

    def _members(self) -> list[TestMember]:
        return [self._cluster._member(name) for name in self._cluster.nodes]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Everything that is counted by being called is called inside."""
        for member in self._members():
            member.machine.disk.on_sync = self._synced
        with contextlib.ExitStack() as patches:
            for owner, name, count in (
                (SyncObj, "tick", self._ticked),
                (ReplicatedLog, "append", self._appended),
                (machine, "run", self._ran),
                (Writer, "commit", self._committed),
            ):
                patches.enter_context(mock.patch.object(owner, name, _counting(getattr(owner, name), count)))
            yield

    def _synced(self, path: str) -> None:
        self._seen["syncs_of_journals" if path.endswith(".journal") else "syncs_of_databases"] += 1

    def _ticked(self, result: None, raft: SyncObj, now: float) -> None:
        self._seen["ticks"] += 1

    def _appended(self, result: tuple[int, int], log: ReplicatedLog, data: bytes) -> None:
        self._seen["entries"] += 1
        self._seen["entry_bytes"] += len(data)

    def _ran(self, result: object, *args: object) -> None:
        self._seen["steps"] += 1

    def _committed(self, result: Committed, writer: Writer, batches: object) -> None:
        self._seen["transactions"] += 1
        self._seen["rows_written"] += result.rows


def _counting(function: Callable[..., Any], count: Callable[..., None]) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        count(result, *args, **options)
        return result

    return counted


def _traffic(member: TestMember, counter: str) -> int:
    assert member.node is not None
    return member.node.log.status().counters.get(counter, 0)


async def run_w3(client: Client, concurrency: int, workflows: int, prefix: str) -> None:
    numbers = iter(range(workflows))

    async def caller() -> None:
        for number in numbers:
            await client.start_and_wait(W3, Parcel(number), id=f"{prefix}-{number}")

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())


def cost_of_w3(concurrency: int, workflows: int) -> dict[str, float]:
    """The counts for one workflow of three tasks, when so many run at a time."""
    with Cluster(seed=SEED) as cluster:
        counts = Counts(cluster)

        async def measured() -> dict[str, float]:
            cluster.serve(first, second, third, slots=256)
            await run_w3(cluster.client, 1, WARM_UP, "warm-up")
            counts.begin()
            await run_w3(cluster.client, concurrency, workflows, "counted")
            cost = counts.per(workflows)
            await counts.settle()
            stored = counts.per(workflows)
            return cost | {name: stored[name] for name in ("transactions", "rows_written", "syncs_of_databases")}

        with counts.listening():
            return cluster.run(measured())
