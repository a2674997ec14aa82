"""A small HTTP server for tests, on a free port: every request is kept, and answered as a test says."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]


class Last(bytes):
    """After it the connection is closed."""


def reply(status: int = 200, body: object = b"", *headers: tuple[str, str], phrase: str = "Fine") -> bytes:
    """A whole response; a body that is neither bytes nor text becomes JSON."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


Answer = Callable[[Received], bytes | Awaitable[bytes]]


class HttpServer:
    """`answer` may be changed at any time; b"" as an answer closes the connection."""

    def __init__(self, answer: Answer = lambda received: reply(), tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.received: list[Received] = []
        self.connections = 0
        self._tls = tls
        self._serving: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server
        self.port = 0

    @property
    def uri(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._serving)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving)
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (received := await _read(reader)) is not None:
                self.received.append(received)
                made: Any = self.answer(received)
                data = made if isinstance(made, bytes) else await made
                if not data:
                    return
                writer.write(data)
                await writer.drain()
                if isinstance(data, Last):
                    writer.close()
                    await writer.wait_closed()
                    return
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._serving.discard(task)
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Received(method, target, headers, await reader.readexactly(length))
