"""What a node does with streams of Redis while it leads: it publishes what is owed, and reads those that are handled.

Only a leader needs the link, and only while it leads; a node whose large payloads are in Redis, too, keeps one always,
and lends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from orchestrator.config import Config
from orchestrator.engine.state import State
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import RedisSettings
from orchestrator.integrations.redis.streams import Appended, Found, OpenAgain, Opened, StreamReader, append
from orchestrator.services.consumer import Consumer
from orchestrator.services.leadership import Service
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.services.publisher import Publisher
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World

# One name for all nodes: whoever leads goes on with what was given to the leader before.
CONSUMER = "leader"
# What nobody has foreseen is tried again after this.
AGAIN_SECONDS = 5.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def _foreseen(answer: Awaitable[T]) -> T:
    """What somebody else's server may say, and a library make of it, ends no node: it is a refusal of that stream."""
    try:
        return await answer
    except (RedisUnavailable, RedisRefused, OpenAgain):
        raise
    except Exception as error:
        logger.exception("Redis was not understood")
        raise RedisRefused(f"{type(error).__name__}: {error}") from error


class LinkKeeper:
    """Keeps a link going, whatever happens to it."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._link.run()
            except Exception:
                logger.exception("the link to Redis has broken in a way that nobody has foreseen")
            await asyncio.sleep(AGAIN_SECONDS)


class LinkedReader:
    """A reader whose failures are those of `services.stream_ports`."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    async def open(self, cursor: str, *, begun: bool) -> Opened:
        return await _foreseen(self._reader.open(cursor, begun=begun))

    async def read_new(self, most: int, block_ms: int) -> Sequence[Found]:
        return await _foreseen(self._reader.read_new(most, block_ms))

    async def read_pending(self, most: int) -> Sequence[Found]:
        return await _foreseen(self._reader.read_pending(most))

    async def acknowledge(self, entry_ids: Sequence[str]) -> None:
        await _foreseen(self._reader.acknowledge(entry_ids))

    async def lag(self) -> int | None:
        return await _foreseen(self._reader.lag())

    async def close(self) -> None:
        await self._reader.close()


class LinkedStreams:
    """Redis, as the services see it."""

    def __init__(self, link: RedisLink, group_prefix: str, length_max: int) -> None:
        self._link = link
        self._group_prefix = group_prefix
        self._length_max = length_max

    async def wait_connected(self) -> None:
        await self._link.wait_connected()

    async def append(self, stream: str, entries: Sequence[Mapping[str, bytes]]) -> Appended:
        try:
            return await _foreseen(append(self._link, stream, entries, self._length_max))
        except (RedisUnavailable, RedisRefused) as failure:
            return Appended(0, failure)

    def group_of(self, namespace: str) -> str:
        return f"{self._group_prefix}:{namespace}"

    def reader(self, stream: str, namespace: str) -> LinkedReader:
        return LinkedReader(StreamReader(self._link, stream, self.group_of(namespace), CONSUMER))


class Streaming:
    """`services`: a leader's. It knows what `rpc.backend.StreamsKnown` says."""

    def __init__(
        self, link: RedisLink, streams: LinkedStreams, publisher: Publisher, consumer: Consumer, *, is_lent: bool
    ) -> None:
        self._link = link
        self._streams = streams
        self._publisher = publisher
        self._consumer = consumer
        self._is_lent = is_lent
        links = () if is_lent else (LinkKeeper(link),)
        self.services: tuple[Service, ...] = (*links, publisher, consumer)

    def entry_applied(self) -> None:
        """Something may be owed, or be to be read, now."""
        self._publisher.entry_applied()
        self._consumer.entry_applied()

    @property
    def connected(self) -> bool:
        return self._link.connected

    def link_state(self, *, leading: bool) -> bool | None:
        """Whether it is connected; None if it has no reason to be."""
        return self._link.connected if leading or self._is_lent else None

    @property
    def last_error(self) -> str:
        return self._link.last_error

    def group_of(self, namespace: str) -> str:
        return self._streams.group_of(namespace)

    def error_out(self, stream: str) -> str:
        return self._publisher.error_of(stream)

    def error_in(self, namespace: str, event: str) -> str:
        standing = self._consumer.standing_of(namespace, event)
        return "" if standing is None else standing.error

    def lag(self, namespace: str, event: str) -> int | None:
        standing = self._consumer.standing_of(namespace, event)
        return None if standing is None else standing.lag


def redis_link(config: Config, world: World) -> RedisLink | None:
    """None: the node was not told where Redis is. A LinkKeeper keeps it going."""
    settings = RedisSettings.of(config)
    if settings is None:
        return None
    return world.redis(
        settings,
        monotonic=world.clock.monotonic,
        random=world.random,
        read_file=world.read_file,
        off_loop=world.off_loop,
    )


def streaming(
    config: Config,
    world: World,
    metrics: Metrics,
    *,
    submit: Submit,
    machine: CurrentMachine,
    lent: RedisLink | None = None,
) -> Streaming | None:
    """None: the node was not told where Redis is. `lent`: a link that somebody else keeps going."""
    link = lent if lent is not None else redis_link(config, world)
    if link is None:
        return None
    streams = LinkedStreams(link, config.redis_group, config.redis_stream_length_max)
    monotonic = world.clock.monotonic
    return Streaming(
        link,
        streams,
        Publisher(submit, machine, streams, monotonic, metrics, world.traces),
        Consumer(submit, machine, streams, monotonic, world.traces),
        is_lent=lent is not None,
    )


def warn_without_redis(state: State) -> None:
    """Of a leader that was not told where Redis is: others of the cluster were, or all were once."""
    triggers = state.triggers
    if triggers.owed.count or triggers.streams:
        facts = {"owed_events": triggers.owed.count, "streams_handled": len(triggers.streams)}
        logger.warning("events wait for a leader that knows a Redis: redis_endpoints is not set on this node",
                       extra=facts)
