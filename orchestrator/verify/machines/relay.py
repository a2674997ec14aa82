"""Carries the connections between nodes from the face of one to the other, and can be slow in one direction.

Each line of its input is a JSON object: `{"delay_ms": {"a>b": 40}, "jitter_ms": 10}` replaces what was said before;
null instead of a delay holds the bytes back until it is replaced. Who speaks is told by the address it comes from.

python -m orchestrator.verify.machines.relay PARENT PORT '{"name": ["address", "face"]}'
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.cli.die_with_parent import die_with_parent

CHUNK_BYTES = 64 * 1024
CHUNKS_IN_FLIGHT = 64
_ABORT = struct.pack("ii", 1, 0)


class Relay:
    def __init__(self, port: int, nodes: Mapping[str, Sequence[str]]) -> None:
        self._port = port
        self._addresses = {name: address for name, (address, _) in nodes.items()}
        self._faces = {name: face for name, (_, face) in nodes.items()}
        self._delay_ms: dict[str, float | None] = {}
        self._jitter_ms = 0.0
        self._changed = asyncio.Event()

    async def start(self) -> None:
        for name, face in self._faces.items():
            await asyncio.start_server(functools.partial(self._accept, name), face, self._port)

    def told(self, line: str) -> None:
        order = json.loads(line)
        self._delay_ms = order["delay_ms"]
        self._jitter_ms = order.get("jitter_ms", 0.0)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaker = writer.get_extra_info("peername")[0]
        source = next((name for name, address in self._addresses.items() if address == speaker), None)
        if source is None:
            writer.transport.abort()
            return
        try:
            further, away = await asyncio.open_connection(
                self._addresses[target], self._port, local_addr=(self._faces[source], 0)
            )
        except OSError:
            _reset(writer)
            return
        both = [asyncio.ensure_future(self._carry(f"{source}>{target}", reader, away)),
                asyncio.ensure_future(self._carry(f"{target}>{source}", further, writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        _reset(writer)
        _reset(away)

    async def _carry(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each piece as late as its direction says, and never before an earlier one."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_IN_FLIGHT)

        async def read() -> None:
            while data := await reader.read(CHUNK_BYTES):
                await pieces.put((loop.time(), data))
            await pieces.put((loop.time(), b""))

        reading = asyncio.ensure_future(read())
        try:
            while True:
                came_at, data = await pieces.get()
                await self._until_due(direction, came_at)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()

    async def _until_due(self, direction: str, came_at: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            changed, delay_ms = self._changed, self._delay_ms.get(direction, 0.0)
            if delay_ms is None:
                await changed.wait()
                continue
            if delay_ms:
                delay_ms += random.random() * self._jitter_ms
            left_s = came_at + delay_ms / 1000 - loop.time()
            if left_s > 0:
                try:
                    await asyncio.wait_for(changed.wait(), left_s)
                    continue
                except TimeoutError:
                    pass
            return


def _reset(writer: asyncio.StreamWriter) -> None:
    """As a process that is gone does: no orderly end."""
    handle = writer.get_extra_info("socket")
    if handle is not None and handle.fileno() >= 0:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    writer.transport.abort()


async def main(port: int, nodes: dict[str, Any]) -> None:
    relay = Relay(port, nodes)
    await relay.start()
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        relay.told(line.decode())


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    asyncio.run(main(int(sys.argv[2]), json.loads(sys.argv[3])))
