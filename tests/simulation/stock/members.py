"""A stock node on a simulated machine: a register for each key, as users of PySyncObj write one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pysyncobj
from pysyncobj import FAIL_REASON, SyncObjConf

from orchestrator.testing.network import SimulatedNetwork
from tests.simulation.history import FAILED, OK, UNKNOWN
from tests.simulation.stock.library import Library, Place, StockMachine
from tests.simulation.stock.probe import TORN, Probe
from tests.simulation.stock.profile import Profile
from tests.simulation.stock.transport import PeerNode, SimulatedTransport
from tests.simulation.stock.watcher import LogWatcher

JOURNAL, DUMP = "/data/log.journal", "/data/state.db"
TICK_SECONDS = 0.05
_UNKNOWN_OUTCOMES = (FAIL_REASON.LEADER_CHANGED, FAIL_REASON.UNKNOWN_OUTCOME)

Answered = Callable[[str, Any], None]
"""Told of the outcome (of `history`) and, if it is OK, of (index, what the register held before)."""


class Register(pysyncobj.SyncObj):  # type: ignore[misc]  # the library has no types
    """What is set before the library's constructor ends does not go into snapshots; what is set after it does."""

    def __init__(self, probe: Probe, applied: Callable[[int, str], None], *args: Any, **kwargs: Any) -> None:
        self.probe = probe
        self.told = applied
        apply = self._SyncObj__doApplyCommand
        self._SyncObj__doApplyCommand = lambda command: (probe.applying(self, command), apply(command))[1]
        super().__init__(*args, **kwargs)
        self.values: dict[str, str] = {}
        self.history: list[tuple[int, str]] = []

    @pysyncobj.replicated  # type: ignore[untyped-decorator]  # as above
    def swap(self, key: str, command: str, padding: str) -> tuple[int, str]:
        index = self.raftLastApplied + 1
        before = self.values.get(key, "")
        self.values[key] = command
        self.history.append((index, command))
        self.told(index, command)
        return index, before


