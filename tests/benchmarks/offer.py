"""Starts at a steady rate that waits for nobody, as a process of its own: no answer is late because it asks a lot.

Elsewhere it would have a machine of its own; here it goes before the others where the system allows that. Prints
`ready`, begins with a line of its input, and prints at the end as JSON what became of the starts.

python -m tests.benchmarks.offer PARENT HOST:PORT,... STARTS_PER_SECOND SECONDS
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator_client import Client, NoLeader, OutcomeUnknown, Overloaded
from tests.benchmarks.workload import W3, Parcel

TICK_S = 0.005
PRECEDENCE = -10
# As a user who has a deadline gives a start.
TIMEOUT_S = 2.0


@dataclass
class Outcomes:
    """`late_ms` is by how much this process itself missed its ticks, at most; `cpu_s` what it took of processors."""

    counts: Counter[str] = field(default_factory=Counter)
    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    late_ms: float = 0.0
    cpu_s: float = 0.0

    def add(self, document: dict[str, Any]) -> None:
        """What another process has found."""
        self.counts.update(document["counts"])
        self.accepted_ms += document["accepted_ms"]
        self.refused_ms += document["refused_ms"]
        self.late_ms = max(self.late_ms, document["late_ms"])
        self.cpu_s += document["cpu_s"]


async def offer(client: Client, per_second: float, seconds: float) -> Outcomes:
    """What is due and late, because this process was, is made up for."""
    found = Outcomes()
    async with asyncio.TaskGroup() as group:
        begin, cpu_before, made = time.perf_counter(), time.process_time(), 0
        while (passed := time.perf_counter() - begin) < seconds:
            for number in range(made, int(passed * per_second)):
                group.create_task(_start(client, number, found))
                made = number + 1
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            found.late_ms = max(found.late_ms, 1000 * (time.perf_counter() - due))
    found.cpu_s = time.process_time() - cpu_before
    return found


async def _start(client: Client, number: int, found: Outcomes) -> None:
    began = time.perf_counter()
    try:
        await client.start(W3, Parcel(number), timeout_s=TIMEOUT_S)
    except Overloaded:
        found.counts["refused"] += 1
        found.refused_ms.append(1000 * (time.perf_counter() - began))
    except OutcomeUnknown:
        found.counts["unknown"] += 1
    except NoLeader:
        found.counts["not answered"] += 1
    else:
        found.counts["accepted"] += 1
        found.accepted_ms.append(1000 * (time.perf_counter() - began))


async def main(endpoints: str, per_second: float, seconds: float) -> None:
    async with Client(endpoints) as client:
        await client.register(W3)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(vars(await offer(client, per_second, seconds))), flush=True)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    with contextlib.suppress(PermissionError):
        os.nice(PRECEDENCE)
    asyncio.run(main(sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
