"""Group commit: commands that arrive while an entry is being replicated gather in the next one.

Every submitted command is resolved exactly once: with its result, with `NotLeader`, `Overloaded` or `EntryTooLarge`
(certain: it has no effect and never will), or with `OutcomeUnknown` (it may still take effect). An idle cluster commits
a single command at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from orchestrator.codec.entries import EntryHeader, encode_command, join_entry
from orchestrator.engine import behaviour
from orchestrator.engine.command import execution_of
from orchestrator.engine.commands import (
    AnyCommand,
    CloseSession,
    CompleteTask,
    RecordHeartbeat,
    ReleaseTask,
    RequestIdentity,
    StartWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.results import AnyResult
from orchestrator.replication.clock import LogClock
from orchestrator.replication.errors import (
    EntryTooLarge,
    LevelTooLow,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Stopped,
)
from orchestrator.replication.turns import Shares, Taken, Turns

PARTITION = 0
NEVER_REFUSED = (CompleteTask, ReleaseTask, RecordHeartbeat, CloseSession, TerminateWorkflow)
# Commits slower than this are worth overlapping.
SLOW_COMMIT_SECONDS = 0.003
# Nobody waits for more commands of another execution than these.
EXECUTION_SHARES = Shares(alone=128, usual=32, beside=8, alone_after=8)
ENTRIES_IN_FLIGHT_MAX = 4


class Appends(Protocol):
    """What the sequencer needs of the log."""

    def append(self, data: bytes) -> tuple[int, int]: ...


class CommandsApplied(NamedTuple):
    """What an entry shows of how quick this leader is."""

    # From when the first of its commands began to wait for its turn until all were applied.
    seconds: float
    # Some of them move on what has been started.
    has_others: bool
    # That were on their way until now, in this entry or elsewhere.
    starts_under_way: int


class _Waiting:
    __slots__ = ("data", "future", "is_start", "level", "moves_on")

    def __init__(
        self, data: bytes, level: int, future: asyncio.Future[AnyResult], *, is_start: bool, moves_on: bool
    ) -> None:
        self.data = data
        # What a node has to know to apply it.
        self.level = level
        self.future = future
        self.is_start = is_start
        self.moves_on = moves_on


class _InFlight:
    __slots__ = ("appended_at", "futures", "has_others", "is_large", "owners", "since", "starts", "term")

    def __init__(self, term: int, batch: Taken[_Waiting], futures: list[asyncio.Future[AnyResult]], now: float) -> None:
        self.term = term
        self.futures = futures
        self.owners = batch.owners
        self.is_large = batch.is_large
        self.since = batch.since
        self.starts = sum(item.is_start for item in batch.items)
        self.has_others = any(item.moves_on for item in batch.items)
        self.appended_at = now


class Sequencer:
    """Turns submitted commands into log entries, one after the other."""

    def __init__(
        self,
        log: Appends,
        clock: LogClock,
        *,
        node: str,
        behaviour_level: Callable[[], int],
        monotonic: Callable[[], float],
        queue_bytes_max: int,
        entry_bytes_max: int,
        entry_commands_max: int,
        entries_in_flight_max: int,
        on_commit_seconds: Callable[[float], None] = lambda seconds: None,
        on_applied: Callable[[CommandsApplied], None] = lambda commands: None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._behaviour_level = behaviour_level
        self._monotonic = monotonic
        self._node = node
        self._queue_bytes_max = queue_bytes_max
        self._entry_bytes_max = entry_bytes_max
        self._entry_commands_max = entry_commands_max
        self._entries_in_flight_max = entries_in_flight_max
        self._on_commit_seconds = on_commit_seconds
        self._on_applied = on_applied
        self._queue: Turns[_Waiting] = Turns(EXECUTION_SHARES)
        self._queue_bytes = 0
        self._starts = 0  # in the queue
        self._starts_in_flight = 0
        self._in_flight: dict[int, _InFlight] = {}
        self._open = False
        self._commit_seconds = 0.0
        self._pump_scheduled = False

    @property
    def queue_bytes(self) -> int:
        """Bytes of commands that no entry holds yet."""
        return self._queue_bytes

    @property
    def queue_commands(self) -> int:
        """Commands that no entry holds yet."""
        return len(self._queue)

    @property
    def pending_starts(self) -> int:
        """Starts that no entry holds yet."""
        return self._starts

    @property
    def starts_under_way(self) -> int:
        """Starts that are not applied yet."""
        return self._starts + self._starts_in_flight

    @property
    def queue_age_ms(self) -> float:
        """How long that which goes into the next entry first has waited for its turn."""
        since = self._queue.waiting_since
        return 0.0 if since is None else (self._monotonic() - since) * 1000

    @property
    def in_flight(self) -> int:
        """Entries that are appended and not yet applied."""
        return len(self._in_flight)

    @property
    def is_open(self) -> bool:
        """Whether commands are taken."""
        return self._open

    def open(self) -> None:
        """This node leads and has applied everything before its term: commands are taken."""
        self._open = True
        self._schedule_pump()

    def close(self, leader: str | None) -> None:
        """This node leads no longer: what was not appended is certain to have no effect, the rest is unknown."""
        self._open = False
        self._refuse_waiting(leader)
        in_flight, self._in_flight = self._in_flight, {}
        self._starts_in_flight = 0
        self._queue = Turns(EXECUTION_SHARES)
        for entry in in_flight.values():
            _fail_all(entry.futures, OutcomeUnknown())

    def begin(self, command: AnyCommand, identity: RequestIdentity | None = None) -> asyncio.Future[AnyResult]:
        """The command's result, once it is on a quorum of disks and applied here.

        Raises, or fails with, NotLeader, Overloaded, EntryTooLarge, LevelTooLow (all certain to have no effect) or
        OutcomeUnknown.
        """
        future: asyncio.Future[AnyResult] = asyncio.get_running_loop().create_future()
        self._put(command, identity, future)
        return future

    async def submit(self, command: AnyCommand, identity: RequestIdentity | None = None) -> AnyResult:
        """As `begin`, for who waits for the result."""
        return await self.begin(command, identity)

    async def submit_system(self, command: AnyCommand) -> AnyResult:
        """As `submit`, for the system's own commands: never refused for want of room, for they make room."""
        future: asyncio.Future[AnyResult] = asyncio.get_running_loop().create_future()
        self._put(command, None, future, system=True)
        return await future

    def applied(self, index: int, term: int, results: Sequence[AnyResult]) -> None:
        """The entry at this index was applied here: its callers get their results."""
        entry = self._in_flight.pop(index, None)
        if entry is None:
            return
        now = self._monotonic()
        self._queue.give_back(entry.owners, now)
        if not entry.is_large:
            self._on_applied(CommandsApplied(now - entry.since, entry.has_others, self.starts_under_way))
        self._starts_in_flight -= entry.starts
        if entry.term != term:
            # Another leader's entry took the place: ours can't be committed any more.
            _fail_all(entry.futures, NotLeader(None))
        else:
            seconds = now - entry.appended_at
            self._commit_seconds += (seconds - self._commit_seconds) / 8
            self._on_commit_seconds(seconds)
            for future, result in zip(entry.futures, results, strict=True):
                if not future.done():
                    future.set_result(result)
        if self._queue.is_any_due:
            self._schedule_pump()

    def _put(
        self,
        command: AnyCommand,
        identity: RequestIdentity | None,
        future: asyncio.Future[AnyResult],
        *,
        system: bool = False,
    ) -> None:
        if not self._open:
            raise NotLeader(None)
        level = self._level_of(command)
        data = encode_command(identity, command)
        limit = self._limit(command)
        if not system and self._queue_bytes and self._queue_bytes + len(data) > limit:
            raise Overloaded(f"{self._queue_bytes} bytes of commands are waiting; the limit is {limit}")
        is_start = isinstance(command, StartWorkflow)
        waiting = _Waiting(data, level, future, is_start=is_start, moves_on=isinstance(command, NEVER_REFUSED))
        self._queue.put(execution_of(command), waiting, self._monotonic())
        self._starts += is_start
        self._queue_bytes += len(data)
        self._schedule_pump()

    def _level_of(self, command: AnyCommand) -> int:
        """Raises LevelTooLow for what is not to be in the log yet: not all nodes know what it means."""
        needed, level = behaviour.level_needed(command), self._behaviour_level()
        if needed > level:
            raise LevelTooLow(f"{type(command).__name__} takes behaviour level {needed}, and the cluster is at {level}")
        return behaviour.level_led_to(command)

    def _limit(self, command: AnyCommand) -> float:
        if isinstance(command, StartWorkflow):
            # Starts are refused first, so that what runs can go on.
            return self._queue_bytes_max // 2
        # What moves executions on makes room: its senders are bounded by their slots and their flow control.
        return math.inf if isinstance(command, NEVER_REFUSED) else self._queue_bytes_max

    def _schedule_pump(self) -> None:
        # Once per turn of the loop: commands that arrive in the same turn share an entry.
        if not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _depth(self) -> int:
        return self._entries_in_flight_max if self._commit_seconds > SLOW_COMMIT_SECONDS else 1

    def _has_room(self) -> bool:
        """Whether another entry may be in flight. Those of a large execution count apart: nobody waits for them."""
        count = sum(not entry.is_large for entry in self._in_flight.values())
        return count < self._depth() and len(self._in_flight) < ENTRIES_IN_FLIGHT_MAX

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self._open and self._queue.is_any_due and self._has_room():
            batch = self._take_batch()
            futures = [item.future for item in batch.items]
            try:
                level = max(self._behaviour_level(), *(item.level for item in batch.items))
                header = EntryHeader(level, PARTITION, self._clock.next_ms(), self._node)
                index, term = self._log.append(join_entry(header, [item.data for item in batch.items]))
            except BaseException as error:  # noqa: BLE001 - raised again, unless it is a refusal
                self._queue.give_back(batch.owners, self._monotonic())
                self._not_appended(futures, error)
            else:
                entry = self._in_flight[index] = _InFlight(term, batch, futures, self._monotonic())
                self._starts_in_flight += entry.starts

    def _not_appended(self, futures: list[asyncio.Future[AnyResult]], error: BaseException) -> None:
        if isinstance(error, EntryTooLarge):
            _fail_all(futures, error)
        elif isinstance(error, NotLeader | Stopped):
            # Leadership is being handed over, which may fail, or is gone, and then `close` follows: what is in flight
            # is not decided by this.
            leader = error.leader if isinstance(error, NotLeader) else None
            _fail_all(futures, NotLeader(leader))
            self._refuse_waiting(leader)
        else:
            _fail_all(futures, OutcomeUnknown())
            self._schedule_pump()
            raise error

    def _refuse_waiting(self, leader: str | None) -> None:
        waiting = self._queue.clear()
        self._queue_bytes = self._starts = 0
        for item in waiting:
            _fail(item.future, NotLeader(leader))

    def _take_batch(self) -> Taken[_Waiting]:
        taken = self._queue.take(self._entry_commands_max, self._entry_bytes_max, self._monotonic())
        for item in taken.items:
            self._queue_bytes -= len(item.data)
            self._starts -= item.is_start
        return taken


def _fail_all(futures: Sequence[asyncio.Future[AnyResult]], error: Exception) -> None:
    for future in futures:
        _fail(future, error)


def _fail(future: asyncio.Future[AnyResult], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
