"""W3 as a Celery chain: workers, and a process that has Celery's client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.cli.local_cluster import free_ports
from tests.benchmarks.clusters import ROOT
from tests.benchmarks.peers.celery_chain import CONNECTED
from tests.benchmarks.peers.children import children
from tests.benchmarks.peers.installation import Installation, make_venv, python
from tests.benchmarks.peers.line_calls import LineCalls
from tests.benchmarks.peers.line_server import READY
from tests.benchmarks.peers.peer import Peer, Running, check, parcel
from tests.benchmarks.peers.redis_streams.server import REDIS, start_redis

_REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_PACKAGE = "tests.benchmarks.peers.celery_chain"
# What Celery is mostly run with: up to a second is lost with the machine.
_APPENDFSYNC = "everysec"
# One for each processor, each doing its tasks itself: a pool of processes costs more than tasks that do nothing.
_WORKERS = min(2, os.cpu_count() or 1)

CELERY = Installation("celery", (_REQUIREMENTS,), ("setpriv",), lambda directory: make_venv(directory, _REQUIREMENTS))


@contextlib.asynccontextmanager
async def _start(directory: Path, callers: int) -> AsyncIterator[Running]:
    program = python(CELERY.directory)
    async with children(directory) as started:
        server, redis_port = await start_redis(started, _APPENDFSYNC)
        environment = {"PYTHONPATH": str(ROOT), "REDIS_PORT": str(redis_port)}
        workers = [
            await started.start(
                f"worker-{number}",
                [
                    program, "-m", "celery", "-A", f"{_PACKAGE}.tasks", "worker", "--pool", "solo",
                    "--hostname", f"worker-{number}@localhost", "--loglevel", "WARNING",
                    "--without-gossip", "--without-mingle", "--without-heartbeat",
                ],
                environment=environment,
            )
            for number in range(_WORKERS)
        ]
        port = next(free_ports())
        client = await started.start(
            "client", [program, "-m", f"{_PACKAGE}.client", str(port), str(callers)], environment=environment
        )
        for worker in workers:
            await worker.wait_line(CONNECTED)
        await client.wait_line(READY)
        calls = await LineCalls.connected([port])

        async def call(number: int) -> None:
            check(number, await calls.call(parcel(number)))

        try:
            yield Running(call, servers=(server,), workers=tuple(workers), callers=(client,))
        finally:
            await calls.close()


PEERS = (
    Peer(
        name="celery",
        installations=(REDIS, CELERY),
        start=_start,
        settings={"workers": _WORKERS, "pool": "solo", "appendfsync": _APPENDFSYNC},
    ),
)
