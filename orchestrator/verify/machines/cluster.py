"""Local clusters to be broken: nodes on disks that lose what was not synced, in networks of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.config import Address
from orchestrator.verify.machines import children
from orchestrator.verify.machines.disk import FULL, IGNORES_SYNCS, SLOW, DiskSettings, UnsyncedWrites
from orchestrator.verify.machines.namespaces import Namespaces

NODE = "orchestrator.verify.machines.node"
GRPC_PORT, PEER_PORT, METRICS_PORT = 7400, 7500, 7600


class FaultyCluster(LocalCluster):
    """`disk`: of every node, one that a kill deprives of power; None is the real one, which a kill does not harm."""

    def __init__(self, directory: Path, nodes: int, settings: dict[str, int | str], disk: DiskSettings | None) -> None:
        super().__init__(directory, nodes, node_settings=settings)
        self._disk = disk
        # The node whose disk syncs at once, where those of the others take their time.
        self.quick = ""
        self._starts = 0
        self.writes_lost = 0
        self.namespaces: Namespaces | None = None
        # What serves a node on such a disk; empty: `orchestrator serve`, if the disk is the real one.
        self.node_module = "" if disk is None else NODE

    def prefix(self, node: LocalNode) -> list[str]:
        return self.namespaces.prefix(node.name) if self.namespaces is not None else []

    def _command(self, node: LocalNode) -> list[str]:
        if not self.node_module:
            return [*self.prefix(node), *super()._command(node)]
        # Not the same dice after each start.
        self._starts += 1
        disk = dataclasses.replace(self._disk, seed=self._disk.seed + self._starts) if self._disk is not None else None
        if disk is not None and node.name == self.quick:
            disk = dataclasses.replace(disk, sync_ms=0)
        return [*self.prefix(node), sys.executable, "-m", self.node_module, "--config",
                str(node.config_file), "--disk", json.dumps(disk.dictionary() if disk is not None else None),
                "--die-with-parent", str(os.getpid())]

    def _child_environment(self) -> dict[str, str]:
        return super()._child_environment() | {"PYTHONPATH": children.environment()["PYTHONPATH"]}

    async def kill_node(self, name: str) -> None:
        await super().kill_node(name)
        if self._disk is not None:
            self.writes_lost += UnsyncedWrites.read(self.nodes[name].directory / "disk")

    def slow_disk(self, name: str, sync_ms: int) -> None:
        """From now on each sync of the node takes so long; 0: as before."""
        file = self.nodes[name].directory / "disk" / SLOW
        file.write_text(str(sync_ms)) if sync_ms else file.unlink(missing_ok=True)

    def fill_disk(self, name: str) -> None:
        """From now on nothing more fits on the node's disk."""
        (self.nodes[name].directory / "disk" / FULL).touch()

    def make_room(self, name: str) -> None:
        (self.nodes[name].directory / "disk" / FULL).unlink(missing_ok=True)

    def ignore_syncs(self, name: str) -> None:
        """From now on the node's disk says that it has synced, and has not."""
        (self.nodes[name].directory / "disk" / IGNORES_SYNCS).touch()

    def obey_syncs(self, name: str) -> None:
        (self.nodes[name].directory / "disk" / IGNORES_SYNCS).unlink()


class NetworkedCluster(FaultyCluster):
    """Each node in its network namespace; what its peers send it comes through the relay."""

    def __init__(self, directory: Path, nodes: int, settings: dict[str, int | str], disk: DiskSettings | None) -> None:
        super().__init__(directory, nodes, {**settings, "insecure": True}, disk)
        self.namespaces = Namespaces(self.nodes)
        self.relay = RelayProcess(self.namespaces)
        for node in self.nodes.values():
            host = self.namespaces.addresses[node.name]
            node.grpc_address = Address(host, GRPC_PORT)
            node.metrics_address = Address(host, METRICS_PORT)
            # Where the others reach it.
            node.peer_address = Address(self.namespaces.faces[node.name], PEER_PORT)

    def _toml(self, node: LocalNode) -> str:
        assert self.namespaces is not None
        listen = Address(self.namespaces.addresses[node.name], PEER_PORT)
        lines = [line for line in super()._toml(node).splitlines() if not line.startswith("peer_listen")]
        return "\n".join([*lines, f'peer_listen = "{listen}"', f'peer_advertise = "{node.peer_address}"', ""])


class RelayProcess:
    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        nodes = {name: (address, self._namespaces.faces[name]) for name, address in self._namespaces.addresses.items()}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "orchestrator.verify.machines.relay", str(os.getpid()), str(PEER_PORT),
            json.dumps(nodes), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=children.environment(),
        )
        assert self._process.stdout is not None
        if await self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the relay did not start")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def delay(self, delay_ms: dict[tuple[str, str], float | None], jitter_ms: float = 0.0) -> None:
        """How late what the first sends reaches the second; None holds it back. Replaces what was said before."""
        assert self._process is not None and self._process.stdin is not None
        order = {"delay_ms": {f"{source}>{target}": ms for (source, target), ms in delay_ms.items()},
                 "jitter_ms": jitter_ms}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
