"""W3 on Restate: the handlers' process, one server or three, and calls to their ingress."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.local_cluster import free_ports
from tests.benchmarks.peers.children import HOST, Child, Children, children
from tests.benchmarks.peers.http_calls import HttpCalls, HttpError
from tests.benchmarks.peers.installation import Installation, NotInstallable, make_venv, python, run
from tests.benchmarks.peers.peer import Peer, Running, check, parcel

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements.txt"
_VERSION = "1.7.12"
_NODE_NAMES = ("a", "b", "c")
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
# As many as there are processors: the default of 24 would only make batches smaller.
_PARTITIONS = 2
# By default, hypercorn closes a connection after 1,000 requests, upon which Restate waits half a second to try again,
# and takes fewer requests at once than Restate sends.
# A worker of its own would outlive a parent that is killed.
_HYPERCORN = {
    "worker_class": "uvloop", "workers": 0, "keep_alive_max_requests": 10**9, "h2_max_concurrent_streams": 1_000,
}


def _package() -> str:
    """The server without its launcher, which would be one process more."""
    if platform.system() != "Linux" or platform.machine() not in _ARCHITECTURES:
        raise NotInstallable(f"there is no Restate for {platform.system()} on {platform.machine()}")
    return f"@restatedev/restate-server-linux-{_ARCHITECTURES[platform.machine()]}"


def _program(directory: Path) -> Path:
    return directory / "node_modules" / _package() / "bin" / "restate-server"


def _fetch(directory: Path) -> None:
    run(["npm", "install", "--prefix", directory, "--no-save", "--no-package-lock", "--no-audit", "--no-fund",
         "--ignore-scripts", f"{_package()}@{_VERSION}"], directory)
    run([_program(directory), "--version"], directory)
    make_venv(directory, _REQUIREMENTS)


RESTATE = Installation("restate", (_VERSION, _REQUIREMENTS), ("npm", "setpriv"), _fetch)


@dataclass(frozen=True)
class Node:
    name: str
    node_port: int
    admin_port: int
    ingress_port: int

    def settings(self, nodes: Sequence[Node], directory: Path) -> str:
        """TOML. A majority of the metadata servers decides; the log of each partition is on two of three nodes."""
        values = {
            "cluster-name": "bench",
            "node-name": self.name,
            "base-dir": str(directory / self.name),
            "listen-mode": "tcp",
            "bind-ip": HOST,
            "bind-port": self.node_port,
            "advertised-host": HOST,
            "auto-provision": self == nodes[0],
            "default-num-partitions": _PARTITIONS,
            "default-replication": _replication(len(nodes)),
            "disable-telemetry": True,
            "log-filter": "warn",
            "metadata-client.addresses": [f"http://{HOST}:{node.node_port}" for node in nodes],
            "admin.bind-port": self.admin_port,
            "admin.disable-web-ui": True,
            "ingress.bind-port": self.ingress_port,
        }
        return _toml(values)


def _replication(nodes: int) -> int:
    return nodes // 2 + 1


def _toml(values: dict[str, object]) -> str:
    """What JSON and TOML write alike."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def nodes_of(count: int, ports: Iterator[int]) -> list[Node]:
    return [Node(name, next(ports), next(ports), next(ports)) for name in _NODE_NAMES[:count]]


@contextlib.asynccontextmanager
async def _start(count: int, handler: str, directory: Path, callers: int) -> AsyncIterator[Running]:
    ports = free_ports()
    nodes = nodes_of(count, ports)
    async with children(directory) as started:
        worker, uri = await _start_handlers(started, next(ports))
        servers = []
        for node in nodes:
            config = directory / f"{node.name}.toml"
            config.write_text(node.settings(nodes, directory), encoding="utf-8")
            command = [_program(RESTATE.directory), "--no-logo", "--config-file", config]
            servers.append(await started.start(f"restate-{node.name}", command))
        for node, server in zip(nodes, servers, strict=True):
            await server.wait_port(node.admin_port)
            await server.wait_port(node.ingress_port)
        await _register(uri, nodes[0], servers[0])
        for node, server in zip(nodes, servers, strict=True):
            await server.wait_until(functools.partial(_answers, node, handler), "answers")
        calls = HttpCalls([node.ingress_port for node in nodes])

        async def call(number: int) -> None:
            check(number, await calls.post(f"/W3/{handler}", parcel(number)))

        try:
            yield Running(call, servers=tuple(servers), workers=(worker,))
        finally:
            await calls.close()


async def _start_handlers(started: Children, port: int) -> tuple[Child, str]:
    config = started.directory / "hypercorn.toml"
    config.write_text(_toml({**_HYPERCORN, "bind": [f"{HOST}:{port}"]}), encoding="utf-8")
    worker = await started.start(
        "handlers",
        [python(RESTATE.directory), "-I", "-m", "hypercorn", "--config", config, f"{_HERE / 'service.py'}:app"],
        end=signal.SIGKILL,  # it would wait for connections that Restate keeps, and has nothing to lose
    )
    await worker.wait_port(port)
    return worker, f"http://{HOST}:{port}"


async def _register(uri: str, node: Node, server: Child) -> None:
    """As soon as the cluster can remember it."""
    admin = HttpCalls([node.admin_port])

    async def registered() -> bool:
        try:
            await admin.post("/deployments", {"uri": uri})
        except (HttpError, OSError):
            return False
        return True

    try:
        await server.wait_until(registered, "registers the handlers")
    finally:
        await admin.close()


async def _answers(node: Node, handler: str) -> bool:
    ingress = HttpCalls([node.ingress_port])
    try:
        check(0, await ingress.post(f"/W3/{handler}", parcel(0)))
    except (HttpError, OSError):
        return False
    finally:
        await ingress.close()
    return True


def _peer(name: str, nodes: int, handler: str) -> Peer:
    return Peer(
        name=name,
        installations=(RESTATE,),
        start=functools.partial(_start, nodes, handler),
        settings={
            "nodes": nodes, "replication": _replication(nodes), "partitions": _PARTITIONS, "handler": handler,
            "version": _VERSION,
        },
    )


PEERS = (
    _peer("restate", 1, "calls"),
    _peer("restate-3", 3, "calls"),
    _peer("restate-run", 1, "runs"),
    _peer("restate-3-run", 3, "runs"),
)
