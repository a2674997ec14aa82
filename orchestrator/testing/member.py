"""A real node on a simulated machine, across its restarts; clients reach it by simulated RPC."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Generic, TypeVar, cast

import grpc.aio

from orchestrator.config import Config
from orchestrator.node import Node, NodeFailed
from orchestrator.replication import identity as identities
from orchestrator.replication.identity import Identity
from orchestrator.replication.log import ReplicatedLog, Role
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.server import add_services
from orchestrator.testing.disk import LogFiles
from orchestrator.testing.machine import Machine
from orchestrator.testing.rpc import SimulatedServer
from orchestrator.world import World

CLUSTER = "simulated"
DATA = Path("/data")
PEER_PORT, GRPC_PORT = 7500, 7400
STOP_SECONDS = 5.0


class SimulatedNode(Node):
    """Lets itself be looked at."""

    @property
    def log(self) -> ReplicatedLog:
        return self._log


AnyNode = TypeVar("AnyNode", bound=SimulatedNode)


class SimulatedMember(Generic[AnyNode]):
    """One member of a cluster. What a kind of simulation adds to it, it says by the methods that do nothing here."""

    def __init__(self, machine: Machine, config: Config) -> None:
        self.machine = machine
        self.config = config
        self.node: AnyNode | None = None
        self.server = SimulatedServer()
        self.incarnation = ""

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def serving(self) -> bool:
        return self.machine.running and self.node is not None

    @property
    def leads(self) -> bool:
        """Of the log; it serves as the leader a little later."""
        return self.serving and self.node is not None and self.node.log.role is Role.LEADER

    # -- what a simulation adds ------------------------------------------------------------------------------------

    def make_node(self, world: World) -> AnyNode:
        """The node of a process that begins."""
        raise NotImplementedError

    def backend(self, backend: Backend) -> Backend:
        """What the servicers are given."""
        return backend

    def told(self, what: str) -> None:
        """For a trace."""

    def failed(self, error: BaseException) -> None:
        """The node does not start, or has stopped itself."""

    # -- life ------------------------------------------------------------------------------------------------------

    def initialise(self, members: dict[str, str], dice: random.Random) -> None:
        """As `orchestrator init`, on a blank disk; members as name -> peer address."""
        disk = self.machine.disk
        disk.make_directory(str(DATA))
        disk.sync_directory("/")
        self.incarnation = f"{dice.getrandbits(128):032x}"
        identity = Identity(cluster_id=CLUSTER, node=self.name, incarnation=self.incarnation, members=members)
        identities.save(LogFiles(disk), DATA, identity)

    def start(self) -> None:
        self.machine.boot()
        self.node = None
        self.told("starts")
        _ = self.machine.spawn(self._run(), f"node {self.name}")

    async def _run(self) -> None:
        process = self.machine.process
        assert process is not None
        node = self.make_node(self.machine.world())
        try:
            await node.start()
            self.node = node
            self._serve(node)
            node.begin_system_work()
            await node.wait_failed()
        except NodeFailed as error:
            self.failed(error)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await node.stop()
            except Exception as stopping:  # noqa: BLE001 - it is on its way out
                self.told(f"did not stop well: {stopping!r}")
        except Exception as error:  # noqa: BLE001 - a node that does not start says why
            if not process.alive:
                # Killed in the midst of what it did: the rest is nobody's.
                return
            self.failed(error)
        self.node = None
        if self.machine.process is process:
            self.machine.kill()

    async def stop(self) -> None:
        """As SIGTERM."""
        node, process = self.node, self.machine.process
        if node is not None:
            self.server.stop()
            await node.stop()
        if self.machine.process is process:
            self.machine.kill()

    def _serve(self, node: AnyNode) -> None:
        self.server = SimulatedServer()
        backend, server = self.backend(node.backend), cast(grpc.aio.Server, self.server)
        add_services(backend, server)
        assert self.machine.process is not None
        self.server.start(self.machine.network, self.machine.process, self.name, GRPC_PORT)
