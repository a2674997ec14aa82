"""Short runs of `tests.cluster.faults`: real processes lose power and their network; and what is lost is found."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.verify.machines import namespaces as network
from orchestrator.verify.machines.cluster import FaultyCluster
from orchestrator.verify.machines.disk import DiskSettings
from tests.cluster.faults.plan import plan
from tests.cluster.faults.session import Session
from tests.cluster.workload import eventually

pytestmark = pytest.mark.long

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
RUN_S = 280


def command(keep: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.cluster.faults", "--keep", str(keep), *arguments]


def run(keep: Path, *arguments: str) -> dict[str, Any]:
    """What the last line says, if nothing was violated."""
    done = subprocess.run(command(keep, *arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=RUN_S, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3_000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture
def networks() -> None:
    """Only where the kernel lets us; the machine that checks every change must be such a one."""
    reason = network.obstacle()
    if reason and os.environ.get("CI"):
        pytest.fail(f"the faults of networks can't be tested: {reason}")
    if reason:
        pytest.skip(reason)


def test_power_is_lost(tmp_path: Path) -> None:
    faults = "kill_leader,kill_all,kill_installing,pause_all,kill_worker,kill_client"
    page = tmp_path / "runs.md"
    # Of its own accord, and so beside networks where there can be any.
    assert plan(2).environment == "power loss"
    told = run(tmp_path / "kept", "--seed", "2", "--faults", faults, "--table", str(page))
    assert sum(told["rounds"].values()) == 6 and told["comparisons"] == 7
    assert told["writes lost"] > 0 and told["installed"] > 0 and told["acknowledgements"] > 100
    assert "| kill_leader, power loss | 1 |" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("networks")
def test_the_network_is_cut(tmp_path: Path) -> None:
    faults = "partition_leader,leader_unheard,leader_deaf,bridge,ring,loss,delay,held_back,clients_cut"
    assert plan(3, environment="network").nodes == 5
    told = run(tmp_path / "kept", "--seed", "3", "--environment", "network", "--faults", faults)
    assert sum(told["rounds"].values()) == 9 and told["elections"] > 0 and told["acknowledgements"] > 100


@pytest.mark.usefixtures("networks")
async def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    arguments = ("--seed", "4", "--environment", "network", "--faults", "partition_leader")
    process = await asyncio.create_subprocess_exec(
        *command(tmp_path, *arguments), env=ENVIRONMENT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while b" 1/1 " not in await process.stdout.readline():
        pass
    left = descendants(process.pid)
    # Three nodes and their namespaces, the relay, clients and workers.
    assert len(left) >= 11
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await eventually(lambda: not [pid for pid in left if alive(pid)], "all processes of the run to be gone")


def descendants(of: int) -> list[int]:
    children = [int(pid) for file in Path(f"/proc/{of}/task").glob("*/children") for pid in file.read_text().split()]
    return children + [pid for child in children for pid in descendants(child)]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def test_work_that_is_lost_is_found(tmp_path: Path) -> None:
    """Disks that only say that they have synced: everything since then is gone after a kill of all."""
    made = plan(5, environment="power loss")
    cluster = FaultyCluster(tmp_path / "cluster", 3, made.settings, DiskSettings())
    session = Session(cluster, tmp_path / "crowd", made.dice("crowd"))
    try:
        await session.start()
        await session.verify()
        for name in cluster.nodes:
            cluster.ignore_syncs(name)
        await session.progress()
        await session.crowd.pause()
        before = session.history.acknowledgements
        assert await session.history.check(session.client) == []
        for name in cluster.nodes:
            cluster.pause(name)
        for name in cluster.nodes:
            await cluster.kill_node(name)
            cluster.obey_syncs(name)
        await session.nodes_up()
        faults = await session.history.check(session.client, all_again=True)
    finally:
        await session.stop()
    assert before > 0 and cluster.writes_lost > 0
    assert [fault for fault in faults if fault.endswith("acknowledged, and lost")], faults
