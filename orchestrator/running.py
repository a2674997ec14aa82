"""A node as a process: its signals, its threads, its memory."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from dataclasses import replace

from orchestrator import __version__
from orchestrator.config import Config
from orchestrator.node import Node
from orchestrator.replication.directory_lock import locked
from orchestrator.telemetry import logs
from orchestrator.telemetry.traces import traces_of
from orchestrator.world import World

THREAD_SWITCH_SECONDS = 0.0001
GARBAGE_THRESHOLD = 50_000


async def run_node(config: Config, world: World | None = None) -> None:
    """Runs a node until SIGTERM or SIGINT. Raises NodeFailed if it had to stop itself, DirectoryInUse."""
    # A busy loop keeps other threads, and so fsync and the database, waiting for this long; the default is 5 ms.
    sys.setswitchinterval(THREAD_SWITCH_SECONDS)
    world = world or World()
    traces = traces_of(world.environment, node=config.node, version=__version__)
    try:
        with locked(config.data_dir):
            await _run(Node(config, replace(world, traces=traces)))
    finally:
        await asyncio.to_thread(traces.close)


async def _run(node: Node) -> None:
    logs.about(node.log_facts)
    await node.start()
    await node.serve()
    settle_memory()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    failed = asyncio.create_task(node.wait_failed())
    asked = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({failed, asked}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
    finally:
        asked.cancel()
        failed.cancel()
        await node.stop()


def settle_memory() -> None:
    """What was made until now stays: the collector need not look at it again, nor as often at what comes and goes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 50)
