"""A few replicated logs in one event loop, on real localhost sockets, with a tiny state machine on each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from orchestrator.replication import identity as identities
from orchestrator.replication.errors import NotLeader, SnapshotInstalled, Stopped
from orchestrator.replication.files import Files, RealFiles, replace_file
from orchestrator.replication.log import EntryKind, ReplicatedLog, Role
from orchestrator.replication.ports import SnapshotCopy, TcpNetwork
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.tls import TlsContexts
from tests.replication.power_loss import NotPowered

T = TypeVar("T")
DEADLINE_S = 15.0
WALL_EPOCH_MS = 1_700_000_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def wait_until(what: str, condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Polls a condition that no signal tells of; the failure says what was waited for."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s for: {what}")
        await asyncio.sleep(0.002)


async def within(what: str, work: Awaitable[T], deadline_s: float = DEADLINE_S) -> T:
    try:
        return await asyncio.wait_for(work, deadline_s)
    except TimeoutError:
        raise AssertionError(f"waited {deadline_s} s for: {what}") from None


class SystemClock:
    def __init__(self) -> None:
        self.wall_offset_ms = 0

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return WALL_EPOCH_MS + int(time.monotonic() * 1000) + self.wall_offset_ms


class CuttableNetwork(TcpNetwork):
    """Real sockets that can be cut between named nodes: what flows is dropped, what is dialled is unreachable."""

    def __init__(self) -> None:
        self.ports: dict[int, str] = {}
        self.cut_pairs: set[frozenset[str]] = set()
        self._open: list[tuple[frozenset[str], asyncio.BaseTransport]] = []

    def of(self, name: str) -> NodeNetwork:
        return NodeNetwork(self, name)

    def cut(self, a: str, b: str) -> None:
        pair = frozenset((a, b))
        self.cut_pairs.add(pair)
        for opened, transport in self._open:
            if opened == pair and isinstance(transport, asyncio.Transport):
                transport.abort()
        self._open = [(opened, transport) for opened, transport in self._open if opened != pair]

    def isolate(self, name: str) -> None:
        for other in set(self.ports.values()) - {name}:
            self.cut(name, other)

    def heal(self) -> None:
        self.cut_pairs.clear()

    def opened(self, pair: frozenset[str], transport: asyncio.BaseTransport) -> None:
        self._open.append((pair, transport))


class NodeNetwork(TcpNetwork):
    def __init__(self, shared: CuttableNetwork, name: str) -> None:
        self._shared = shared
        self._name = name

    async def dial(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        pair = frozenset((self._name, self._shared.ports.get(port, "")))
        if pair in self._shared.cut_pairs or "" in pair:
            raise OSError("unreachable")
        transport, _ = await asyncio.get_running_loop().create_connection(factory, host, port, ssl=tls)
        self._shared.opened(pair, transport)


class Node:
    """One replicated log and a list of the commands it applied; the 'database' is a JSON file."""

    def __init__(
        self,
        directory: Path,
        name: str,
        settings: RaftSettings,
        files: Files,
        network: NodeNetwork | None,
        tls: Callable[[], TlsContexts] = lambda: (None, None),
    ) -> None:
        self.directory = directory
        self.name = name
        self.settings = settings
        self.files = files
        self.network = network
        # For accepting and for dialling; made anew at each start.
        self.tls = tls
        self.clock = SystemClock()
        self.roles: list[tuple[Role, int]] = []
        self.fatal: list[BaseException] = []
        self.applied: list[bytes] = []
        self.applied_index = 0
        self.applied_term = 0
        # As the database holds it.
        self.configuration = b""
        # Index -> (term, data) of what a test appended here and waits for.
        self.awaited: dict[int, tuple[int, bytes]] = {}
        self.observe: Callable[[Node, int, bytes], None] = lambda node, index, data: None
        self.broken: BaseException | None = None
        self.copies = 0
        self.copies_released = 0
        self.installs = 0
        self.log: ReplicatedLog
        self._task: asyncio.Task[None] | None = None

    @property
    def database(self) -> Path:
        return self.directory.parent / f"{self.name}.database"

    def identity(self) -> identities.Identity:
        return identities.load(self.files, self.directory, node=self.name)

    async def start(self) -> None:
        if self.files.exists(self.database):
            self._read_database()
        identity = self.identity()
        self.fatal = []
        self.log = ReplicatedLog(
            identity=identity,
            listen=identity.address_of(self.name),
            settings=self.settings,
            files=self.files,
            data_dir=self.directory,
            applied_index=self.applied_index,
            applied_term=self.applied_term,
            applied_configuration=self.configuration,
            snapshot_source=self,
            snapshot_sink=self,
            on_role_change=lambda role, term: self.roles.append((role, term)),
            on_fatal=self.fatal.append,
            clock=self.clock,
            random=random.Random(f"{self.name}{time.monotonic_ns()}"),
            network=self.network,
            tls=self.tls(),
        )
        await self.log.start()
        self._task = asyncio.create_task(self._apply())

    async def _apply(self) -> None:
        try:
            await self._apply_all()
        except (Stopped, NotPowered):  # the machine may go off in the middle of a read
            return
        except BaseException as error:
            self.broken = error
            raise

    async def _apply_all(self) -> None:
        while True:
            try:
                for entry in await self.log.committed(self.applied_index):
                    assert entry.index == self.applied_index + 1, (
                        f"{self.name} got {entry.index} after {self.applied_index}"
                    )
                    if entry.kind is EntryKind.COMMANDS:
                        self.applied.append(entry.data)
                    self.applied_index, self.applied_term = entry.index, entry.term
                    self.observe(self, entry.index, entry.data)
            except SnapshotInstalled as installed:
                self._check_snapshot(installed)

    def _check_snapshot(self, installed: SnapshotInstalled) -> None:
        assert (installed.index, installed.term) == (self.applied_index, self.applied_term)

    async def passed(self, index: int, term: int) -> None:
        """Applied up to `index`, or in another term."""
        await wait_until(
            f"index {index} to be applied on {self.name}",
            lambda: self.applied_index >= index or self.log.term != term,
        )

    def flush(self) -> None:
        """Writes the database, then lets the journal go."""
        self.configuration = self.log.configuration_at(self.applied_index)
        replace_file(self.files, self.database, self._encode())
        self.log.flushed(self.applied_index)

    def _encode(self) -> bytes:
        content = [data.hex() for data in self.applied]
        return json.dumps([self.applied_index, self.applied_term, self.configuration.decode(), content]).encode()

    def _read_database(self) -> None:
        self.applied_index, self.applied_term, configuration, applied = json.loads(self.files.read(self.database))
        self.configuration = configuration.encode()
        self.applied = [bytes.fromhex(data) for data in applied]

    async def copy(self, *, check: bool = False) -> SnapshotCopy:
        self.copies += 1
        self.configuration = self.log.configuration_at(self.applied_index)
        data = self._encode()
        path = self.directory.parent / f"{self.name}.copy{self.copies}"
        files = self.files
        replace_file(files, path, data)

        def release() -> None:
            self.copies_released += 1
            with contextlib.suppress(OSError):  # a machine without power cannot tidy up
                files.remove(path)

        return SnapshotCopy(
            path,
            self.applied_index,
            self.applied_term,
            len(data),
            hashlib.sha256(data).hexdigest(),
            self.configuration,
            release,
        )

    async def install(self, path: Path, index: int, term: int) -> None:
        self.installs += 1
        replace_file(self.files, self.database, self.files.read(path))
        self._read_database()
        assert (self.applied_index, self.applied_term) == (index, term)

    async def stop(self) -> None:
        await self.log.stop()
        await self._end()

    async def kill(self) -> None:
        """As kill -9: memory is gone, so the state machine starts again from its database."""
        self.log.abort()
        await self._end()
        self.applied, self.applied_index, self.applied_term, self.configuration = [], 0, 0, b""
        self.awaited.clear()

    async def _end(self) -> None:
        if self._task is not None:
            await asyncio.gather(self._task)
            self._task = None


class Cluster:
    def __init__(
        self,
        directory: Path,
        size: int = 3,
        settings: RaftSettings | None = None,
        files: Files | None = None,
        tls: Callable[[], TlsContexts] = lambda: (None, None),
    ) -> None:
        self.directory = directory
        self.settings = settings or RaftSettings()
        self.files = files or RealFiles()
        self.tls = tls
        names = [f"n{number}" for number in range(1, size + 1)]
        self.members = {name: f"127.0.0.1:{free_port()}" for name in names}
        self.cluster_id = identities.generate_cluster_id()
        self.network = CuttableNetwork()
        self.network.ports = {int(address.rpartition(":")[2]): name for name, address in self.members.items()}
        self.nodes = {name: self.make(name) for name in names}

    def make(self, name: str, *, cluster_id: str | None = None, settings: RaftSettings | None = None) -> Node:
        directory = self.directory / name
        identities.initialise(self.files, directory, cluster_id or self.cluster_id, name, self.members)
        return Node(directory, name, settings or self.settings, self.files, self.network.of(name), self.tls)

    async def __aenter__(self) -> Cluster:
        await asyncio.gather(*(node.start() for node in self.nodes.values()))
        return self

    async def __aexit__(self, *_: object) -> None:
        # abort() may leave tasks that close in the next turns; stop() waits for them.
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def leaders(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.log.ready_to_lead]

    async def leader(self, among: list[Node] | None = None) -> Node:
        nodes = among if among is not None else list(self.nodes.values())
        await wait_until(
            f"a leader among {[node.name for node in nodes]}: {[node.roles[-3:] for node in nodes]}",
            lambda: any(node.log.ready_to_lead for node in nodes),
        )
        return max((node for node in nodes if node.log.ready_to_lead), key=lambda node: node.log.term)

    def others(self, node: Node) -> list[Node]:
        return [other for other in self.nodes.values() if other is not node]

    async def put(self, data: bytes, among: list[Node] | None = None) -> tuple[int, int]:
        """Appends on whoever leads, and waits until it is applied there; tries again when the leader changes."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            node = await self.leader(among)
            try:
                index, term = node.log.append(data)
            except NotLeader:
                continue
            await node.passed(index, term)
            if node.applied_index >= index and data in node.applied:
                return index, term
        raise AssertionError(f"waited {DEADLINE_S} s for a command to be committed")

    async def converged(self, nodes: list[Node] | None = None) -> None:
        chosen = nodes if nodes is not None else list(self.nodes.values())
        await wait_until(
            f"the same commands on {[node.name for node in chosen]}",
            lambda: (
                len({node.applied_index for node in chosen}) == 1
                and max(node.log.commit_index for node in chosen) == chosen[0].applied_index
            ),
        )
        for node in chosen[1:]:
            assert node.applied == chosen[0].applied
