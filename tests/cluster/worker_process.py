"""A worker in a process of its own, which a test can kill: executes `guarded` until a file says that it may finish.

python worker_process.py PARENT NAME FOLDER ENDPOINTS
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.verify.attempts import Ran
from orchestrator_client import Client, TaskContext, Worker, task

SESSION_TIMEOUT_MS = 2_000
POLL_S = 0.02


@asynccontextmanager
async def worker_process(name: str, folder: Path, endpoints: list[str]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Runs one; FOLDER/NAME.ran has what it executed, and once FOLDER/NAME.finish is there, it finishes."""
    module = [sys.executable, "-m", "tests.cluster.worker_process"]
    paths = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    with (folder / f"{name}.log").open("wb") as log:
        command = [*module, str(os.getpid()), name, str(folder), ",".join(endpoints)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **paths})  # noqa: ASYNC220 - it takes a millisecond
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def main(name: str, folder: Path, endpoints: str) -> None:
    @task
    async def guarded(x: int, ctx: TaskContext) -> int:
        with (folder / f"{name}.ran").open("a") as file:
            file.write(Ran.of(ctx).line())
        while not (folder / f"{name}.finish").exists():  # noqa: ASYNC110 - no event comes from another process
            await asyncio.sleep(POLL_S)
        return x

    async with Client(endpoints) as client:
        await Worker(client, [guarded], slots=1, worker_id=name, session_timeout_ms=SESSION_TIMEOUT_MS).run()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    asyncio.run(main(sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
