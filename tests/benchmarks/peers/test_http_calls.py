"""The calls of closed loops: connections are kept, answers are told from errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.benchmarks.peers.http_calls import HttpCalls, HttpError


class Server:
    """Answers with what it was sent; `/no` with a refusal, `/half` with half of an answer."""

    def __init__(self) -> None:
        self.connections = 0
        self.paths: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split()[1]
                self.paths.append(path)
                body = await reader.readexactly(int(head.lower().split("content-length: ")[1].split()[0]))
                status = "409 Conflict" if path == "/no" else "201 Created"
                length = len(body) * (2 if path == "/half" else 1)
                writer.write(f"HTTP/1.1 {status}\r\ncontent-LENGTH:{length}\r\nx: y\r\n\r\n".encode() + body)
                if path == "/half":
                    break
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, int]]:
    answering = Server()
    listening = await asyncio.start_server(answering.serve, "127.0.0.1", 0)
    async with listening:
        yield answering, listening.sockets[0].getsockname()[1]


async def test_a_connection_is_used_again_and_by_one_call_at_a_time(server: tuple[Server, int]) -> None:
    answering, port = server
    calls = HttpCalls([port])
    for number in range(3):
        assert await calls.post("/a/b", {"n": number, "text": "ü"}) == {"n": number, "text": "ü"}
    assert answering.connections == 1
    assert await asyncio.gather(*(calls.post("/c", number) for number in range(5))) == [0, 1, 2, 3, 4]
    assert answering.connections == 5
    await calls.close()
    assert answering.paths == ["/a/b"] * 3 + ["/c"] * 5


async def test_a_refusal_is_an_error_that_says_what_was_said(server: tuple[Server, int]) -> None:
    calls = HttpCalls([server[1]])
    with pytest.raises(HttpError, match=r'/no: HTTP/1.1 409 Conflict: \{"why": 7\}'):
        await calls.post("/no", {"why": 7})
    assert await calls.post("/yes", 1) == 1
    await calls.close()


async def test_half_an_answer_is_none(server: tuple[Server, int]) -> None:
    calls = HttpCalls([server[1]])
    with pytest.raises(asyncio.IncompleteReadError):
        await calls.post("/half", json.dumps({}))
    assert await calls.post("/yes", 1) == 1  # on another connection
    await calls.close()
