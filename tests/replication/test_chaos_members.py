"""As the other chaos test, while members come, go, and lose their disks: power loss hits every point of a change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orchestrator.replication import identity as identities
from orchestrator.replication.configuration import Configuration
from orchestrator.replication.errors import ReplicationError
from orchestrator.replication.log import Role
from tests.replication.cluster import Node, free_port, wait_until, within
from tests.replication.power_loss import PowerLossFiles
from tests.replication.test_chaos import SETTINGS, Chaos

SIZE_MIN, SIZE_MAX = 3, 5


class ChangingChaos(Chaos):
    def __init__(self, directory: Path, seed: int, size: int) -> None:
        super().__init__(directory, seed, size)
        # Processes are started and ended by one at a time.
        self.processes = asyncio.Lock()
        self.made = size
        self.changes: list[str] = []

    async def crash(self, names: list[str]) -> None:
        async with self.processes:
            await super().crash([name for name in names if name in self.cluster.nodes])

    def leading(self) -> list[Node]:
        nodes = [node for node in self.cluster.nodes.values() if node.name not in self.down]
        return [node for node in nodes if node.log.role is Role.LEADER]

    async def until(self, holds: Callable[[Configuration], bool], change: Callable[[Node], Awaitable[None]]) -> None:
        """Asks whoever leads until a leader has it committed."""
        while True:
            await asyncio.sleep(0.01)
            for node in self.leading():
                found = node.log.status().configuration
                committed = node.log._membership.index <= node.log.commit_index
                if found is not None and node.log.ready_to_lead and committed and holds(found):
                    return
                try:
                    await change(node)
                except ReplicationError:
                    continue

    async def change(self) -> None:
        size = len(self.cluster.nodes)
        choice = self.rng.random()
        if size < SIZE_MAX and choice < 0.4:
            await self.add()
        elif size > SIZE_MIN and choice < 0.6:
            await self.remove(self.rng.choice(sorted(self.cluster.nodes)))
        else:
            await self.replace(self.rng.choice(sorted(self.cluster.nodes)))

    async def begin(self, name: str) -> str:
        """A blank node; its incarnation."""
        files = PowerLossFiles()
        directory = self.cluster.directory / name
        files.make_durable_directory(directory.parent)
        made = identities.initialise(files, directory, self.cluster.cluster_id, name, self.cluster.members)
        node = Node(directory, name, SETTINGS, files, self.cluster.network.of(name))
        node.observe = self.applied
        await node.start()
        self.cluster.nodes[name] = node
        return made.incarnation

    async def add(self) -> None:
        self.made += 1
        name, address = f"n{self.made}", f"127.0.0.1:{free_port()}"
        self.cluster.members = {**self.cluster.members, name: address}
        self.cluster.network.ports[int(address.rpartition(":")[2])] = name
        async with self.processes:
            incarnation = await self.begin(name)
        await self.until(
            lambda found: name in found.members, lambda leader: leader.log.add_member(name, incarnation, address)
        )
        self.changes.append(f"add {name}")

    async def replace(self, name: str) -> None:
        async with self.processes:
            node = self.cluster.nodes.pop(name)
            await node.kill()
            await asyncio.sleep(self.rng.random() * 0.1)
            incarnation = await self.begin(name)

        def voting(found: Configuration) -> bool:
            return name in found.members and found.members[name].incarnation == incarnation

        await self.until(voting, lambda leader: leader.log.replace_member(name, incarnation))
        self.changes.append(f"replace {name}")

    async def remove(self, name: str) -> None:
        await self.until(lambda found: found.find(name) is None, lambda leader: leader.log.remove_member(name))
        async with self.processes:
            node = self.cluster.nodes.pop(name)
            await node.kill()
        del self.cluster.network.ports[int(self.cluster.members[name].rpartition(":")[2])]
        self.changes.append(f"remove {name}")

    async def keep_changing(self) -> None:
        while True:
            await self.change()
            await asyncio.sleep(self.rng.random() * 0.2)

    async def run(self, rounds: int) -> None:
        for node in self.cluster.nodes.values():
            node.observe = self.applied
        await asyncio.gather(*(node.start() for node in self.cluster.nodes.values()))
        await self.cluster.leader()
        writer = asyncio.create_task(self.write())
        changer = asyncio.create_task(self.keep_changing())
        for _ in range(rounds):
            await self.disturb()
            assert not writer.done(), writer.exception()
            assert not changer.done(), changer.exception()
            self.check()
        self.cluster.network.heal()
        count = len(self.changes)
        await wait_until(f"seed {self.seed}: a change in peace", lambda: len(self.changes) > count or changer.done())
        changer.cancel()
        writer.cancel()
        await asyncio.wait([writer, changer])
        await self.end()

    async def end(self) -> None:
        """Those that are members by now hold everything that was acknowledged."""
        await self.cluster.put(b"end")
        leader = await self.cluster.leader()

        def members() -> list[Node]:
            found = leader.log.status().configuration
            return [self.cluster[name] for name in found.members] if found is not None else []

        await self.cluster.converged(members())
        self.check()
        final = set(leader.applied)
        lost = [data for data in self.acknowledged if data not in final]
        assert not lost, f"seed {self.seed}: acknowledged commands are lost: {lost[:10]}"
        assert self.changes
        await self.cluster.__aexit__()


@pytest.mark.parametrize(("seed", "size"), [(11, 3), (12, 4), (13, 5)])
async def test_nothing_is_lost_while_members_change(tmp_path: Path, seed: int, size: int) -> None:
    chaos = ChangingChaos(tmp_path, seed, size)
    began = time.monotonic()
    await within(f"chaos of seed {seed} to end: {chaos.changes}", chaos.run(rounds=15), 200)
    assert chaos.acknowledged, f"seed {seed}: nothing was acknowledged in {time.monotonic() - began:.1f} s"
