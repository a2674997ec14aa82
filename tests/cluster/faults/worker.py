"""A worker in a process of its own, to be killed: FILE has what it executed.

python -m tests.cluster.faults.worker PARENT NAME FILE ENDPOINTS
"""

from __future__ import annotations

import asyncio
import sys

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator_client import Client, Worker
from tests.cluster.faults.work import RanFile, workflows

SLOTS = 16
SESSION_TIMEOUT_MS = 10_000


async def main(name: str, file: str, endpoints: str) -> None:
    _, _, tasks = workflows(RanFile(file))
    async with Client(endpoints) as client:
        await Worker(client, tasks, slots=SLOTS, worker_id=name, session_timeout_ms=SESSION_TIMEOUT_MS).run()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    asyncio.run(main(*sys.argv[2:]))
