"""A real cluster on this machine: one process per node, on loopback, for development, demonstrations and tests.

No process outlives the one that made the cluster: not after an exception, not after kill -9, not if it was paused.
What a node said last is part of every error about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator import config as settings
from orchestrator.cli.cluster_calls import CALL_TIMEOUT_S, ask_leader, ask_status
from orchestrator.config import Address, Config
from orchestrator.replication import identity
from orchestrator.replication.files import RealFiles
from orchestrator.sealing.keys import new_key_line
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import TLS

NODE_NAMES = ("a", "b", "c", "d", "e", "f", "g")
LOG_TAIL_LINES = 30
_LOOPBACK = "127.0.0.1"
# Below the range from which the kernel takes the ports of outgoing connections: a node that is down keeps its port.
FREE_PORTS = range(20_000, 32_000)
_POLL_S = 0.05


class LocalClusterError(Exception):
    """A node did not do what was asked of it; the message ends with the last lines of its log."""


class LocalNode:
    """One node: its files, its addresses and, while it runs, its process."""

    def __init__(self, name: str, directory: Path, grpc_port: int, peer_port: int, metrics_port: int) -> None:
        self.name = name
        self.directory = directory
        self.grpc_address = Address(_LOOPBACK, grpc_port)
        self.peer_address = Address(_LOOPBACK, peer_port)
        self.metrics_address = Address(_LOOPBACK, metrics_port)
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False

    @property
    def config_file(self) -> Path:
        return self.directory / "config.toml"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "node.log"

    @property
    def running(self) -> bool:
        """True also while it is paused."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the last process, negative for a signal; None while it runs or if it never did."""
        return self.process.poll() if self.process is not None else None

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as file:
            file.seek(max(0, self.log_file.stat().st_size - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        if self.process is None or self.process.poll() is not None:
            raise LocalClusterError(f"node {self.name} is not running (exit code {self.exit_code})")
        self.process.send_signal(number)


class LocalCluster:
    """Nodes a, b, c, … under `directory`; a directory that holds a cluster already is used again, on its ports.

    `base_port` puts gRPC on base_port…, peers on base_port + 100… and metrics on base_port + 200…; None takes free
    ports. `node_settings` are settings of `Config` for every node, `environment` is added to the processes'.
    `tls`: how the nodes are asked, where their settings say that they speak TLS; `own_settings` are those of one node.
    """

    def __init__(self, directory: Path, nodes: int = 3, *, base_port: int | None = None,
                 node_settings: Mapping[str, int | str] | None = None,
                 environment: Mapping[str, str] | None = None, tls: TLS | None = None) -> None:
        if not 1 <= nodes <= len(NODE_NAMES):
            raise ValueError(f"a local cluster has 1 to {len(NODE_NAMES)} nodes, not {nodes}")
        self.directory = directory.resolve()
        self._settings = dict(node_settings or {})
        self._environment = dict(environment or {})
        self.tls = tls
        # Settings of single nodes, by their names, for those that can't be the same everywhere.
        self.own_settings: dict[str, Mapping[str, int | str]] = {}
        # The processes are tied to the thread that starts them: this one lives as long as the cluster is referred to.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="local-cluster")
        self.nodes: dict[str, LocalNode] = {}
        ports = free_ports()
        for position, name in enumerate(NODE_NAMES[:nodes]):
            numbers = tuple(base_port + offset + position if base_port else next(ports) for offset in (0, 100, 200))
            self.nodes[name] = _existing(self.directory / name) or LocalNode(name, self.directory / name, *numbers)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await self.wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.stop()

    # ---- addresses

    @property
    def addresses(self) -> dict[str, str]:
        """Node name -> the host:port of its gRPC service."""
        return {name: str(node.grpc_address) for name, node in self.nodes.items()}

    @property
    def endpoints(self) -> list[str]:
        """What a client takes."""
        return list(self.addresses.values())

    # ---- processes

    async def start(self) -> None:
        """Makes what is missing of the directories and starts every node; does not wait for them."""
        self.prepare()
        for node in self.nodes.values():
            if not node.running:
                self.start_node(node.name)

    def prepare(self) -> None:
        """Writes the configurations and makes the data directories that are missing."""
        members = {name: str(node.peer_address) for name, node in self.nodes.items()}
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_secret_key()
        cluster_id = self._cluster_id()
        for node in self.nodes.values():
            node.directory.mkdir(parents=True, exist_ok=True)
            node.config_file.write_text(self._toml(node))
            if not (node.data_dir / identity.FILE_NAME).exists():
                identity.initialise(RealFiles(), node.data_dir, cluster_id, node.name, members)

    @property
    def secret_keys_file(self) -> Path:
        """Of all nodes alike."""
        return self.directory / "secret.keys"

    def _make_secret_key(self) -> None:
        if "secret_keys_file" not in self._settings and not self.secret_keys_file.exists():
            self.secret_keys_file.touch(mode=0o600)
            self.secret_keys_file.write_text(new_key_line(os.urandom) + "\n")

    def start_node(self, name: str) -> None:
        node = self.nodes[name]
        if node.running:
            raise LocalClusterError(f"node {name} is running already")
        self._starter.submit(self._spawn, node).result()

    async def kill_node(self, name: str) -> None:
        """SIGKILL; gone when this returns."""
        self.nodes[name].signal(signal.SIGKILL)
        await self._gone(self.nodes[name], time.monotonic() + 30)

    async def stop_node(self, name: str, timeout_s: float = 15) -> int:
        """SIGTERM; answers the exit code. A node that does not end in time is killed, and that is an error."""
        node = self.nodes[name]
        node.signal(signal.SIGTERM)
        self._continue(node)
        if not await self._gone(node, time.monotonic() + timeout_s):
            await self.kill_node(name)
            raise LocalClusterError(f"node {name} did not stop in {timeout_s} s and was killed\n{node.log_tail()}")
        assert node.exit_code is not None
        return node.exit_code

    def pause(self, name: str) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self.nodes[name].signal(signal.SIGSTOP)
        self.nodes[name].paused = True

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.nodes[name].signal(signal.SIGCONT)
        self.nodes[name].paused = False

    async def stop(self, timeout_s: float = 10) -> None:
        """Stops every node, by SIGKILL if it does not end in time; never raises for that. `start` may follow."""
        deadline = time.monotonic() + timeout_s
        running = [node for node in self.nodes.values() if node.running]
        for node in running:
            with contextlib.suppress(LocalClusterError, ProcessLookupError):
                node.signal(signal.SIGTERM)
                self._continue(node)
        for node in running:
            if not await self._gone(node, deadline):
                with contextlib.suppress(LocalClusterError, ProcessLookupError):
                    await self.kill_node(node.name)

    # ---- what the nodes say

    async def wait_ready(self, timeout_s: float = 30) -> str:
        """Waits until every node that runs names the same leader, which agrees; answers its name."""
        deadline = time.monotonic() + timeout_s
        while True:
            for node in self.nodes.values():
                if node.exit_code is not None:
                    ended = f"node {node.name} ended with exit code {node.exit_code}"
                    raise LocalClusterError(f"{ended}\n{node.log_tail()}")
            # Before they are asked: one that dies meanwhile must not pass for one that nobody waits for.
            expected = {node.name for node in self.nodes.values() if node.running and not node.paused}
            answers = await self._ask_all()
            leaders = {answer.leader for answer in answers.values()}
            if expected and answers.keys() == expected and len(leaders) == 1 and leaders <= expected:
                return leaders.pop()
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {node.name}\n{node.log_tail()}" for node in self.nodes.values())
                said = {name: answer.leader or "no leader" for name, answer in answers.items()}
                raise LocalClusterError(f"no agreed leader in {timeout_s} s; the nodes say {said}\n{tails}")
            await asyncio.sleep(_POLL_S)

    async def leader(self) -> str | None:
        """The node that says in the highest term that it leads itself; None if none does now."""
        answers = await self._ask_all()
        claims = [(answer.term, name) for name, answer in answers.items() if answer.leader == name]
        return max(claims)[1] if claims else None

    async def wait_leader(self, *, other_than: str | None = None, timeout_s: float = 30) -> str:
        """Waits for a node that leads; while `other_than` runs on in a minority it may claim to lead, too."""
        deadline = time.monotonic() + timeout_s
        while True:
            leader = await self.leader()
            if leader is not None and leader != other_than:
                return leader
            if time.monotonic() > deadline:
                raise LocalClusterError(f"no leader (other than {other_than}) in {timeout_s} s")
            await asyncio.sleep(_POLL_S)

    async def status(self, name: str, timeout_s: float = CALL_TIMEOUT_S) -> cluster_pb2.GetStatusResponse | None:
        """What the node knows of the cluster; None if it does not answer in time."""
        node = self.nodes[name]
        if not node.running or node.paused:
            return None
        return await ask_status(str(node.grpc_address), timeout_s, self.tls)

    # ---- inside

    async def _ask_all(self) -> dict[str, cluster_pb2.GetLeaderResponse]:
        awake = [node for node in self.nodes.values() if node.running and not node.paused]
        answers = await asyncio.gather(*(ask_leader(str(node.grpc_address), tls=self.tls) for node in awake))
        return {node.name: answer for node, answer in zip(awake, answers, strict=True) if answer is not None}

    def _cluster_id(self) -> str:
        for node in self.nodes.values():
            if (node.data_dir / identity.FILE_NAME).exists():
                return identity.load(RealFiles(), node.data_dir).cluster_id
        return secrets.token_hex(16)

    def _toml(self, node: LocalNode) -> str:
        values: dict[str, int | str] = {
            "node": node.name, "data_dir": str(node.data_dir), "grpc_listen": str(node.grpc_address),
            "peer_listen": str(node.peer_address), "metrics_listen": str(node.metrics_address),
            "secret_keys_file": str(self.secret_keys_file), **self._settings, **self.own_settings.get(node.name, {}),
        }
        Config(**{**values, "data_dir": node.data_dir})  # type: ignore[arg-type]  # checked by Config itself
        # JSON's text and numbers are TOML's, too.
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())

    def _spawn(self, node: LocalNode) -> None:
        with node.log_file.open("ab") as log:
            node.process = subprocess.Popen(self._command(node), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self._child_environment(), cwd=node.directory,
                                            # Ctrl-C in the terminal is for whoever owns the cluster to act on.
                                            start_new_session=True)
        node.paused = False

    def _command(self, node: LocalNode) -> list[str]:
        return [sys.executable, "-m", "orchestrator", "serve", "--config", str(node.config_file),
                "--die-with-parent", str(os.getpid())]

    def _child_environment(self) -> dict[str, str]:
        # Settings in our own environment are not meant for all these nodes at once.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        paths = [*package_roots(), *filter(None, inherited.get("PYTHONPATH", "").split(os.pathsep))]
        return {**inherited, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), **self._environment}

    @staticmethod
    def _continue(node: LocalNode) -> None:
        """A stopped process takes its other signals only when it goes on."""
        if node.paused and node.running:
            node.signal(signal.SIGCONT)
            node.paused = False

    @staticmethod
    async def _gone(node: LocalNode, deadline: float) -> bool:
        while node.running:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True


def _existing(directory: Path) -> LocalNode | None:
    """A cluster's members are fixed with its data, so a directory that was used before keeps its ports."""
    file = directory / "config.toml"
    if not file.exists():
        return None
    found: dict[str, Any] = vars(settings.load(file, {}, {}))
    ports = (Address.parse(found[name]).port for name in ("grpc_listen", "peer_listen", "metrics_listen"))
    return LocalNode(directory.name, directory, *ports)


def free_ports() -> Iterator[int]:
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, port))
            except OSError:
                continue
        yield port
    raise LocalClusterError("no free port")


def package_roots() -> list[str]:
    """Where the packages were found, for a child that may run from a checkout that is not installed."""
    roots = []
    for package in ("orchestrator", "orchestrator_client", "orchestrator_api"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            roots.append(str(Path(next(iter(spec.submodule_search_locations))).parent))
    return roots
