"""The cluster that is measured: three nodes on loopback, on disks and in a network that may be slower than they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.config import Address
from tests.benchmarks import relay

ROOT = Path(__file__).resolve().parents[2]
RELAY_READY_S = 20


class MeasuredCluster(LocalCluster):
    """`sync_ms` is how much longer the disk of each node takes to sync; what it is at a node's start counts."""

    def __init__(self, directory: Path, settings: Mapping[str, int | str], sync_ms: float = 0.0) -> None:
        super().__init__(directory, node_settings=settings)
        self.sync_ms = dict.fromkeys(self.nodes, sync_ms)
        self.relay_pid: int | None = None
        self._listen = {name: node.peer_address for name, node in self.nodes.items()}

    @contextlib.asynccontextmanager
    async def relayed(self, rtt_ms: float) -> AsyncIterator[None]:
        """What nodes send each other takes so long there and back. To be entered before the first start."""
        if not rtt_ms:
            yield
            return
        ports = [str(address.port) for address in self._listen.values()]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.benchmarks.relay", str(os.getpid()), str(rtt_ms / 2), *ports,
            stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(RELAY_READY_S):
                fronts = [int(port) for port in (await process.stdout.readline()).split()]
            for node, port in zip(self.nodes.values(), fronts, strict=True):
                node.peer_address = Address(relay.HOST, port)
            self.relay_pid = process.pid
            yield
        finally:
            self.relay_pid = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def pid(self, name: str) -> int:
        process = self.nodes[name].process
        assert process is not None
        return process.pid

    def _toml(self, node: LocalNode) -> str:
        text = super()._toml(node)
        listen = self._listen[node.name]
        if listen == node.peer_address:
            return text
        lines = [line for line in text.splitlines() if not line.startswith("peer_listen")]
        return "\n".join([*lines, f'peer_listen = "{listen}"', f'peer_advertise = "{node.peer_address}"', ""])

    def _command(self, node: LocalNode) -> list[str]:
        if not self.sync_ms[node.name]:
            return super()._command(node)
        return [sys.executable, "-m", "tests.benchmarks.node", "--config", str(node.config_file),
                "--sync-ms", str(self.sync_ms[node.name]), "--die-with-parent", str(os.getpid())]

    def _child_environment(self) -> dict[str, str]:
        inherited = _with_bytecode(super()._child_environment())
        return inherited | {"PYTHONPATH": os.pathsep.join([inherited["PYTHONPATH"], str(ROOT)])}


def environment() -> dict[str, str]:
    """Of a child that runs a module of the tests or of the project: it finds each where this process does."""
    paths = os.pathsep.join(filter(None, sys.path))
    return {**_with_bytecode(os.environ), "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


def _with_bytecode(environment: Mapping[str, str]) -> dict[str, str]:
    """What is installed is compiled once: no start of a node that is measured may do it anew."""
    return {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
