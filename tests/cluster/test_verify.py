"""`orchestrator verify` on real nodes: a short run, what each kind of end leaves behind, and mistakes that it finds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import exits
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.verify.machines import namespaces
from orchestrator_client import Client, Workflow
from tests.cluster.test_access import Rules

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
RUN_S = 200
PATIENCE_S = 60.0
# A run ends with the first round in which something is wrong; a busy machine may need more than one.
SMALL = ("--clients", "1", "--callers", "6", "--rounds", "5", "--seed", "7")


def verify(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "orchestrator", "verify", *arguments], env=ENVIRONMENT | environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_S, check=False)
    print(done.stdout)
    return done


# -- a cluster of its own ----------------------------------------------------------------------------------------------

@pytest.fixture
def networks() -> None:
    """Only where the kernel lets us; the machine that checks every change must be such a one."""
    reason = namespaces.obstacle()
    if reason and os.environ.get("CI"):
        pytest.fail(f"no cluster of its own can be made: {reason}")
    if reason:
        pytest.skip(reason)


@pytest.mark.long
@pytest.mark.usefixtures("networks")
def test_a_short_run_bears_kills_and_a_partition(tmp_path: Path) -> None:
    kinds = ("kill the leader", "partition", "kill a worker")
    files = {name: tmp_path / name for name in ("report.json", "plot.svg", "runs.md", "history.jsonl")}
    done = verify("--seed", "11", "--rounds", "3", *(word for kind in kinds for word in ("--only", kind)),
                  "--json", str(files["report.json"]), "--plot", str(files["plot.svg"]),
                  "--table", str(files["runs.md"]), "--history", str(files["history.jsonl"]))
    assert done.returncode == exits.DONE, done.stdout[-3_000:]
    report = json.loads(files["report.json"].read_text())
    assert report["verdict"] == "no violation" and report["faults"] == dict.fromkeys(sorted(kinds), 1)
    assert report["operations"] > 300 and report["objects"] > 100 and report["undecided"] == 0
    assert {row["kind"] for row in report["by_fault"]} == {"no fault", *kinds}
    history = [json.loads(line) for line in files["history.jsonl"].read_text().splitlines()]
    assert [line["at"] for line in history] == sorted(line["at"] for line in history)
    assert sum(line["line"] == "begun" for line in history) >= report["operations"]
    assert files["plot.svg"].read_text().count('class="fault"') == 3
    assert "| partition | 1 |" in files["runs.md"].read_text()


# -- one that has a name -----------------------------------------------------------------------------------------------

class Operator:
    """One node, whose operator can stop it and let it go on, and writes down when that was asked for."""

    def __init__(self, cluster: LocalCluster, token_file: Path, cluster_id: str, folder: Path) -> None:
        self.cluster = cluster
        self.token_file = token_file
        self.cluster_id = cluster_id
        self.log = folder / "log"
        self.record = folder / "run.undo"
        [process] = [node.process for node in cluster.nodes.values() if node.process is not None]
        stop = f"echo stop {{node}} {{host}} >> {self.log}; kill -STOP {process.pid}"
        go_on = f"echo go-on {{node}} {{host}} >> {self.log}; kill -CONT {process.pid}"
        self.keeping = ("--keep", str(folder / "files"), "--token-file", str(token_file))
        self.arguments = ("--address", ",".join(cluster.endpoints), "--record", str(self.record), *self.keeping,
                          "--fault", f"stop={stop}", "--undo", f"stop={go_on}")

    @property
    def lines(self) -> list[str]:
        return [line.split()[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def allowed(self) -> tuple[str, ...]:
        return (*self.arguments, "--yes-break", self.cluster_id)

    def client(self) -> Client:
        return Client(self.cluster.endpoints, token_file=self.token_file, deadline_s=PATIENCE_S)

    async def left(self) -> list[str]:
        """Names of what there is in the cluster besides what was there before."""
        async with self.client() as client:
            names = [each.name async for each in client.search()]
            names += [each["name"] async for each in client.workflow_definitions()]
            names += [each["name"] async for each in client.task_definitions()]
        return [name for name in names if name != "ours"]

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A run that is in the middle of a fault."""
        command = [sys.executable, "-m", "orchestrator", "verify", *self.allowed, "--only", "stop", *arguments]
        process = await asyncio.create_subprocess_exec(*command, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                                                       stderr=subprocess.DEVNULL)
        try:
            await until(lambda: "stop" in self.lines, "the fault")
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def until(probe: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not probe():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain for {what}"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, Path, str]]:
    """For all tests of this file, with rules who may do what, and an owner's token: each must leave it as it was."""
    folder = tmp_path_factory.mktemp("named")
    rules = Rules(folder)
    rules.write()
    token_file = folder / "owner.token"
    token_file.write_text(rules.tokens["owner"])
    cluster = LocalCluster(folder / "cluster", 1, node_settings=rules.settings)

    async def begin() -> str:
        await cluster.start()
        await cluster.wait_ready()
        ours = Workflow("ours")
        ours.wait(signal="never")
        async with Client(cluster.endpoints, token_file=token_file) as client:
            await client.start(ours, {}, id="ours-1")
            return (await client.status()).cluster_id

    try:
        yield cluster, token_file, asyncio.run(begin())
    finally:
        asyncio.run(cluster.stop())


@pytest.fixture
def operator(named: tuple[LocalCluster, Path, str], tmp_path: Path) -> Operator:
    return Operator(*named, tmp_path)


@pytest.mark.parametrize("cluster_id", ["", "0123456789abcdef0123456789abcdef"])
async def test_only_the_cluster_that_may_be_broken_is(operator: Operator, cluster_id: str) -> None:
    allowed = ("--yes-break", cluster_id) if cluster_id else ()
    done = await asyncio.to_thread(verify, *operator.arguments, *allowed)
    assert done.returncode == (exits.REJECTED if cluster_id else exits.USAGE)
    assert operator.lines == [] and not operator.record.exists()
    assert await operator.left() == []


async def test_it_cleans_up(operator: Operator, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = await asyncio.to_thread(verify, *operator.allowed, "--only", "stop", "--rounds", "1", "--json",
                                   str(report), "--clients", "1")
    assert done.returncode == exits.DONE, done.stdout[-3_000:]
    assert operator.lines == ["stop", "go-on"] and "stop a 127.0.0.1" in operator.log.read_text()
    assert await operator.left() == [] and not operator.record.exists()
    assert json.loads(report.read_text())["faults"] == {"stop": 1}
    async with operator.client() as client:
        assert (await client.get("ours-1")).status == "RUNNING"


async def test_who_is_told_to_stop_undoes_everything(operator: Operator) -> None:
    """However often."""
    async with operator.running("--clients", "1") as process:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == exits.INTERRUPTED
    assert operator.lines == ["stop", "go-on"]
    assert await operator.left() == [] and not operator.record.exists()


@pytest.mark.long
async def test_what_a_killed_run_has_left_is_undone_by_its_record(operator: Operator) -> None:
    async with operator.running("--clients", "1") as process:
        process.kill()
        await process.wait()
    assert operator.lines == ["stop"] and operator.record.exists()
    done = await asyncio.to_thread(verify, "--undo", str(operator.record), "--token-file",
                                   str(operator.token_file))
    assert done.returncode == exits.DONE
    assert operator.lines == ["stop", "go-on"] and not operator.record.exists()
    assert await operator.left() == []


async def test_what_can_not_be_undone_is_said(operator: Operator) -> None:
    at = operator.arguments.index("--undo")
    arguments = [*operator.allowed[:at], "--undo", "stop=exit 9", *operator.allowed[at + 2 :], "--only", "stop"]
    arguments[arguments.index("--fault") + 1] = f"stop=echo stop >> {operator.log}"
    done = await asyncio.to_thread(verify, *arguments, "--rounds", "1", "--clients", "1")
    assert done.returncode == exits.NOT_UNDONE
    assert f"orchestrator verify --undo {operator.record}" in done.stdout and "exit code 9" in done.stdout
    assert operator.record.exists() and await operator.left() == []


CALLER = ("--caller-module", "tests.verify.forgetful_caller")
LABOURER = ("--labourer-module", "tests.verify.mistaken_labourer")


@pytest.mark.parametrize(("mistake", "module", "promise"), [
    ("hide", CALLER, "order"), ("invent", LABOURER, "attempts"), ("careless", LABOURER, "compensation"),
])
async def test_a_mistake_is_found(
    operator: Operator, tmp_path: Path, mistake: str, module: tuple[str, str], promise: str
) -> None:
    report = tmp_path / "report.json"
    nothing = ("--address", ",".join(operator.cluster.endpoints), "--yes-break", operator.cluster_id,
               "--record", str(operator.record), *operator.keeping, "--fault", "none=true", "--undo", "none=true",
               "--only", "none")
    done = await asyncio.to_thread(verify, *nothing, *SMALL, *module, "--json", str(report), MISTAKE=mistake)
    assert done.returncode == exits.VIOLATED, done.stdout[-3_000:]
    found: list[dict[str, Any]] = json.loads(report.read_text())["violations"]
    assert promise in {each["promise"] for each in found}
    assert any(each["excerpt"] for each in found)
    assert await operator.left() == []
