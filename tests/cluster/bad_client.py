"""A client that behaves badly, in a process of its own, which a test can stop and kill.

python -m tests.cluster.bad_client PARENT MODE ADDRESS COUNT
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator_api.v1 import workers_pb2, workers_pb2_grpc, workflows_pb2, workflows_pb2_grpc

STREAMS_PER_CONNECTION = 500
HEARTBEAT_S = 0.3
# Of streams; the others are refused.
MAY_BE_OPEN = 2_000
# Of calls that wait; as above.
MAY_WAIT = 500
CALLS_AT_ONCE = 250
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1),
           ("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 64 << 20))


@asynccontextmanager
async def bad_client(mode: str, address: str, count: int) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Runs one that has done what its mode says; the first line that it prints says what came of it, as `said`."""
    command = [sys.executable, "-m", "tests.cluster.bad_client", str(os.getpid()), mode, address, str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)  # noqa: ASYNC220 - it takes a millisecond
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def said(process: subprocess.Popen[bytes]) -> dict[str, int]:
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    found: dict[str, int] = json.loads(line)
    return found


def say(**facts: int) -> None:
    print(json.dumps(facts), flush=True)


async def streams(address: str, count: int) -> None:
    """Opens so many streams of workers, says nothing on them, and keeps them."""
    calls: list[Any] = []
    for first in range(0, count, STREAMS_PER_CONNECTION):
        service: Any = workers_pb2_grpc.WorkerServiceStub(grpc.aio.insecure_channel(address, options=OPTIONS))
        calls += [service.Work() for _ in range(min(STREAMS_PER_CONNECTION, count - first))]
        await asyncio.sleep(0)
    ended: Counter[grpc.StatusCode] = Counter()
    waiting = {asyncio.ensure_future(call.code()): call for call in calls}
    while len(waiting) > MAY_BE_OPEN:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            del waiting[each]
            ended[each.result()] += 1
    # CANCELLED are those that gRPC turns away itself: a thousand and more were waiting to be begun.
    say(refused=ended[grpc.StatusCode.RESOURCE_EXHAUSTED], turned_away=ended[grpc.StatusCode.CANCELLED],
        open=len(waiting))
    await asyncio.Event().wait()


async def deaf_worker(address: str, slots: int) -> None:
    """Opens a session, gives signs of life, and never reads a frame."""
    service: Any = workers_pb2_grpc.WorkerServiceStub(grpc.aio.insecure_channel(address, options=OPTIONS))
    call = service.Work()
    hello = workers_pb2.WorkHello(worker_id="deaf", task_names=["flood"], slots=slots, session_timeout_ms=2_000)
    await call.write(workers_pb2.WorkRequest(hello=hello))
    say(opened=1)
    while True:
        await call.write(workers_pb2.WorkRequest(heartbeat=workers_pb2.WorkHeartbeat(all_attempts=True)))
        await asyncio.sleep(HEARTBEAT_S)


async def waits(address: str, count: int) -> None:
    """Waits for an execution, so many times; says how those ended that are over what may wait, by code.

    Not all at once: gRPC itself turns away what comes while a thousand wait to be begun.
    """
    codes: Counter[str] = Counter()
    open_calls: set[Any] = set()
    channels = []
    for _ in range(0, count, CALLS_AT_ONCE):
        # Kept: a channel that nobody holds cancels its calls.
        channels.append(grpc.aio.insecure_channel(address, options=OPTIONS))
        service: Any = workflows_pb2_grpc.WorkflowServiceStub(channels[-1])
        request = workflows_pb2.WaitWorkflowRequest(workflow_id="large", wait_ms=50_000)
        open_calls |= {asyncio.ensure_future(service.WaitWorkflow(request).code()) for _ in range(CALLS_AT_ONCE)}
        while len(open_calls) > MAY_WAIT:
            ended, open_calls = await asyncio.wait(open_calls, return_when=asyncio.FIRST_COMPLETED)
            codes.update(each.result().name for each in ended)
    say(codes=codes)
    await asyncio.Event().wait()


async def main(mode: str, address: str, count: int) -> None:
    await {"streams": streams, "deaf_worker": deaf_worker, "waits": waits}[mode](address, count)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    asyncio.run(main(sys.argv[2], sys.argv[3], int(sys.argv[4])))
