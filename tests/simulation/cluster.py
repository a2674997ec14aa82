"""Real nodes on simulated machines."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Config
from orchestrator.engine.commands import AnyCommand, CompleteTask, RequestIdentity
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine as StateMachine
from orchestrator.engine.results import AnyResult, Judged, Verdict
from orchestrator.replication.log import Role
from orchestrator.replication.release import THIS_RELEASE
from orchestrator.replication.sequencer import Sequencer
from orchestrator.rpc.backend import Backend
from orchestrator.storage.database import Database
from orchestrator.testing.loop import VirtualLoop
from orchestrator.testing.machine import SECRET_KEYS, Machine
from orchestrator.testing.member import DATA, GRPC_PORT, PEER_PORT, SimulatedMember, SimulatedNode
from orchestrator.testing.network import SimulatedNetwork
from orchestrator.world import World
from tests.simulation.outside import Outside
from tests.simulation.taps import LogTaps
from tests.simulation.watcher import Watcher


class WatchedNode(SimulatedNode):
    """Tells the watcher what it does."""

    def __init__(self, member: Member, world: World) -> None:
        super().__init__(member.config, world, member.release)
        self.handlers = member.handlers
        self.watcher = member.watcher
        self.disk = member.machine.disk
        self.holder = member.holder
        self.taps: LogTaps | None = None
        self.commit_seen = 0

    def entry_applied(self, index: int, term: int, results: Sequence[AnyResult], effects: list[AnyEffect]) -> None:
        machine = self._applier.machine
        assert self.taps is not None
        self.taps.applied()
        self.watcher.entry_applied(self.config.node, index, term, machine.chain, machine.state)
        commit = self.log.commit_index
        if commit < self.commit_seen or commit < index:
            self.watcher.violated(f"{self.config.node}: the commit index went from {self.commit_seen} to {commit}")
        self.commit_seen = commit
        super().entry_applied(index, term, results, effects)

    def snapshot_installed(self) -> StateMachine:
        self.watcher.trace(self.config.node, f"goes on from a snapshot of index {self._database.applied().index}")
        self.watcher.snapshots += 1
        return super().snapshot_installed()

    def _restored_machine(self, database: Database) -> StateMachine:
        machine = super()._restored_machine(database)
        machine.handlers = machine.handlers | self.handlers
        return machine

    def _make_sequencer(self) -> Sequencer:
        # The log has just started, and nothing was applied yet.
        self.taps = LogTaps(self.holder, self.config.node, self._log, self.disk, self.watcher)
        return super()._make_sequencer()

    def _role_changed(self, role: Role, term: int) -> None:
        if self.taps is not None and role is Role.LEADER:
            self.taps.elected()
        if hasattr(self, "_leadership"):
            self.watcher.trace(self.config.node, f"{role.value} in term {term}")
            if role is Role.LEADER:
                journal = self._log._core.journal
                self.watcher.became_leader(self.config.node, term, journal.term_at, journal.first_index)
        super()._role_changed(role, term)


class Member(SimulatedMember[WatchedNode]):
    """One member of the cluster, across its restarts."""

    def __init__(self, machine: Machine, config: Config, watcher: Watcher) -> None:
        super().__init__(machine, config)
        self.watcher = watcher
        # The software that is started next, and what it does otherwise.
        self.release = THIS_RELEASE
        self.handlers: dict[type, Callable[[Any, Any], AnyResult]] = {}
        # A disk error or damage was put there: the node may stop itself, or refuse to start.
        self.may_fail = False
        self.is_damaged = False
        # Damaged, and it said so: it stays away until somebody replaces it.
        self.is_out = False
        # How many disks it has had before this one.
        self.lost_disks = 0
        machine.disk.on_write = self._written
        machine.disk.on_sync = self._synced

    @property
    def holder(self) -> str:
        """The node with the disk that it has now."""
        return f"{self.name}~{self.lost_disks}" if self.lost_disks else self.name

    @property
    def is_lost(self) -> bool:
        """Its disk was lost, or it is new, and the cluster has yet to make it a member with a vote."""
        found = self.watcher.configurations.newest.members.get(self.name)
        return found is None or found.incarnation != self.incarnation

    @property
    def is_failing(self) -> bool:
        """What it promised to keep may be gone."""
        return self.may_fail or self.is_damaged or self.is_lost

    def initialise(self, members: dict[str, str], dice: random.Random) -> None:
        super().initialise(members, dice)
        self.watcher.configurations.called(self.incarnation, self.holder)

    def lose_disk(self, members: dict[str, str], dice: random.Random) -> None:
        """Comes back with a blank one."""
        self.machine.kill()
        self.machine.disk.lose_everything()
        self.lost_disks += 1
        self.may_fail = self.is_damaged = self.is_out = False
        self.initialise(members, dice)

    def make_node(self, world: World) -> WatchedNode:
        return WatchedNode(self, world)

    def told(self, what: str) -> None:
        self.watcher.trace(self.name, what)

    def failed(self, error: BaseException) -> None:
        self.is_out = self.is_damaged
        self.told(f"stops itself: {error!r}")
        if not self.may_fail and not self.is_damaged:
            self.watcher.violated(f"{self.name} stops itself without a fault of its disk: {error!r}")

    def backend(self, backend: Backend) -> Backend:
        submit_any = backend.submit_any

        async def submit(command: AnyCommand, identity: RequestIdentity | None) -> AnyResult:
            if not isinstance(command, CompleteTask):
                return await submit_any(command, identity)
            self.watcher.completion_said(command.task_id, command.fencing_token, command.output)
            result = await submit_any(command, identity)
            if isinstance(result, Judged) and result.verdict is Verdict.ACCEPTED:
                self.watcher.completion_accepted(command.task_id, command.fencing_token)
            return result

        return dataclasses.replace(backend, submit_any=submit)

    def _written(self, path: str, offset: int, data: bytes) -> None:
        if path.endswith(".journal"):
            self.watcher.journal_written(self.holder, path, offset, data)

    def _synced(self, path: str) -> None:
        if path.endswith(".journal"):
            self.watcher.journal_synced(self.holder, path)


class SimulatedCluster:
    """All members, the network, and the virtual time that they live in."""

    def __init__(self, seed: int, size: int, scratch: Path, *, verbose: bool = False, calls: bool = False) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        self.watcher = Watcher(lambda: self.loop.now, verbose)
        # What nodes call, if they do.
        self.outside = Outside(self.dice("outside"), self.watcher.trace, self.watcher.violated) if calls else None
        dice = self.dice("cluster")
        latency_seconds = (0.0001, dice.choice((0.0005, 0.002, 0.01, 0.03)))
        self.network = SimulatedNetwork(self.loop, self.dice("network"), latency_seconds)
        self.scratch = scratch
        self.members: dict[str, Member] = {}
        self._retired: list[Member] = []
        # The machines of those who use it.
        self.people: list[str] = []
        self._settings = self._small(dice)
        names = [f"n{number + 1}" for number in range(size)]
        addresses = {name: f"{name}:{PEER_PORT}" for name in names}
        for name in names:
            self._add(name, addresses, dice)
        self.watcher.configurations.formed({name: member.incarnation for name, member in self.members.items()})

    def add_machine(self) -> Member:
        """Another one, with a blank data directory; no member of the cluster yet."""
        name = f"n{1 + len(self.members) + len(self._retired)}"
        return self._add(name, {**self.addresses, name: f"{name}:{PEER_PORT}"}, self.dice(f"machine {name}"))

    def _add(self, name: str, addresses: dict[str, str], dice: random.Random) -> Member:
        machine = Machine(name, self.loop, self.network, self.dice(name), self.scratch)
        machine.rate = 1 + dice.choice((0, 0, 0.0005, -0.0005, 0.02, -0.02))
        machine.job_seconds = dice.choice((0.0003, 0.001, 0.01, 0.04))
        if self.outside is not None:
            machine.executors = self.outside.executors(machine)
        config = Config(
            node=name, data_dir=DATA, grpc_listen=f"{name}:{GRPC_PORT}", peer_listen=addresses[name], insecure=True,
            secret_keys_file=str(SECRET_KEYS), **self._settings,
        )
        member = self.members[name] = Member(machine, config, self.watcher)
        member.initialise(addresses, dice)
        return member

    def dice(self, purpose: str) -> random.Random:
        """Randomness of its own for each purpose, so that one does not shift another."""
        return random.Random(f"{self.seed}/{purpose}")

    @property
    def endpoints(self) -> list[str]:
        return [f"{name}:{GRPC_PORT}" for name in self.members]

    def retire(self, member: Member) -> None:
        """It is switched off for good."""
        member.machine.kill()
        del self.members[member.name]
        self._retired.append(member)

    @property
    def addresses(self) -> dict[str, str]:
        """Where peers find the members: those with a vote."""
        return {name: f"{name}:{PEER_PORT}" for name in sorted(self.watcher.configurations.newest.members)}

    def voters(self) -> list[Member]:
        """Those with a vote by the newest configuration that is committed."""
        return [member for member in self.members.values() if not member.is_lost]

    def may_lose_one(self) -> bool:
        """Whether one more disk may fail, and those of a majority do not."""
        return len(self.failing()) < self.watcher.configurations.losses_bearable()

    def failing(self) -> list[str]:
        """The members that may have lost what they promised to keep, and learners that will be such members."""
        newest = self.watcher.configurations.newest
        learners = [name for name in newest.learners if name in self.members and self.members[name].is_damaged]
        return [name for name in newest.members if self.members[name].is_failing] + learners

    def leaders(self) -> list[Member]:
        return [member for member in self.members.values() if member.leads]

    def close(self) -> None:
        """Nothing of it runs any more."""
        self.loop.close()
        for member in [*self.members.values(), *self._retired]:
            if member.machine.vfs is not None:
                if member.machine.process is not None:
                    member.machine.process.alive = False
                member.machine.vfs.close()

    @staticmethod
    def _small(dice: random.Random) -> dict[str, int]:
        """Small, so that snapshots, evictions and segments happen all the time."""
        return {
            "journal_segment_bytes": 64 * 1024,
            "journal_tail_entries": dice.choice((0, 50, 400)),
            "journal_tail_bytes": dice.choice((64 * 1024, 1 << 20)),
            "flush_interval_ms": dice.choice((100, 500, 1_000)),
            "hot_executions_max": 100,
            "entries_in_flight": dice.choice((1, 4, 4)),
            "entry_close_commands": dice.choice((3, 1_000)),
        }

