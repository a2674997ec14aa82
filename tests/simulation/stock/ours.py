"""Our replicated log on a simulated machine, with the same registers on it as the stock node has."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from pathlib import Path

from orchestrator.replication import identity as identities
from orchestrator.replication.errors import NotLeader, SnapshotInstalled, Stopped
from orchestrator.replication.files import replace_file
from orchestrator.replication.identity import Identity
from orchestrator.replication.log import Entry, EntryKind, ReplicatedLog, Role
from orchestrator.replication.ports import SnapshotCopy
from orchestrator.replication.settings import KIB, RaftSettings
from orchestrator.testing.disk import LogFiles
from orchestrator.testing.loop import Process
from orchestrator.testing.machine import Machine, MachineClock, SimulatedWorker
from orchestrator.testing.network import NodeNetwork
from tests.simulation.history import FAILED, OK, UNKNOWN
from tests.simulation.stock.members import Answered
from tests.simulation.stock.profile import Profile
from tests.simulation.stock.transport import PORT
from tests.simulation.stock.watcher import LogWatcher

DATA = Path("/data")
DATABASE = DATA / "state.db"


class Registers:
    """The state machine of one process, and whom it owes an answer."""

    def __init__(self) -> None:
        self.index = self.term = 0
        self.configuration = b""
        self.values: dict[str, str] = {}
        self.history: list[tuple[int, str]] = []
        # Index -> (term, whom to tell).
        self.waiting: dict[int, tuple[int, Answered]] = {}

    def encode(self) -> bytes:
        content = [self.index, self.term, self.configuration.decode(), self.values, self.history]
        return json.dumps(content).encode()

    def decode(self, data: bytes) -> None:
        self.index, self.term, configuration, self.values, history = json.loads(data)
        self.configuration = configuration.encode()
        self.history = [(index, command) for index, command in history]


class OurMember:
    """One member of a cluster, across its restarts."""

    is_damaged = is_out = may_fail = False

    def __init__(
        self, machine: Machine, profile: Profile, watcher: LogWatcher, names: list[str], dice: random.Random
    ) -> None:
        self.machine = machine
        self.profile = profile
        self.watcher = watcher
        self.files = LogFiles(machine.disk)
        self.log: ReplicatedLog | None = None
        self.registers = Registers()
        self._commit = self._copies = 0
        machine.disk.make_directory(str(DATA))
        machine.disk.sync_directory("/")
        incarnation = f"{dice.getrandbits(128):032x}"
        addresses = {name: f"{name}:{PORT}" for name in names}
        identity = Identity(cluster_id="simulated", node=machine.name, incarnation=incarnation, members=addresses)
        identities.save(self.files, DATA, identity)

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def serving(self) -> bool:
        return self.machine.running and self.log is not None

    @property
    def leads(self) -> bool:
        return self.serving and self.log is not None and self.log.role is Role.LEADER

    @property
    def term(self) -> int:
        assert self.log is not None
        return self.log.term

    @property
    def applied_index(self) -> int:
        return self.registers.index if self.serving else 0

    @property
    def last_index(self) -> int:
        return self.log._core.last_index if self.log is not None else 0

    @property
    def history(self) -> list[tuple[int, str]]:
        return self.registers.history

    # -- its process -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.machine.boot()
        self.log, self.registers, self._commit = None, Registers(), 0
        self.watcher.trace(self.name, "starts")
        self.machine.spawn(self._run(), f"node {self.name}")

    async def _run(self) -> None:
        process = self.machine.process
        assert process is not None
        if self.files.exists(DATABASE):
            self.registers.decode(self.files.read(DATABASE))
        log = self._make(process)
        try:
            await log.start()
            self.log = log
            await self._apply(log)
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - as a program that ends with a traceback
            self._failed(process, error)

    def _failed(self, process: Process, error: BaseException) -> None:
        if process.alive:
            self.watcher.breach(f"{self.name} stops itself: {error!r}", 0)
            self.machine.kill()

    def _make(self, process: Process) -> ReplicatedLog:
        machine, registers = self.machine, self.registers
        return ReplicatedLog(
            identity=identities.load(self.files, DATA, node=self.name),
            listen=(self.name, PORT),
            settings=self._settings(),
            files=self.files,
            data_dir=DATA,
            applied_index=registers.index,
            applied_term=registers.term,
            applied_configuration=registers.configuration,
            snapshot_source=self,
            snapshot_sink=self,
            on_role_change=self._role_changed,
            on_fatal=lambda error: self._failed(process, error),
            clock=MachineClock(machine.loop, machine, process),
            random=random.Random(machine.dice.getrandbits(64)),
            network=NodeNetwork(machine.network, process, machine.name),
            workers=lambda name: SimulatedWorker(machine, reads="reader" in name),
        )

    def _settings(self) -> RaftSettings:
        profile = self.profile
        return RaftSettings(
            election_timeout_min_ms=int(profile.election_seconds[0] * 1000),
            election_timeout_max_ms=int(profile.election_seconds[1] * 1000),
            batch_bytes_max=profile.batch_bytes,
            probe_bytes_max=profile.batch_bytes,
            in_flight_bytes_max=4 * profile.batch_bytes,
            snapshot_chunk_bytes=profile.chunk_bytes,
            journal_segment_bytes=4 * KIB,
            journal_cache_bytes=8 * KIB,
            journal_tail_entries=profile.compaction_entries,
            journal_tail_bytes=4 * KIB,
        )

    def _role_changed(self, role: Role, term: int) -> None:
        if role is Role.LEADER and self.log is not None:
            journal = self.log._core.journal
            self.watcher.elected(self.name, term, journal.term_at, journal.first_index)

    # -- what is committed -----------------------------------------------------------------------------------------

    async def _apply(self, log: ReplicatedLog) -> None:
        registers = self.registers
        flushed = registers.index
        while True:
            try:
                for entry in await log.committed(registers.index):
                    self._apply_one(entry)
            except SnapshotInstalled:
                flushed = registers.index
            self._check_progress(log)
            if self.profile.compacts and registers.index >= flushed + self.profile.compaction_entries:
                flushed = registers.index
                registers.configuration = log.configuration_at(flushed)
                replace_file(self.files, DATABASE, registers.encode())
                log.flushed(flushed)

    def _apply_one(self, entry: Entry) -> None:
        registers = self.registers
        self.watcher.applies(self.name, entry.index, entry.term, zlib.crc32(entry.data, entry.kind))
        registers.index, registers.term = entry.index, entry.term
        answer = (entry.index, "")
        if entry.kind is EntryKind.COMMANDS:
            key, command, _ = json.loads(entry.data)
            answer = (entry.index, registers.values.get(key, ""))
            registers.values[key] = command
            registers.history.append((entry.index, command))
            self.watcher.commands.setdefault(entry.index, command)
        if entry.index in registers.waiting:
            term, answered = registers.waiting.pop(entry.index)
            answered(OK if term == entry.term else FAILED, answer)

    def _check_progress(self, log: ReplicatedLog) -> None:
        if log.commit_index < self._commit:
            self.watcher.breach(f"{self.name}: the commit index falls from {self._commit} to {log.commit_index}", 0)
        self._commit = log.commit_index

    # -- snapshots -------------------------------------------------------------------------------------------------

    async def copy(self, *, check: bool) -> SnapshotCopy:
        assert self.log is not None
        registers = self.registers
        registers.configuration = self.log.configuration_at(registers.index)
        self._copies += 1
        data, path = registers.encode(), DATA / f"copy-{self._copies}"
        replace_file(self.files, path, data)
        return SnapshotCopy(
            path,
            registers.index,
            registers.term,
            len(data),
            hashlib.sha256(data).hexdigest(),
            registers.configuration,
            lambda: self.files.remove(path),
        )

    async def install(self, path: Path, index: int, term: int) -> None:
        registers = self.registers
        replace_file(self.files, DATABASE, self.files.read(path))
        registers.decode(self.files.read(DATABASE))
        self.watcher.trace(self.name, f"installs a snapshot of {index}")
        self.watcher.snapshots += 1
        self.watcher.commands_of(self.name, registers.history)
        for at in [at for at in registers.waiting if at <= index]:
            registers.waiting.pop(at)[1](UNKNOWN, None)

    # -- its clients -----------------------------------------------------------------------------------------------

    def propose(self, key: str, command: str, padding: str, answered: Answered) -> None:
        """In its process, if it runs; else nothing is ever answered."""
        if self.machine.process is not None and self.log is not None:
            self.machine.loop.call_soon(
                self._propose, json.dumps([key, command, padding]), answered, context=self.machine.process.context
            )

    def _propose(self, data: str, answered: Answered) -> None:
        assert self.log is not None
        try:
            index, term = self.log.append(data.encode())
        except (NotLeader, Stopped):
            answered(FAILED, None)
            return
        self.registers.waiting[index] = (term, answered)
