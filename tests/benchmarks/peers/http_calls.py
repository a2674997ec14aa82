"""JSON over HTTP/1.1 on connections that stay open: all that closed loops on loopback need, so it costs little CPU."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.peers.children import HOST

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpError(Exception):
    """The answer was not one of success."""


class HttpCalls:
    """To servers on these ports in turn; each call has a connection for itself."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = itertools.cycle(ports)
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: Any) -> Any:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(HOST, next(self._ports))
        try:
            writer.write(_request(path, json.dumps(body).encode()))
            head, answer = await _response(reader)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        if head.split(b" ", 2)[1][:1] != b"2":
            raise HttpError(f"{path}: {head.splitlines()[0].decode()}: {answer.decode(errors='replace')}")
        return json.loads(answer)

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _request(path: str, body: bytes) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head, await reader.readexactly(int(value))
    raise HttpError(f"an answer of unknown length: {head!r}")
