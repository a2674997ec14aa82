"""Connections to everywhere, kept for a while after each use.

Each connection is a transport of its own, for one request at a time. httpx's own pools do not survive requests that are
cancelled: a place that one leaves behind is never free again. Here whatever did not end well is closed, and that is
all. Transports and not clients, for a client would keep cookies and give those of one workflow to another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx

from orchestrator.engine.services import Tls
from orchestrator.integrations.pools import Pool
from orchestrator.integrations.service_registry.tls_files import TlsVersion, context_of, version_of

IN_USE_MAX = 500
IDLE_MAX = 100
# Short: a server that closes a connection just when a request comes leaves nobody knowing whether it took it.
IDLE_SECONDS = 4.0
CONTEXTS_MAX = 64


class Busy(Exception):
    """There are as many connections in use as there may be."""


class _Origin(NamedTuple):
    """Where a connection leads, and as whom."""

    scheme: str
    host: str
    port: int | None
    server_name: str
    files: TlsVersion | None


class Connections:
    def __init__(self) -> None:
        self._contexts: Pool[TlsVersion | None, ssl.SSLContext] = Pool(_nothing, CONTEXTS_MAX)
        self._in_use = asyncio.Semaphore(IN_USE_MAX)
        # In the order in which they were last used; those of one origin are found by walking.
        self._idle: OrderedDict[httpx.AsyncHTTPTransport, tuple[_Origin, float]] = OrderedDict()
        self._all: set[httpx.AsyncHTTPTransport] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Connections in use and idle."""
        return len(self._all)

    @asynccontextmanager
    async def to(self, url: httpx.URL, tls: Tls | None, within_s: float) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """For one request whose response is read and closed inside. Raises Busy, TlsUnusable."""
        await self._place(within_s)
        try:
            has_files = tls is not None and bool(tls.ca or tls.cert)
            files = await version_of(tls) if tls is not None and has_files else None
            origin = _Origin(url.scheme, url.host, url.port, tls.server_name if tls is not None else "", files)
            transport = self._taken(origin) or await self._made(tls if has_files else None, files)
            try:
                yield transport
            except BaseException:
                self._discard(transport)
                raise
            self._keep(transport, origin)
        finally:
            self._in_use.release()

    async def close(self) -> None:
        """Closes all of them; requests under way fail."""
        if self._reaper is not None:
            self._reaper.cancel()
        for transport in list(self._all):
            self._discard(transport)
        await asyncio.gather(*self._closing)
        await self._contexts.close()

    async def _place(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._in_use.acquire()
        except TimeoutError:
            raise Busy(f"this node has {IN_USE_MAX} connections in use, which is the limit") from None

    def _taken(self, origin: _Origin) -> httpx.AsyncHTTPTransport | None:
        """The one that was used last: the others may be given up."""
        for transport, (leads_to, _) in reversed(self._idle.items()):
            if leads_to == origin:
                del self._idle[transport]
                return transport
        return None

    async def _made(self, tls: Tls | None, files: TlsVersion | None) -> httpx.AsyncHTTPTransport:
        async def make() -> ssl.SSLContext:
            return await context_of(tls)

        async with self._contexts.using(files, make) as context:
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS)
            transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
        self._all.add(transport)
        return transport

    def _keep(self, transport: httpx.AsyncHTTPTransport, origin: _Origin) -> None:
        loop = asyncio.get_running_loop()
        self._idle[transport] = origin, loop.time()
        if len(self._idle) > IDLE_MAX:
            self._discard(next(iter(self._idle)))
        if self._reaper is None:
            self._reaper = loop.call_later(IDLE_SECONDS, self._reap)

    def _reap(self) -> None:
        """Closes those that were idle for too long."""
        loop = asyncio.get_running_loop()
        self._reaper = None
        for transport, (_, since) in list(self._idle.items()):
            if (left := since + IDLE_SECONDS - loop.time()) > 0:
                self._reaper = loop.call_later(left, self._reap)
                return
            self._discard(transport)

    def _discard(self, transport: httpx.AsyncHTTPTransport) -> None:
        # By itself: who was cancelled must not wait for it, nor cancel it.
        self._idle.pop(transport, None)
        if transport in self._all:
            self._all.discard(transport)
            closing = asyncio.create_task(transport.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _nothing(context: ssl.SSLContext) -> None:
    """A context holds nothing that has to be closed."""