class StockMember:
    """One member of a cluster, across its restarts."""

    is_damaged = is_out = may_fail = False

    def __init__(
        self,
        machine: StockMachine,
        library: Library,
        profile: Profile,
        watcher: LogWatcher,
        members: dict[str, StockMember],
    ) -> None:
        self.machine = machine
        self.library = library
        self.profile = profile
        self.watcher = watcher
        self.members = members
        self.register: Any = None
        # What its journal holds; of the last process, while none runs.
        self.held: dict[int, int] = {}
        self.interrupted = ""
        self._power_losses = 0
        self.lost_power = False
        # The bug that keeps this process from its work, and what a process said that did not start.
        self.broken = ""
        self.start_error = ""
        # Of each follower, as long as this one leads it: the last rejection, and how often one moved forward again.
        self.rejections: dict[str, int] = {}
        self.thrown_forward: Counter[str] = Counter()
        self._soon = False
        self._timer: Any = None
        self._free_at = 0.0

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def serving(self) -> bool:
        return self.machine.running and self.register is not None

    @property
    def leads(self) -> bool:
        return self.serving and bool(self.register._isLeader())

    @property
    def term(self) -> int:
        return int(self.register.raftCurrentTerm)

    @property
    def applied_index(self) -> int:
        return int(self.register.raftLastApplied) if self.serving else 0

    @property
    def last_index(self) -> int:
        return max(self.held, default=0)

    @property
    def history(self) -> list[tuple[int, str]]:
        return list(self.register.history)

    def held_by(self, name: str) -> dict[int, int]:
        return self.members[name].held

    @property
    def has_dump(self) -> bool:
        return self.machine.disk.exists(DUMP)

    # -- its process -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        process = self.machine.boot()
        self.register = None
        self._soon, self._timer, self._free_at = False, None, 0.0
        self.lost_power = self.machine.power_losses > self._power_losses
        self._power_losses = self.machine.power_losses
        self.broken = self.start_error = ""
        self.rejections.clear()
        self.thrown_forward.clear()
        self.machine.disk.make_directory("/data")
        place = Place(self.machine, process, random.Random(self.machine.dice.getrandbits(64)))
        self.library.places[process] = place
        self.watcher.trace(self.name, "starts")
        self.machine.loop.call_soon(self._begin, place, context=process.context)

    def _begin(self, place: Place) -> None:
        probe = self.probe = Probe(self, self.watcher)
        nodes = [PeerNode(name) for name in self.members]
        node = next(node for node in nodes if node.id == self.name)
        others = [other for other in nodes if other is not node]
        network: SimulatedNetwork = self.machine.network
        transport = SimulatedTransport(place, network, node, others, self.profile.retry_seconds)
        transport.before, transport.after = probe.before, probe.after
        place.poll = transport.poll
        place.wake = self.wake
        self._place, self._transport = place, transport
        try:
            register = Register(probe, self._told, node, others, conf=self._conf(), transport=transport)
        except Exception as error:  # noqa: BLE001 - as a program that ends with a traceback
            if place.process.alive:
                self.broken, self.start_error = TORN, repr(error)
                self.watcher.trace(self.name, f"does not start: {error!r}")
                self.watcher.note(TORN, f"{self.name} does not start: {error!r}")
                self.machine.kill()
            return
        register.addOnTickCallback(transport.tick)
        probe.opened(register._SyncObj__raftLog)
        self.register = register
        self._tick()

    def _conf(self) -> SyncObjConf:
        profile = self.profile
        return SyncObjConf(
            autoTick=False,
            raftMinTimeout=profile.election_seconds[0],
            raftMaxTimeout=profile.election_seconds[1],
            journalFile=JOURNAL,
            fullDumpFile=DUMP if profile.compacts else None,
            useFork=profile.forks,
            logCompactionMinEntries=profile.compaction_entries if profile.compacts else 1 << 30,
            logCompactionMinTime=300 if profile.compacts else 1 << 30,
            logCompactionBatchSize=profile.chunk_bytes,
            appendEntriesUseBatch=profile.waits_for_batches,
            appendEntriesBatchSizeBytes=profile.batch_bytes,
        )

    def wake(self) -> None:
        """As the loop of the library's own thread: at once when there is something, else when a period is over."""
        if not self._soon:
            self._soon = True
            if self._timer is not None:
                self._timer.cancel()
            self._schedule(0.0)

    def _schedule(self, seconds: float) -> None:
        loop = self.machine.loop
        self._timer = loop.call_at(max(self._place.process.local(self._free_at), loop.time() + seconds), self._tick)

    def _tick(self) -> None:
        self._soon, self._timer = False, None
        place, loop = self._place, self.machine.loop
        place.spent_seconds = 0.0
        had_events = self._transport.has_events
        try:
            self.register.doTick()
        except Exception as error:  # noqa: BLE001 - logged and passed over, as the library's own thread does
            if place.process.alive:
                self.watcher.trace(self.name, f"fails in its tick: {error!r}")
        if not place.process.alive:
            return
        self.probe.ticked(self.register)
        self._free_at = loop.now + place.spent_seconds
        place.spent_seconds = 0.0
        if not self._soon:
            self._soon = had_events
            self._schedule(0.0 if had_events else TICK_SECONDS)

    def _told(self, index: int, command: str) -> None:
        self.watcher.commands.setdefault(index, command)

    # -- its clients -----------------------------------------------------------------------------------------------

    def propose(self, key: str, command: str, padding: str, answered: Answered) -> None:
        """In its process, if it runs; else nothing is ever answered."""
        process, register = self.machine.process, self.register
        if process is None or register is None:
            return

        def called(answer: Any, reason: int) -> None:
            if not process.alive:
                return
            if reason == FAIL_REASON.SUCCESS:
                answered(OK, answer)
            else:
                answered(UNKNOWN if reason in _UNKNOWN_OUTCOMES else FAILED, None)

        self.machine.loop.call_soon(
            lambda: register.swap(key, command, padding, callback=called), context=process.context
        )

