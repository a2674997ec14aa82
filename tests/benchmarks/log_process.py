"""One member of a log with nothing around it, as a process: what a commit costs before anything is done with it.

Each line of its input is answered by one of its output: `leads` by true or false, `measure SECONDS` by the
milliseconds of each commit, one after the other, from its proposal until the leader has applied it (that is, nothing).

python -m tests.benchmarks.log_process PARENT DIRECTORY NAME SYNC_MS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.replication.files import Files, RealFiles
from orchestrator.replication.settings import RaftSettings
from orchestrator.running import THREAD_SWITCH_SECONDS
from tests.benchmarks.node import SlowFiles
from tests.replication.cluster import Node

# About as much as the start of a workflow with 100 bytes of input.
ENTRY_BYTES = 300


async def measure(node: Node, seconds: float) -> list[float]:
    samples: list[float] = []
    waiting: dict[int, asyncio.Future[None]] = {}
    loop = asyncio.get_running_loop()

    def applied(_: Node, index: int, data: bytes) -> None:
        if index in waiting:
            waiting.pop(index).set_result(None)

    node.observe = applied
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        index, _ = node.log.append(bytes(ENTRY_BYTES))
        waiting[index] = future = loop.create_future()
        await future
        samples.append(1000 * (time.perf_counter() - began))
        node.applied.clear()
    return samples


async def main(directory: Path, name: str, sync_ms: float) -> None:
    files: Files = SlowFiles(sync_ms / 1000) if sync_ms else RealFiles()
    node = Node(directory, name, RaftSettings(), files, None)
    await node.start()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        words = line.decode().split()
        answer = node.log.ready_to_lead if words[0] == "leads" else await measure(node, float(words[1]))
        print(json.dumps(answer), flush=True)
    await node.stop()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.setswitchinterval(THREAD_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
