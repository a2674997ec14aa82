"""The examples run: here the smallest one, its server's side played by the test."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from tests.client.fake_cluster import FakeCluster

HELLO = Path(__file__).parents[2] / "client" / "examples" / "hello.py"


async def test_hello(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    program = runpy.run_path(str(HELLO))
    running = asyncio.ensure_future(program["main"](",".join(cluster.addresses)))
    stream = await cluster.stream()
    stream.welcome()
    await cluster.reached("WaitWorkflow")
    (execution,) = cluster.executions.values()
    given = pb.Assignment(workflow_id=execution.workflow_id, task_id="t", fencing_token=1, name="greet")
    given.input.inline = execution.input.inline  # ${workflow.input.name} resolved
    stream.assign(given)
    (result,) = await stream.results(1)
    stream.judge(result)
    greeting = result.output.inline.replace(b"result", b"greeting")
    await cluster.end(execution.workflow_id, output=Payload(inline=greeting))
    assert (await stream.frame("slots")).slots == 0
    await stream.frame("goodbye")
    await asyncio.wait_for(running, 10)
    assert capsys.readouterr().out == "Hello, world!\n"
