"""Channels to servers, kept and shared: one for each address and set of TLS files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from orchestrator.engine.services import Tls
from orchestrator.integrations.pools import Pool
from orchestrator.integrations.service_registry.tls_files import TlsVersion, content_of, context_of, version_of

CHANNELS_MAX = 256
# Above what an output may have, so that a reply that is too large is seen and not only refused.
REPLY_BYTES_MAX = 16 << 20

_OPTIONS = (
    # A server whose machine is gone sends nothing: pings find out.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A channel that was given up must not leave its backoff to the next one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
)


class Unreachable(Exception):
    """There is no connection: whatever was to be called was not."""


class Channels:
    def __init__(self) -> None:
        self._pool: Pool[tuple[str, TlsVersion | None], grpc.aio.Channel] = Pool(_close, CHANNELS_MAX)

    @asynccontextmanager
    async def connected(self, target: str, tls: Tls | None, within_s: float) -> AsyncIterator[grpc.aio.Channel]:
        """A channel with a connection. Raises Unreachable, TlsUnusable."""
        key = (target, None if tls is None else await version_of(tls))

        async def make() -> grpc.aio.Channel:
            return await _made(target, tls)

        async with self._pool.using(key, make) as channel:
            if not await _ready(channel, within_s):
                # Another one begins without this one's backoff.
                self._pool.forget(key, channel)
                raise Unreachable(f"no connection to {target}")
            yield channel

    async def close(self) -> None:
        await self._pool.close()


async def _made(target: str, tls: Tls | None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    # gRPC only says that there is no connection; what is wrong with the files is told by whoever reads them here.
    await context_of(tls)
    content = await content_of(tls)
    credentials = grpc.ssl_channel_credentials(content.ca, content.key, content.cert)
    named = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
    return grpc.aio.secure_channel(target, credentials, options=(*_OPTIONS, *named))


async def _close(channel: grpc.aio.Channel) -> None:
    await channel.close()


async def _ready(channel: grpc.aio.Channel, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await _connected(channel)
    except TimeoutError:
        return False


async def _connected(channel: grpc.aio.Channel) -> bool:
    state, has_tried = channel.get_state(try_to_connect=True), False
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and has_tried:
            return False
        if state is grpc.ChannelConnectivity.SHUTDOWN:
            return False
        # A failure that was there before is of an earlier attempt.
        has_tried = has_tried or state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return True
