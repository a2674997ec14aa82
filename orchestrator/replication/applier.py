"""Applies committed entries in order, on every node, as a sequence of bounded steps.

The execution that a step names is made hot before the step, off the loop; the engine never waits. Between entries
the rows that changed are handed to the store; nothing is handed over in the middle of an entry. The loop gets a turn
every `TURN_SECONDS`, so that heartbeats never wait for a long entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from orchestrator.codec.entries import LogEntry, decode_entry
from orchestrator.engine import limits
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import ExecutionKey, Row, RowKey, Table
from orchestrator.engine.results import AnyResult, Checkpointed, Rejected
from orchestrator.replication.applying import apply_commands, cold_executions, is_cold, is_unexpected, unexpected_errors
from orchestrator.replication.clock import LogClock
from orchestrator.replication.errors import SnapshotInstalled
from orchestrator.replication.log import Entry, EntryKind
from orchestrator.replication.ports import Clock
from orchestrator.replication.release import THIS_RELEASE, Release

logger = logging.getLogger(__name__)

TURN_SECONDS = 0.002
EVICTIONS_PER_ENTRY_MAX = 256
# With so many resident rows changed, the store gets them before it asks: they are encoded in one turn, some 15 ms.
STAGED_RESIDENTS_MAX = 2_048


class Committed(Protocol):
    """What the applier needs of the log."""

    async def committed(self, after: int) -> list[Entry]:
        """The next entries in order, at least one. Raises SnapshotInstalled, Stopped."""


class Store(Protocol):
    """What the applier needs of the node's database."""

    def may_have(self, execution: ExecutionKey) -> bool:
        """False for an execution of which `load_execution` would certainly find nothing."""

    async def load_execution(self, namespace: str, workflow_id: str) -> Sequence[tuple[Table, RowKey, Row]]:
        """The rows of a cold execution; empty if there is none. Sees everything staged."""

    def stage(
        self,
        changes: Sequence[tuple[Table, RowKey, Row | None, bool]],
        index: int,
        term: int,
        chain: bytes,
        *,
        checkpoint: bool,
    ) -> None:
        """Takes over changed rows, to be made durable in the background in this order."""

    @property
    def has_room(self) -> bool:
        """Whether the store can take more."""

    async def wait_room(self) -> None:
        """Returns once the store can take more. Raises its error, after which it never has room."""


class Observer(Protocol):
    """What the rest of the node wants to know of applied entries."""

    def entry_applied(self, index: int, term: int, results: Sequence[AnyResult], effects: list[AnyEffect]) -> None:
        """Called in the loop, after each entry."""

    def snapshot_installed(self) -> Machine:
        """The database was replaced: gives a machine over the new one."""


