"""Processes that a client's program starts begin, whatever gRPC is doing in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator_client.forking import VARIABLE

CHILDREN = 300
# Calls are under way all the time, and one process is started after the other.
PROGRAM = f"""
import asyncio
import orchestrator_client
import grpc

async def echo(request, context):
    return request

async def main():
    server = grpc.aio.server()
    methods = {{"m": grpc.unary_unary_rpc_method_handler(echo)}}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        call, is_over = channel.unary_unary("/s/m"), asyncio.Event()

        async def again():
            while not is_over.is_set():
                await call(b"x")

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(again())
            codes = []
            for _ in range({CHILDREN}):
                child = await asyncio.create_subprocess_exec("true")
                codes.append(await child.wait())
            is_over.set()
    await server.stop(None)
    print({{code: codes.count(code) for code in codes}})

orchestrator_client.run(main())
"""


def ran(program: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**inherited, "PYTHONPATH": paths, **environment}, check=True,
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent,
    )
    return done.stdout.strip()


def test_what_is_started_while_calls_are_under_way_begins() -> None:
    assert ran(PROGRAM) == str({0: CHILDREN})


@pytest.mark.parametrize(("given", "found"), [({}, "0"), ({VARIABLE: "1"}, "1")])
def test_who_has_said_what_grpc_is_to_do_is_not_overruled(given: dict[str, str], found: str) -> None:
    assert ran(f"import orchestrator_client, os; print(os.environ[{VARIABLE!r}])", **given) == found
