"""The row of a raw commit: three processes with the replicated log and nothing else, one caller on the leader.

It is the measure of what else an acknowledgement costs: the same log on the same disk in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from orchestrator.replication import identity as identities
from orchestrator.replication.files import RealFiles
from tests.benchmarks.clusters import ROOT, environment
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.processes import Options, Progress, cpu_seconds, temporary
from tests.replication.cluster import free_port

NAMES = ("a", "b", "c")
READY_S = 20.0
ANSWER_S = 60.0
POLL_S = 0.05
# The first commits of a new leader are not like the others.
WARM_UP_S = 0.5


class RawLog:
    """The three processes, by name."""

    def __init__(self, members: dict[str, asyncio.subprocess.Process]) -> None:
        self._members = members
        self._leader = ""

    async def wait_leader(self) -> None:
        async with asyncio.timeout(READY_S):
            while not self._leader:
                for name in self._members:
                    if await self._ask(name, "leads"):
                        self._leader = name
                await asyncio.sleep(POLL_S)

    async def measure(self, seconds: float) -> tuple[list[float], dict[str, float]]:
        """The milliseconds of each commit, ascending, and the CPU-seconds of the parts."""
        await self._ask(self._leader, f"measure {WARM_UP_S}")
        before = self._spent()
        samples = sorted(await self._ask(self._leader, f"measure {seconds}"))
        return samples, {part: after - before[part] for part, after in self._spent().items()}

    def _spent(self) -> dict[str, float]:
        spent = {name: cpu_seconds(process.pid) for name, process in self._members.items()}
        leader = spent.pop(self._leader)
        return {"leader": leader, "followers": sum(spent.values())}

    async def _ask(self, name: str, question: str) -> Any:
        process = self._members[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{question}\n".encode())
        async with asyncio.timeout(ANSWER_S):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"member {name} of the raw log ended with exit code {await process.wait()}")
        return json.loads(line)


@contextlib.asynccontextmanager
async def raw_log(options: Options) -> AsyncIterator[RawLog]:
    """Ready; gone afterwards, and so are its files."""
    with temporary(options) as directory:
        cluster_id = identities.generate_cluster_id()
        addresses = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        for name in NAMES:
            identities.initialise(RealFiles(), directory / name, cluster_id, name, addresses)
        members: dict[str, asyncio.subprocess.Process] = {}
        try:
            for name in NAMES:
                members[name] = await _start(directory / name, name, options.sync_ms)
            log = RawLog(members)
            await log.wait_leader()
            yield log
        finally:
            for process in members.values():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*(process.wait() for process in members.values()))


async def measure_commit(options: Options, progress: Progress) -> list[Measurement]:
    """From the proposal of an entry on the leader until it is durable on a quorum and applied."""
    async with raw_log(options) as log:
        progress.say("commit c=1: begins")
        return [commit_row(*await log.measure(options.seconds), options)]


def commit_row(samples: list[float], spent: dict[str, float], options: Options) -> Measurement:
    return Measurement(
        row="commit",
        concurrency=1,
        samples_ms=tuple(samples),
        per_second=1000 * len(samples) / sum(samples),
        cpu_s_per_1000={part: 1000 * seconds / len(samples) for part, seconds in spent.items()},
        settings={"seconds": options.seconds, **options.cluster_settings},
        notes=("three processes with the log and nothing else",),
    )


async def _start(directory: Path, name: str, sync_ms: float) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.log_process", str(os.getpid()), str(directory), name, str(sync_ms),
        cwd=ROOT, env=environment(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,  # an answer is one line
    )
