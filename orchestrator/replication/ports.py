"""What the replicated log needs from the rest of the server, as small protocols."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# Who has accepted TCP and goes no further is dropped after this; the default is a minute.
TLS_HANDSHAKE_SECONDS_MAX = 5.0


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds, never going back."""

    def wall_ms(self) -> int: ...


@dataclass(frozen=True)
class SnapshotCopy:
    """A copy of the database at `index`; its file stays until `release` is called."""

    path: Path
    index: int
    term: int
    size: int
    checksum: str  # sha256, hexadecimal
    configuration: bytes
    release: Callable[[], None]


class SnapshotSource(Protocol):
    async def copy(self, *, check: bool) -> SnapshotCopy:
        """Makes a copy off the loop. Its index must be committed, and not below the last `flushed` index.

        `check`: somebody found the last one unsound, so all of this one is read before it is handed out.
        """


class SnapshotSink(Protocol):
    async def install(self, path: Path, index: int, term: int) -> None:
        """Swaps the database for the file, atomically; returns once that is durable. The file is removed afterwards.

        Raises SnapshotUnfit when the file is no sound database: then the old one is in place, and another file is sent.
        """


class Network(Protocol):
    """Connections as asyncio protocols; tests put one in place that cuts and refuses."""

    async def listen(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> asyncio.AbstractServer: ...

    async def dial(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None: ...


class TcpNetwork:
    async def listen(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> asyncio.AbstractServer:
        return await asyncio.get_running_loop().create_server(
            factory, host, port, ssl=tls, ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS_MAX if tls else None
        )

    async def dial(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        loop = asyncio.get_running_loop()
        # Not left to the connecting: what is given up there goes on in uvloop, and complains when it has failed.
        places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        server_hostname = host if tls else None
        for *_, place in places[:-1]:
            with contextlib.suppress(OSError):
                await loop.create_connection(factory, *place[:2], ssl=tls, server_hostname=server_hostname)
                return
        *_, place = places[-1]
        await loop.create_connection(factory, *place[:2], ssl=tls, server_hostname=server_hostname)
