"""Writes what the outbox owes to the streams of Redis, in the order in which it happened.

What was written is acknowledged by a command, and is owed until then. So what one leader has written and could not
acknowledge, the next one writes again, with the same event id. A stream that takes nothing is tried again later and
later; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.results import Rejected
from orchestrator.engine.triggers.owed import Owed
from orchestrator.engine.triggers.rows import OwedEvent
from orchestrator.integrations.redis.failures import RedisUnavailable
from orchestrator.integrations.redis.streams import Appended
from orchestrator.services.entries import fields_out
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.services.stream_ports import Streams
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.traces import Traces

logger = logging.getLogger(__name__)

# Streams that are written to at once: one batch each, then it is the turn of others.
AT_ONCE = 16
BATCH_EVENTS = 500
BATCH_BYTES = 1 << 20
# What was not taken is tried again after this, which doubles with each time.
HOLD_SECONDS = 0.2
HOLD_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class _Hold:
    until: float
    seconds: float
    error: str


class Publisher:
    """One batch of a stream is under way at a time."""

    def __init__(
        self,
        submit: Submit,
        machine: CurrentMachine,
        streams: Streams,
        monotonic: Callable[[], float],
        metrics: Metrics,
        traces: Traces,
    ) -> None:
        self._submit = submit
        self._machine = machine
        self._streams = streams
        self._monotonic = monotonic
        self._metrics = metrics
        self._traces = traces
        self._poked = asyncio.Event()
        self._seen = 0  # the number that the next event was to get when it was looked last
        self._turn: Iterator[str] = iter(())
        self._holds: dict[str, _Hold] = {}

    def entry_applied(self) -> None:
        """More may be owed now."""
        if self._machine().state.meta.next_owed != self._seen:
            self._poked.set()

    def error_of(self, stream: str) -> str:
        """Why the stream takes nothing at the moment; "" if it does, as far as is known."""
        held = self._holds.get(stream)
        return "" if held is None else held.error

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        self._holds.clear()
        self._turn = iter(())
        under_way: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                self._poked.clear()
                self._seen = self._machine().state.meta.next_owed
                for stream in self._next(AT_ONCE - len(under_way), under_way):
                    under_way[stream] = asyncio.create_task(self._publish(stream), name="publishing")
                await self._something(under_way)
                for stream in [stream for stream, task in under_way.items() if task.done()]:
                    under_way.pop(stream).result()
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    async def _something(self, under_way: dict[str, asyncio.Task[None]]) -> None:
        """Returns when more is owed, a batch has come to its end, or a stream is to be tried again."""
        owed = self._owed()
        self._holds = {stream: held for stream, held in self._holds.items() if owed.count_of(stream)}
        until = [held.until for stream, held in self._holds.items() if stream not in under_way]
        # With as many under way as may be, none can be tried before one of them has ended.
        wakes = bool(until) and len(under_way) < AT_ONCE
        timeout = max(0.0, min(until) - self._monotonic()) if wakes else None
        poked = asyncio.create_task(self._poked.wait(), name="publishing")
        try:
            await asyncio.wait((poked, *under_way.values()), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poked.cancel()

    def _next(self, most: int, under_way: dict[str, asyncio.Task[None]]) -> list[str]:
        """Whose turn it is: all streams to which something is owed, one after the other, and then from the first."""
        owed = self._owed()
        found: dict[str, None] = {}
        for begins in (False, True):
            if begins:
                self._turn = iter(owed.streams())
            while len(found) < most and (stream := next(self._turn, None)) is not None:
                if stream not in under_way and owed.count_of(stream) and not self._is_held(stream):
                    found[stream] = None
            if len(found) >= most:
                break
        return list(found)

    def _owed(self) -> Owed:
        return self._machine().state.triggers.owed

    def _is_held(self, stream: str) -> bool:
        held = self._holds.get(stream)
        return held is not None and self._monotonic() < held.until

    async def _publish(self, stream: str) -> None:
        """Writes one batch."""
        await self._streams.wait_connected()
        batch = self._batch(stream)
        if not batch:
            return
        appended = await self._append(stream, batch)
        written = batch[: appended.written]
        if written:
            self._metrics.events_published.add(len(written), stream)
            result = await self._submit(AcknowledgeEvents(tuple(event.number for event in written)))
            if isinstance(result, Rejected):
                logger.error("AcknowledgeEvents was refused: %s", result.message, extra={"stream": stream})
                self._hold(stream, result.message)
                return
        if appended.failure is not None:
            # Of a lost connection the link tells, once for all streams.
            is_told = isinstance(appended.failure, RedisUnavailable) and appended.failure.lost
            self._hold(stream, str(appended.failure), is_told=is_told)
        elif self._holds.pop(stream, None) is not None:
            logger.info("a stream takes events again", extra={"stream": stream})

    async def _append(self, stream: str, batch: list[OwedEvent]) -> Appended:
        with ExitStack() as spans:
            sending = []
            for event in batch:
                about = {"messaging.message.id": event.event_id, "orchestrator.workflow.id": event.workflow_id}
                sending.append(spans.enter_context(self._traces.sending(stream, event.trace, about)))
            entries = [fields_out(event, each.headers) for event, each in zip(batch, sending, strict=True)]
            appended = await self._streams.append(stream, entries)
            for each in sending[appended.written :]:
                each.ended("FAILED", type(appended.failure).__name__, str(appended.failure))
        return appended

    def _batch(self, stream: str) -> list[OwedEvent]:
        """The oldest that are owed, at least one if any is."""
        batch: list[OwedEvent] = []
        room = BATCH_BYTES
        for event in self._owed().of(stream, BATCH_EVENTS):
            room -= len(event.payload)
            if batch and room < 0:
                break
            batch.append(event)
        return batch

    def _hold(self, stream: str, error: str, *, is_told: bool = False) -> None:
        before = self._holds.get(stream)
        seconds = HOLD_SECONDS if before is None else min(2 * before.seconds, HOLD_SECONDS_MAX)
        if (before is None or before.error != error) and not is_told:
            logger.warning("events are not taken by their stream: %s", error, extra={"stream": stream})
        self._holds[stream] = _Hold(self._monotonic() + seconds, seconds, error)
