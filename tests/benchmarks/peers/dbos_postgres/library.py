"""W3 on DBOS: processes of the application, and calls to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from orchestrator.cli.local_cluster import free_ports
from tests.benchmarks.clusters import ROOT
from tests.benchmarks.peers.children import children
from tests.benchmarks.peers.dbos_postgres.postgres import MAJOR, POSTGRES, start_postgres
from tests.benchmarks.peers.installation import Installation, make_venv, python
from tests.benchmarks.peers.line_calls import LineCalls
from tests.benchmarks.peers.line_server import READY
from tests.benchmarks.peers.peer import Peer, Running, check, parcel

_REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_APP = "tests.benchmarks.peers.dbos_postgres.app"
# A process for each processor. More threads than that many only wait for each other.
_PROCESSES_MAX = 2
_THREADS = 16
_OTHER_CONNECTIONS = 20

DBOS = Installation("dbos", (_REQUIREMENTS,), ("setpriv",), lambda directory: make_venv(directory, _REQUIREMENTS))


@contextlib.asynccontextmanager
async def _start(directory: Path, callers: int) -> AsyncIterator[Running]:
    processes = min(_PROCESSES_MAX, callers, os.cpu_count() or 1)
    ports = free_ports()
    async with children(directory) as started:
        server, url = await start_postgres(started, processes * _THREADS * 2 + _OTHER_CONNECTIONS)
        apps = []
        app_ports = [next(ports) for _ in range(processes)]
        for number, port in enumerate(app_ports):
            app = await started.start(
                f"app-{number}",
                [python(DBOS.directory), "-m", _APP, str(port), url, str(_THREADS)],
                environment={"PYTHONPATH": str(ROOT), "DBOS__VMID": f"app-{number}"},
            )
            # One after the other: the first makes the tables.
            await app.wait_line(READY)
            apps.append(app)
        calls = await LineCalls.connected(app_ports)

        async def call(number: int) -> None:
            check(number, await calls.call(parcel(number)))

        try:
            yield Running(call, servers=(server,), workers=tuple(apps))
        finally:
            await calls.close()


PEERS = (
    Peer(
        name="dbos",
        installations=(POSTGRES, DBOS),
        start=_start,
        settings={"postgres": MAJOR, "processes_max": _PROCESSES_MAX, "threads": _THREADS},
    ),
)
