"""The external worker as a process of its own: `python -m tests.benchmarks.worker HOST:PORT,... SLOTS`.

Ends with SIGTERM, or when its standard input does: no worker outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from orchestrator_client import Client, Worker
from tests.benchmarks.workload import TASKS


async def serve(endpoints: str, slots: int) -> None:
    async with Client(endpoints) as client:
        worker = Worker(client, TASKS, slots=slots)
        asyncio.get_running_loop().create_task(_announce(worker))
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
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
