"""One service as a process of its own: serves its step of the saga, and the undoing of it, until SIGTERM.

python client/examples/orders/service.py inventory|payment|shipping FOLDER HOST:PORT,HOST:PORT,...
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import services
from orders import charge, reserve, ship

from orchestrator_client import Client, Task, Worker

SERVED: dict[str, tuple[services.Service, Task[..., Any]]] = {
    "inventory": (services.inventory, reserve),
    "payment": (services.payment, charge),
    "shipping": (services.shipping, ship),
}
SLOTS = 32
# How long the cluster waits for a worker that is silent before it hands its tasks to another.
SESSION_TIMEOUT_MS = 2_000


async def serve(name: str, folder: Path, endpoints: str) -> None:
    service, step = SERVED[name]
    service.open(folder)
    async with Client(endpoints) as client:
        await Worker(client, tasks=[step], slots=SLOTS, worker_id=name, session_timeout_ms=SESSION_TIMEOUT_MS).run()
    service.close()


def end_with_parent() -> None:
    """A parent that gave us a pipe as standard input takes us along, in whatever way it ends."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        os.read(0, 1)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
