"""What a seed decides: the cluster, its disks and network, and which faults come in which order."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from orchestrator.verify.machines.cluster import FaultyCluster, NetworkedCluster
from orchestrator.verify.machines.disk import DiskSettings
from tests.cluster.faults.kinds import NETWORKS, OF_FIVE, PROCESSES, Fault
from tests.simulation import mutants

REAL, POWER, NETWORK = "real disk", "power loss", "network"
ENVIRONMENTS = (REAL, POWER, NETWORK)
FAULTS = {fault.__name__: fault for fault in [*PROCESSES, *NETWORKS, *OF_FIVE]}
ROUNDS = 8


@dataclass(frozen=True)
class Plan:
    seed: int
    environment: str
    nodes: int
    settings: dict[str, int | str]
    disk: DiskSettings | None
    quick: str
    faults: list[Fault]

    def cluster(self, directory: Path) -> FaultyCluster:
        make = NetworkedCluster if self.environment == NETWORK else FaultyCluster
        cluster = make(directory, self.nodes, self.settings, self.disk)
        cluster.quick = self.quick
        if mutants.VARIABLE in os.environ:
            cluster.node_module = "tests.cluster.faults.node"
        return cluster

    def dice(self, purpose: str | int) -> random.Random:
        """Of its own for each purpose, so that one does not shift another."""
        return random.Random(f"{self.seed}/{purpose}")

    def __str__(self) -> str:
        disk = "" if self.disk is None else f", {self.disk} (without sync_ms: {self.quick or 'none'})"
        return f"seed {self.seed}: {self.nodes} nodes, {self.environment}{disk}, {self.settings}"


def plan(seed: int, *, environment: str | None = None, rounds: int = ROUNDS, only: list[str] | None = None) -> Plan:
    dice = random.Random(f"{seed}/plan")
    drawn = dice.choices(ENVIRONMENTS, (3, 5, 7))[0]
    environment = environment or drawn
    nodes = 5 if dice.random() < 0.25 and environment == NETWORK else 3
    weights = PROCESSES if environment != NETWORK else NETWORKS | (OF_FIVE if nodes == 5 else {})
    if only:
        faults = [FAULTS[name] for name in only]
    else:
        # With dice of its own: how many there are has no say in anything else.
        faults = random.Random(f"{seed}/faults").choices(list(weights), list(weights.values()), k=rounds)
    disk = DiskSettings(seed=seed << 16, kept=dice.choice((0.0, 0.0, 0.5)), torn=dice.choice((0.0, 0.2)),
                        sync_ms=dice.choice((0, 5, 20, 60)))
    dropping = environment == POWER or (environment == NETWORK and dice.randrange(2) == 0)
    settings = _settings(dice)
    # What one node alone has synced is where a mistake about durability shows.
    quick = dice.choice(("", "a", "b", "c"))
    return Plan(seed, environment, nodes, settings, disk if dropping else None, quick, faults)


def _settings(dice: random.Random) -> dict[str, int | str]:
    """Little room, so that snapshots, evictions and segments happen all the time."""
    return {
        "journal_segment_bytes": 64 * 1024,
        "journal_tail_entries": dice.choice((0, 10, 50)),
        "journal_tail_bytes": 64 * 1024,
        "flush_interval_ms": dice.choice((20, 100, 100, 500)),
        "hot_executions_max": 100,
        "entries_in_flight": dice.choice((1, 1, 4)),
        "entry_close_commands": dice.choice((4, 1_000)),
        "min_free_disk_bytes": 0,
    }
