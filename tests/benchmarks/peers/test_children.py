"""Processes of peers: what is waited for, what they cost, and that none is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.benchmarks.clusters import ROOT
from tests.benchmarks.peers.children import ChildError, Stat, children, cpu_of_trees, descendants

needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")

# Starts a process of its own, says its id, and goes when it is told to, without it.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; print(sum(range(10**6)), flush=True); time.sleep(600)"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
print("ready", flush=True)
child.wait()
"""

# Starts a child as the benchmark does, says its id, and waits to be killed.
BENCHMARK = """
import asyncio, pathlib, sys
from tests.benchmarks.clusters import ROOT
from tests.benchmarks.peers.children import Children
async def main():
    child = await Children(pathlib.Path(sys.argv[1])).start("child", ["sleep", "600"])
    print(child.pid, flush=True)
    await child.process.wait()
asyncio.run(main())
"""


def test_the_time_of_a_process_and_of_those_it_waited_for_is_read_behind_its_name() -> None:
    stat = "77 (a) S (b) R 12 1 1 0 -1 0 0 0 0 0 100 50 30 20 20 0 1 0 5 6 7"
    assert Stat.parsed(stat) == ("R", 12, 200 / os.sysconf("SC_CLK_TCK"))


def test_a_process_that_is_gone_costs_nothing() -> None:
    assert descendants([2**22 + 1]) == set()
    assert cpu_of_trees([2**22 + 1]) == 0


@needs_setpriv
async def test_temporary_files_of_a_process_go_with_its_directory(tmp_path: Path) -> None:
    async with children(tmp_path) as started:
        command = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
        asked = await started.start("asked", command)
        async with asyncio.timeout(60):
            await asked.process.wait()
        assert asked.said().strip() == str(tmp_path)


@needs_setpriv
async def test_what_a_process_started_is_counted_and_ended_with_it(tmp_path: Path) -> None:
    async with children(tmp_path) as started:
        parent = await started.start("parent", [sys.executable, "-c", PARENT])
        await parent.wait_line("ready")
        grandchild = int(parent.said().split()[0])
        assert descendants([parent.pid]) == {parent.pid, grandchild}
        assert cpu_of_trees([parent.pid]) >= cpu_of_trees([grandchild])
    assert descendants([parent.pid, grandchild]) == set()


@needs_setpriv
async def test_a_process_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    async with children(tmp_path) as started:
        child = await started.start("brief", [sys.executable, "-c", "print('no luck'); raise SystemExit(5)"])
        with pytest.raises(ChildError, match=r"brief ended with exit code 5\nno luck"):
            await child.wait_line("ready")
        with pytest.raises(ChildError, match="exit code 5"):
            await child.wait_port(1)


@needs_setpriv
async def test_a_process_that_never_gets_ready_is_waited_for_in_vain(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with children(tmp_path) as started:
        child = await started.start("idle", ["sleep", "600"])
        with pytest.raises(ChildError, match=r"idle listens: not within 0\.2 s"):
            await child.wait_until(never, "listens", 0.2)


@needs_setpriv
async def test_no_process_outlives_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    async with children(tmp_path) as started:
        benchmark = await started.start(
            "benchmark", [sys.executable, "-c", BENCHMARK, tmp_path], environment={"PYTHONPATH": str(ROOT)}
        )

        async def said() -> bool:
            return benchmark.said().endswith("\n")

        async def gone() -> bool:
            return not descendants([child])

        await benchmark.wait_until(said, "says its child's id")
        child = int(benchmark.said())
        assert descendants([benchmark.pid]) == {benchmark.pid, child}
        other = await started.start("other", ["sleep", "600"])
        benchmark.process.kill()
        await other.wait_until(gone, "the child is gone")
