"""Random power loss, kills and partitions: no acknowledged command is lost, no two nodes apply different entries.

Every node has a disk of its own in memory that keeps only what was synced. A failure names its seed.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from orchestrator.replication import identity as identities
from orchestrator.replication.errors import NotLeader, Stopped
from orchestrator.replication.log import Role
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, Node, within
from tests.replication.power_loss import PowerLossFiles

SETTINGS = RaftSettings(
    heartbeat_interval_ms=20,
    election_timeout_min_ms=80,
    election_timeout_max_ms=160,
    journal_segment_bytes=2 << 10,
    journal_cache_bytes=2 << 10,
    journal_tail_entries=20,
    batch_bytes_max=1 << 10,
    probe_bytes_max=256,
    redial_max_ms=50,
)


class Chaos:
    def __init__(self, directory: Path, seed: int, size: int) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.cluster = Cluster(directory, size, SETTINGS, PowerLossFiles())
        for node in self.cluster.nodes.values():
            files = PowerLossFiles()
            files.make_durable_directory(node.directory.parent)
            identity = identities.initialise(
                files, node.directory, self.cluster.cluster_id, node.name, self.cluster.members
            )
            node.files = files
            assert identity.node == node.name
        self.acknowledged: list[bytes] = []
        self.number = 0
        # What was first applied at each index, by anybody.
        self.history: dict[int, bytes] = {}
        self.down: set[str] = set()

    async def write(self) -> None:
        """Appends without a pause on whoever says that it leads; what it applies in its own term is acknowledged."""
        while True:
            await asyncio.sleep(self.rng.random() * 0.004)
            for node in self.cluster.nodes.values():
                if node.name in self.down or node.log.role is not Role.LEADER:
                    continue
                self.number += 1
                data = b"%d" % self.number
                try:
                    index, term = node.log.append(data)
                except (NotLeader, Stopped):
                    continue
                node.awaited[index] = (term, data)

    async def disturb(self) -> None:
        names = sorted(self.cluster.nodes)
        action = self.rng.random()
        if action < 0.25:
            await self.crash(self.rng.sample(names, self.rng.randint(1, len(names))))
        elif action < 0.45:
            self.cluster.network.isolate(self.rng.choice(names))
        elif action < 0.6:
            self.cluster.network.cut(*self.rng.sample(names, 2))
        elif action < 0.8:
            self.cluster.network.heal()
        elif action < 0.95:
            for node in self.cluster.nodes.values():
                node.flush()
        else:
            leaders = [node for node in self.cluster.nodes.values() if node.log.role is Role.LEADER]
            await asyncio.gather(*(node.log.transfer_leadership() for node in leaders))
        await asyncio.sleep(self.rng.random() * 0.25)

    async def crash(self, names: list[str]) -> None:
        self.down.update(names)
        for name in names:
            node = self.cluster[name]
            left = node.files.power_loss(self.rng)  # type: ignore[attr-defined]  # chaos nodes have such disks
            await node.kill()
            node.files = left
        await asyncio.sleep(self.rng.random() * 0.2)
        for name in names:
            await self.cluster[name].start()
        self.down.difference_update(names)

    def applied(self, node: Node, index: int, data: bytes) -> None:
        first = self.history.setdefault(index, data)
        assert first == data, f"seed {self.seed}: {node.name} applied {data!r} at {index}, another node {first!r}"
        term, mine = node.awaited.pop(index, (0, b""))
        if term == node.applied_term and mine == data:
            self.acknowledged.append(data)

    async def run(self, rounds: int) -> None:
        for node in self.cluster.nodes.values():
            node.observe = self.applied
        await asyncio.gather(*(node.start() for node in self.cluster.nodes.values()))
        await self.cluster.leader()
        writer = asyncio.create_task(self.write())
        for _ in range(rounds):
            await self.disturb()
            assert not writer.done(), writer.exception()
            self.check()
        writer.cancel()
        self.cluster.network.heal()
        await self.cluster.put(b"end")
        await self.cluster.converged()
        self.check()
        final = set(self.cluster["n1"].applied)
        lost = [data for data in self.acknowledged if data not in final]
        assert not lost, f"seed {self.seed}: acknowledged commands are lost: {lost[:10]}"
        await self.cluster.__aexit__()

    def check(self) -> None:
        for node in self.cluster.nodes.values():
            assert not node.broken, f"seed {self.seed}: {node.name}: {node.broken}"
            fatal = [error for error in node.fatal if node.name not in self.down]
            assert not fatal, f"seed {self.seed}: {node.name} stopped: {fatal}"


@pytest.mark.parametrize(("seed", "size"), [(1, 3), (2, 3), (3, 5)])
async def test_nothing_acknowledged_is_lost_and_nobody_diverges(tmp_path: Path, seed: int, size: int) -> None:
    chaos = Chaos(tmp_path, seed, size)
    began = time.monotonic()
    await within(f"chaos of seed {seed} to end", chaos.run(rounds=15), 200)
    assert chaos.acknowledged, f"seed {seed}: nothing was acknowledged in {time.monotonic() - began:.1f} s"
