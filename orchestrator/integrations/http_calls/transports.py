"""Connections to everywhere: one pool for all that need no files of their own, one for each set of files.

Transports and not clients: a client would keep cookies, and give those of one workflow to another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from orchestrator.engine.services import Tls
from orchestrator.integrations.pools import Pool
from orchestrator.integrations.service_registry.tls_files import TlsVersion, context_of, version_of

CONNECTIONS_MAX = 500
IDLE_CONNECTIONS_MAX = 100
# Short: a server that closes a connection just when a request comes leaves nobody knowing whether it took it.
IDLE_SECONDS = 4.0
TRANSPORTS_MAX = 64


class Transports:
    def __init__(self) -> None:
        self._pool: Pool[TlsVersion | None, httpx.AsyncHTTPTransport] = Pool(_close, TRANSPORTS_MAX)

    @asynccontextmanager
    async def using(self, tls: Tls | None) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """Raises TlsUnusable."""
        has_files = tls is not None and (tls.ca or tls.cert)
        key = await version_of(tls) if tls is not None and has_files else None

        async def make() -> httpx.AsyncHTTPTransport:
            context = await context_of(tls if has_files else None)
            limits = httpx.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=IDLE_CONNECTIONS_MAX,
                keepalive_expiry=IDLE_SECONDS,
            )
            return httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)

        async with self._pool.using(key, make) as transport:
            yield transport

    async def close(self) -> None:
        await self._pool.close()


async def _close(transport: httpx.AsyncHTTPTransport) -> None:
    await transport.aclose()
