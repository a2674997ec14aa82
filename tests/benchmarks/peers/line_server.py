"""For peers that are libraries: a process of theirs that does what it is told line by line.

It runs in the peer's environment, where nothing of the project is installed; `line_calls` is the other side.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

HOST = "127.0.0.1"
READY = "serving"


def serve(port: int, handle: Callable[[Any], Any], threads: int) -> None:
    """Each line is `[number, argument]`, answered by `[number, result]` or `[number, null, error]`; in any order."""
    asyncio.run(_serve(port, handle, threads))


async def _serve(port: int, handle: Callable[[Any], Any], threads: int) -> None:
    pool = ThreadPoolExecutor(threads)
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(line: bytes, writer: asyncio.StreamWriter) -> None:
        number, argument = json.loads(line)
        try:
            answered = [number, await loop.run_in_executor(pool, handle, argument)]
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            answered = [number, None, repr(error)]
        writer.write(json.dumps(answered).encode() + b"\n")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            task = loop.create_task(answer(line, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        writer.close()

    async with await asyncio.start_server(connected, HOST, port) as server:
        print(READY, flush=True)
        await server.serve_forever()
