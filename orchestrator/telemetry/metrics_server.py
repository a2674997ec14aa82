"""Serves the page that Prometheus reads, and those that probes ask."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Protocol

_REQUEST_BYTES_MAX = 16 * 1024
_REQUEST_TIMEOUT_S = 5.0
_NOT_READY = ("503 Service Unavailable", b"not ready: no leader is known, or this node is behind or drained\n")


class Pages(Protocol):
    is_ready: Callable[[], bool]

    def page(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type."""


class MetricsServer:
    """An HTTP server of the numbers, and of two pages for probes.

    It is on the event loop, where the numbers are: no thread reads them half-changed. While it answers, the loop turns.
    """

    def __init__(self, metrics: Pages) -> None:
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, host: str | None, port: int, tls: ssl.SSLContext | None = None) -> None:
        timeout = _REQUEST_TIMEOUT_S if tls is not None else None
        self._server = await asyncio.start_server(
            self._accept, host, port, limit=_REQUEST_BYTES_MAX, ssl=tls, ssl_handshake_timeout=timeout)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in list(self._answering):
                task.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever a stranger sends or fails to read is no concern of the node.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                writer.write(self._response(request))
                await writer.drain()
        writer.close()

    def _response(self, request: str) -> bytes:
        first, _, headers = request.partition("\r\n")
        method, path = [*first.split(" "), "", ""][:2]
        if method not in ("GET", "HEAD"):
            return _http("405 Method Not Allowed", "text/plain", b"only GET\n")
        with_body = method == "GET"
        page = path.partition("?")[0]
        if page == "/livez":
            return _http("200 OK", "text/plain", b"alive\n", with_body=with_body)
        if page == "/readyz":
            status, text = ("200 OK", b"ready\n") if self._metrics.is_ready() else _NOT_READY
            return _http(status, "text/plain", text, with_body=with_body)
        if page != "/metrics":
            return _http("404 Not Found", "text/plain", b"the pages are /metrics, /livez and /readyz\n")
        given = dict(line.lower().partition(":")[::2] for line in headers.split("\r\n"))
        body, content_type = self._metrics.page(given.get("accept", "").strip())
        return _http("200 OK", content_type, body, with_body=with_body)


def _http(status: str, content_type: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((*head, "", "")).encode() + (body if with_body else b"")
