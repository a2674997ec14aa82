"""The external worker as a process of its own: `python -m tests.benchmarks.worker HOST:PORT,... SLOTS [TASK,...]`.

Ends with SIGTERM, or when its standard input does: no worker outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from orchestrator_client import Client, Worker, run
from tests.benchmarks.workload import TASKS


async def serve(endpoints: str, slots: int, names: list[str]) -> None:
    async with Client(endpoints) as client:
        served = [task for task in TASKS if not names or task.name in names]
        worker = Worker(client, served, slots=slots)
        async with asyncio.TaskGroup() as group:
            group.create_task(_announce(worker))
            await worker.run()


async def _announce(worker: Worker) -> None:
    await worker.connected()
    print("connected", flush=True)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",") if len(sys.argv) > 3 else []))
