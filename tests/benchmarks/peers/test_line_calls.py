"""Calls by line: answers find their callers, errors are told, and a process that goes is noticed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import free_ports
from tests.benchmarks.clusters import ROOT
from tests.benchmarks.peers.children import Child, children
from tests.benchmarks.peers.line_calls import CallFailed, LineCalls
from tests.benchmarks.peers.line_server import READY

# Numbers are doubled, but not before the next one has come; a text is an error, and "end" the end.
DOUBLING = """
import os, sys, threading
from tests.benchmarks.peers.line_server import serve
both = threading.Barrier(2)
def double(number):
    if number == "end":
        os._exit(0)
    both.wait(20)
    return 2 * (number + 0)
serve(int(sys.argv[1]), double, 2)
"""


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[tuple[Child, LineCalls]]:
    port = next(free_ports())
    async with children(tmp_path) as started:
        command = [sys.executable, "-c", DOUBLING, str(port)]
        child = await started.start("doubling", command, environment={"PYTHONPATH": str(ROOT)})
        await child.wait_line(READY)
        calls = await LineCalls.connected([port])
        yield child, calls
        await calls.close()


async def test_every_caller_gets_its_own_answer(process: tuple[Child, LineCalls]) -> None:
    _, calls = process
    assert await asyncio.gather(*(calls.call(number) for number in range(10))) == list(range(0, 20, 2))


async def test_an_error_is_the_callers_alone(process: tuple[Child, LineCalls]) -> None:
    _, calls = process
    wrong, right = await asyncio.gather(calls.call("text"), calls.call(4), return_exceptions=True)
    assert isinstance(wrong, CallFailed) and "TypeError" in str(wrong)
    assert right == 8


async def test_a_process_that_goes_fails_what_is_called_and_what_will_be(process: tuple[Child, LineCalls]) -> None:
    child, calls = process
    answers = await asyncio.gather(calls.call(1), calls.call("end"), return_exceptions=True)
    for answer in (*answers, *await asyncio.gather(calls.call(2), return_exceptions=True)):
        assert isinstance(answer, CallFailed) and str(answer) == "the process is gone"
    assert await child.process.wait() == 0
