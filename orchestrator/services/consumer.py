"""Reads the streams of Redis that handlers are registered for, and proposes what has come.

What has come is acknowledged to Redis only after its command was, and the state says how far a stream was taken up: so
whoever leads goes on from there, and what is delivered twice takes effect once. Nothing is proposed while something
stands before it that is not taken up: what could not be is read again, from the first that Redis has not heard of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.engine.definitions.sinks import STREAM_PREFIX
from orchestrator.engine.model import Table
from orchestrator.engine.results import EventsReceived, Rejected
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.engine.triggers.rows import StreamRow
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.streams import Found, OpenAgain, Opened
from orchestrator.services.entries import entry_in
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.services.stream_ports import Reader, Streams
from orchestrator.telemetry.traces import Traces

logger = logging.getLogger(__name__)

Followed = tuple[str, str]
"""(namespace, event), as in the state."""

# Streams whose entries are proposed at once; the others wait for their turn.
AT_ONCE = 8
READ_TOGETHER = 100
BATCH_BYTES = 128 << 10
# How long Redis waits for something to come before it says that there is nothing.
BLOCK_MS = 5_000
# What was refused for want of room, or of anything else, is proposed again after this.
AGAIN_SECONDS = 0.5
# A stream that can't be read is opened again after this, which doubles with each time.
HOLD_SECONDS = 0.2
HOLD_SECONDS_MAX = 30.0
LAG_SECONDS = 5.0


@dataclass
class Standing:
    """How a stream does, as far as this leader knows."""

    error: str = ""
    # Entries that were not delivered yet.
    lag: int | None = None
    hold_seconds: float = HOLD_SECONDS
    lag_read: float = float("-inf")


class Consumer:
    """Each stream is followed by a task of its own."""

    def __init__(
        self, submit: Submit, machine: CurrentMachine, streams: Streams, monotonic: Callable[[], float], traces: Traces
    ) -> None:
        self._submit = submit
        self._machine = machine
        self._streams = streams
        self._monotonic = monotonic
        self._traces = traces
        self._poked = asyncio.Event()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._followed: dict[Followed, asyncio.Task[None]] = {}
        self._standings: dict[Followed, Standing] = {}

    def entry_applied(self) -> None:
        """A stream may have got its first handler, or lost its last."""
        if self._machine().state.triggers.streams.keys() != self._followed.keys():
            self._poked.set()

    def standing_of(self, namespace: str, event: str) -> Standing | None:
        """None: it is not followed here."""
        return self._standings.get((namespace, event))

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        # Its own: what ran before may not have come to its end yet.
        followed = self._followed = {}
        self._standings = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        try:
            while True:
                self._poked.clear()
                await self._follow_wanted(followed)
                poked = asyncio.create_task(self._poked.wait(), name="consuming")
                try:
                    await asyncio.wait((poked, *followed.values()), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    poked.cancel()
                for task in followed.values():
                    if task.done():
                        # It ends only by what ends the service.
                        task.result()
        finally:
            await _cancelled(followed.values())

    async def _follow_wanted(self, followed: dict[Followed, asyncio.Task[None]]) -> None:
        wanted = self._machine().state.triggers.streams
        unwanted = [stream for stream in followed if stream not in wanted]
        await _cancelled([followed[stream] for stream in unwanted])
        for stream in unwanted:
            del followed[stream], self._standings[stream]
        for stream in self._machine().state.triggers.streams:
            if stream not in followed:
                self._standings[stream] = Standing()
                followed[stream] = asyncio.create_task(self._follow(stream), name="consuming")

    async def _follow(self, stream: Followed) -> None:
        standing = self._standings[stream]
        namespace, event = stream
        while True:
            await self._streams.wait_connected()
            reader = self._streams.reader(event.removeprefix(STREAM_PREFIX), namespace)
            try:
                await self._read(stream, standing, reader)
            except OpenAgain as error:
                logger.warning("a stream is opened again: %s", error, extra=_which(stream))
            except RedisRefused as error:
                self._tell(stream, standing, str(error))
            except RedisUnavailable as error:
                # Of a lost connection the link tells, once for all streams.
                self._tell(stream, standing, str(error), is_told=error.lost)
            finally:
                await reader.close()
            await asyncio.sleep(standing.hold_seconds)
            standing.hold_seconds = min(2 * standing.hold_seconds, HOLD_SECONDS_MAX)

    async def _read(self, stream: Followed, standing: Standing, reader: Reader) -> None:
        """Until it can't be read any more."""
        row = self._row(stream)
        if row is None:
            # The state has moved on, and what follows it will see that.
            return
        if await reader.open(row.cursor, begun=row.received > 0) is Opened.DATA_LOST:
            logger.warning("the stream has lost what was in it, and is read from its beginning", extra=_which(stream))
            await self._say_restarted(stream, standing)
        await self._take_pending(stream, standing, reader)
        while True:
            found = await reader.read_new(READ_TOGETHER, BLOCK_MS)
            standing.hold_seconds = HOLD_SECONDS
            if found and not await self._take(stream, standing, reader, found):
                await asyncio.sleep(AGAIN_SECONDS)
                await self._take_pending(stream, standing, reader)
            await self._look_at_lag(standing, reader, is_empty=not found)

    async def _say_restarted(self, stream: Followed, standing: Standing) -> None:
        while True:
            if await self._propose(stream, standing, (), restarted=True) is not None:
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def _take_pending(self, stream: Followed, standing: Standing, reader: Reader) -> None:
        """Until everything is acknowledged that was delivered."""
        while found := await reader.read_pending(READ_TOGETHER):
            if not await self._take(stream, standing, reader, found):
                await asyncio.sleep(AGAIN_SECONDS)

    async def _take(self, stream: Followed, standing: Standing, reader: Reader, found: Sequence[Found]) -> bool:
        """False: some of them, and what follows them, have to be read and proposed again."""
        entries = [entry_in(one.entry_id, one.fields) for one in found]
        async with self._turns:
            while entries:
                batch = _batch(entries)
                taken = await self._propose(stream, standing, batch)
                if not taken:
                    return False
                await reader.acknowledge([entry.entry_id for entry in batch[:taken]])
                del entries[:taken]
        return True

    async def _propose(
        self, stream: Followed, standing: Standing, entries: Sequence[StreamEntry], *, restarted: bool = False
    ) -> int | None:
        """How many of them, the first ones, have been taken up; None if nothing was done."""
        submitted = asyncio.ensure_future(self._submit(ReceiveEvents(*stream, tuple(entries), restarted)))
        if self._traces.is_on:
            name = stream[1].removeprefix(STREAM_PREFIX)
            for entry in entries:
                about = {"messaging.system": "redis", "messaging.destination.name": name,
                         "messaging.message.id": entry.event_id}
                self._traces.committing("ReceiveEvents", entry.trace, about, submitted)
        result = await submitted
        if not isinstance(result, EventsReceived):
            self._tell(stream, standing, result.message if isinstance(result, Rejected) else type(result).__name__)
            return None
        if entries and not result.taken:
            self._tell(stream, standing, result.reason)
        else:
            standing.error = ""
        return result.taken

    async def _look_at_lag(self, standing: Standing, reader: Reader, *, is_empty: bool) -> None:
        now = self._monotonic()
        if is_empty:
            standing.lag, standing.error = 0, ""
        elif now - standing.lag_read >= LAG_SECONDS:
            standing.lag = await reader.lag()
            standing.lag_read = now

    def _row(self, stream: Followed) -> StreamRow | None:
        row = self._machine().state.resident[Table.STREAM].get(stream)
        return row if isinstance(row, StreamRow) else None

    def _tell(self, stream: Followed, standing: Standing, error: str, *, is_told: bool = False) -> None:
        if standing.error != error and not is_told:
            logger.warning("entries of a stream are not taken up: %s", error, extra=_which(stream))
        standing.error = error


def _batch(entries: Sequence[StreamEntry]) -> list[StreamEntry]:
    """The first ones, at least one."""
    batch: list[StreamEntry] = []
    room = BATCH_BYTES
    for entry in entries:
        room -= len(entry.payload)
        if batch and room < 0:
            break
        batch.append(entry)
    return batch


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _which(stream: Followed) -> dict[str, str]:
    return {"namespace": stream[0], "event": stream[1]}