class Applier:
    """Owns the order in which the machine moves."""

    def __init__(
        self,
        *,
        log: Committed,
        machine: Machine,
        store: Store,
        clock: Clock,
        log_clock: LogClock,
        observer: Observer,
        applied_index: int,
        applied_term: int,
        replayed_until: int,
        hot_executions_max: int,
        hot_bytes_max: int,
        staged_every_bytes: int = 512 << 10,
        on_apply_seconds: Callable[[float], None] = lambda seconds: None,
        release: Release = THIS_RELEASE,
    ) -> None:
        self._log = log
        self.machine = machine
        self._store = store
        self._clock = clock
        self._log_clock = log_clock
        self._observer = observer
        self._hot_executions_max = hot_executions_max
        self._hot_bytes_max = hot_bytes_max
        self._staged_every_bytes = staged_every_bytes
        self._on_apply_seconds = on_apply_seconds
        self._release = release
        self.applied_index = applied_index
        self.applied_term = applied_term
        self._replayed_until = replayed_until
        self._staged_index = applied_index
        self._in_entry = False
        self._stage_wanted = False
        self._unstaged_bytes = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._turn_began = 0.0
        # Held while an entry is being applied, and by whoever needs the machine to stand still between entries.
        self._moving = asyncio.Lock()
        self._stood_still = 0
        # Log time goes on from what the database has, also where the journal has nothing after it.
        log_clock.observe(machine.state.meta.log_time_ms, live=False)

    async def run(self) -> None:
        """Applies until cancelled; an error of the store or the machine ends it, and so must end the node."""
        while True:
            try:
                entries = await self._log.committed(self.applied_index)
            except SnapshotInstalled as installed:
                self._go_on_from(installed)
                continue
            self._turn_began = self._clock.monotonic()
            stood_still = self._stood_still
            for entry in entries:
                if not self._store.has_room:
                    await self._store.wait_room()
                async with self._moving:
                    if self._stood_still != stood_still:
                        # The database may be another one by now: the log says what comes next.
                        break
                    began = self._clock.monotonic()
                    await self._apply(entry)
                    self._on_apply_seconds(self._clock.monotonic() - began)

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """Between two entries, and staying there inside."""
        async with self._moving:
            self._stood_still += 1
            yield

    async def wait_applied(self, index: int) -> None:
        """Returns once everything up to `index` is applied here."""
        if index <= self.applied_index:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((index, future))
        await future

    def stage_soon(self) -> None:
        """Hands changed rows to the store now, or at the end of the entry that is being applied."""
        if self._in_entry:
            self._stage_wanted = True
        else:
            self._stage(checkpoint=False)

    async def stage_now(self) -> None:
        """Returns once the store has everything that was applied when this was called."""
        self.stage_soon()
        if self._in_entry:
            # Rows are handed over between entries only, and those of the entries before are among them.
            await self.wait_applied(self.applied_index + 1)

    @property
    def staged_index(self) -> int:
        """Everything up to here has been handed to the store."""
        return self._staged_index

    def _go_on_from(self, installed: SnapshotInstalled) -> None:
        self.machine = self._observer.snapshot_installed()
        self._log_clock.observe(self.machine.state.meta.log_time_ms, live=False)
        self.applied_index, self.applied_term = installed.index, installed.term
        self._staged_index = installed.index
        self._stage_wanted = False
        self._unstaged_bytes = 0
        self._wake_waiters()

    async def _apply(self, entry: Entry) -> None:
        self._in_entry = True
        results: list[AnyResult] = []
        effects: list[AnyEffect] = []
        if entry.kind is EntryKind.COMMANDS:
            await self._apply_commands(entry, decode_entry(entry.data), results, effects)
        self.applied_index, self.applied_term = entry.index, entry.term
        self._in_entry = False
        self._unstaged_bytes += len(entry.data)
        checkpoint = any(type(result) is Checkpointed for result in results)
        if checkpoint or self._stage_wanted or self._is_much_unstaged():
            self._stage(checkpoint=checkpoint)
        self._observer.entry_applied(entry.index, entry.term, results, effects)
        self._wake_waiters()
        self._evict()

    async def _apply_commands(
        self, entry: Entry, decoded: LogEntry, results: list[AnyResult], effects: list[AnyEffect]
    ) -> None:
        machine = self.machine
        # Before anything of it is applied: what this code would make of it is not what the others have.
        self._release.require(decoded.behaviour_level, f"entry {entry.index} of the log, by {decoded.proposer}, is")
        machine.begin_entry(entry.index, entry.term, decoded.time_ms)
        # Replayed entries say nothing about how fast time passes.
        self._log_clock.observe(machine.state.meta.log_time_ms, live=entry.index > self._replayed_until)
        commands = decoded.commands
        # All at once, and once: nothing goes cold before the end of the entry.
        await self._make_hot(cold_executions(machine, commands, self._store.may_have))
        while not apply_commands(
            machine, commands, results, effects, self._clock.monotonic, self._turn_began + TURN_SECONDS
        ):
            await self._yield()
        await self._drain_messages(entry, effects)
        for command, error in unexpected_errors(commands, results):
            _tell_error(entry, type(command).__name__, machine.execution_needed(command), error)
        machine.end_entry(hashlib.blake2b(entry.data, digest_size=16).digest())

    async def _drain_messages(self, entry: Entry, effects: list[AnyEffect]) -> None:
        machine = self.machine
        for _ in range(limits.MESSAGES_PER_ENTRY):
            needed = machine.next_message()
            if needed is None or machine.entry_is_full:
                return
            if is_cold(machine, needed, self._store.may_have):
                await self._make_hot([needed])
            outcome = machine.apply_message()
            if is_unexpected(outcome.result):
                _tell_error(entry, "a message", needed, outcome.result)
            effects += outcome.effects
            if self._clock.monotonic() > self._turn_began + TURN_SECONDS:
                await self._yield()

    async def _make_hot(self, cold: Sequence[ExecutionKey]) -> None:
        if not cold:
            return
        loaded = await asyncio.gather(*(self._store.load_execution(*key) for key in cold))
        for key, rows in zip(cold, loaded, strict=True):
            if rows:
                self.machine.state.admit(key, rows)

    async def _yield(self) -> None:
        await asyncio.sleep(0)
        self._turn_began = self._clock.monotonic()

    def _is_much_unstaged(self) -> bool:
        rows = self.machine.state.unflushed_residents
        return self._unstaged_bytes > self._staged_every_bytes or rows > STAGED_RESIDENTS_MAX

    def _stage(self, *, checkpoint: bool) -> None:
        self._stage_wanted = False
        self._unstaged_bytes = 0
        if self.applied_index == self._staged_index:
            return
        changes = self.machine.state.take_changes()
        self._store.stage(changes, self.applied_index, self.applied_term, self.machine.chain, checkpoint=checkpoint)
        self._staged_index = self.applied_index

    def _evict(self) -> None:
        state = self.machine.state
        if state.hot_count <= self._hot_executions_max and state.hot_bytes <= self._hot_bytes_max:
            return
        candidates = state.eviction_candidates(EVICTIONS_PER_ENTRY_MAX)
        if not candidates:
            # Everything hot has changes: once the store has them, it can go.
            self._stage(checkpoint=False)
        for key in candidates:
            state.evict(key)

    def _wake_waiters(self) -> None:
        if not self._waiters:
            return
        still: list[tuple[int, asyncio.Future[None]]] = []
        for index, future in self._waiters:
            if future.done():
                # Nobody waits any more.
                continue
            if index > self.applied_index:
                still.append((index, future))
            else:
                future.set_result(None)
        self._waiters = still


def _tell_error(entry: Entry, what: str, execution: ExecutionKey | None, error: Rejected) -> None:
    """An unexpected error in a step is the same on every node, changes nothing, and is ours to mend."""
    of = {} if execution is None else {"namespace": execution[0], "workflow_id": execution[1]}
    logger.error(
        "a step failed: %s",
        error.message,
        extra={"index": entry.index, "step": what, "reason": error.reason, **of, **dict(error.metadata)},
    )
