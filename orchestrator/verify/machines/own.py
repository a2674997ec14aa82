"""Three nodes that are made to be broken, ready; gone afterwards."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.verify.machines.cluster import NODE, NetworkedCluster
from orchestrator.verify.machines.disk import DiskSettings

NODES = 3
READY_S = 120.0


@asynccontextmanager
async def own_cluster(directory: Path, dice: random.Random, node_module: str = NODE) -> AsyncIterator[NetworkedCluster]:
    """Each node in a network namespace, on a disk that a kill deprives of power.

    This process must be in a private namespace (see `namespaces.enter`).
    """
    disk = DiskSettings(seed=dice.getrandbits(48), kept=dice.choice((0.0, 0.0, 0.5)), torn=dice.choice((0.0, 0.2)))
    cluster = NetworkedCluster(directory, NODES, _settings(dice), disk)
    cluster.node_module = node_module
    assert cluster.namespaces is not None
    try:
        cluster.namespaces.open()
        async with cluster.relay:
            await cluster.start()
            await cluster.wait_ready(READY_S)
            try:
                yield cluster
            finally:
                await cluster.stop()
    finally:
        cluster.namespaces.close()


def _settings(dice: random.Random) -> dict[str, int | str]:
    """Little room, so that snapshots, evictions and new segments happen all the time."""
    return {
        "journal_segment_bytes": 64 * 1024,
        "journal_tail_entries": dice.choice((0, 10, 50)),
        "journal_tail_bytes": 64 * 1024,
        "flush_interval_ms": dice.choice((20, 100, 500)),
        "checkpoint_interval_ms": 5_000,
        "hot_executions_max": 100,
        "entries_in_flight": dice.choice((1, 1, 4)),
        "min_free_disk_bytes": 0,
    }
