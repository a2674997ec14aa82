"""What a node does with streams of Redis while it leads: it publishes what is owed, and reads those that are handled.

Only a leader needs the link, and only while it leads; a node whose large payloads are in Redis, too, keeps one always,
and lends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.config import Config
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import RedisSettings
from orchestrator.integrations.redis.streams import Appended, StreamReader, append
from orchestrator.services.consumer import Consumer
from orchestrator.services.leadership import Service
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.services.publisher import Publisher
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World

# One name for all nodes: whoever leads goes on with what was given to the leader before.
CONSUMER = "leader"


class LinkedStreams:
    """Redis, as the services see it."""

    def __init__(self, link: RedisLink, group_prefix: str, length_max: int) -> None:
        self._link = link
        self._group_prefix = group_prefix
        self._length_max = length_max

    async def wait_connected(self) -> None:
        await self._link.wait_connected()

    async def append(self, stream: str, entries: Sequence[Mapping[str, bytes]]) -> Appended:
        return await append(self._link, stream, entries, self._length_max)

    def group_of(self, namespace: str) -> str:
        return f"{self._group_prefix}:{namespace}"

    def reader(self, stream: str, namespace: str) -> StreamReader:
        return StreamReader(self._link, stream, self.group_of(namespace), CONSUMER)


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
        links = () if is_lent else (link,)
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
    """None: the node was not told where Redis is. Its `run` is for the caller to keep going."""
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
        Publisher(submit, machine, streams, monotonic, metrics),
        Consumer(submit, machine, streams, monotonic),
        is_lent=lent is not None,
    )
