"""Processes are started, stopped, killed, paused and found; none outlives its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from orchestrator.cli import local_cluster
from orchestrator.cli.local_cluster import LocalCluster, LocalClusterError
from orchestrator.config import load
from tests.cli.fakes import FakeCluster


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.02)


async def test_a_cluster_starts_leads_and_stops(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    cluster.lead("b")
    async with cluster:
        assert await cluster.leader() == "b"
        assert await cluster.wait_ready() == "b"
        status = await cluster.status("a")
        assert status is not None and status.node == "a"
        pids = [node.process.pid for node in cluster.nodes.values() if node.process]
        assert len(set(cluster.endpoints)) == 3 and len(pids) == 3
    assert not any(node.running for node in cluster.nodes.values())
    wait_gone(pids)


async def test_a_cluster_that_was_stopped_starts_again(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    cluster.lead("b")
    for _ in range(2):
        await cluster.start()
        assert await cluster.wait_ready() == "b"
        await cluster.stop()


async def test_nodes_die_pause_and_come_back_one_by_one(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    cluster.lead("a")
    async with cluster:
        await cluster.kill_node("a")
        assert cluster.nodes["a"].exit_code == -signal.SIGKILL
        assert await cluster.leader() is None
        with pytest.raises(LocalClusterError, match="node a ended with exit code -9\nI am a"):
            await cluster.wait_ready()
        cluster.lead("b")
        assert await cluster.wait_leader(other_than="a") == "b"
        cluster.start_node("a")
        assert await cluster.wait_ready() == "b"
        cluster.pause("b")
        assert await cluster.status("b") is None and await cluster.leader() is None
        cluster.resume("b")
        assert await cluster.leader() == "b"
        cluster.pause("c")
        assert await cluster.stop_node("c") == -signal.SIGTERM
        with pytest.raises(LocalClusterError, match="not running"):
            cluster.pause("c")
        with pytest.raises(LocalClusterError, match="running already"):
            cluster.start_node("a")


async def test_a_node_that_can_not_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    cluster.lead("a")
    (tmp_path / "b.fails").touch()
    with pytest.raises(LocalClusterError, match=r"node b ended with exit code 1\n(?s:.*)disk on fire"):
        async with cluster:
            pass
    assert not any(node.running for node in cluster.nodes.values())


async def test_without_a_leader_the_wait_ends_and_says_what_the_nodes_say(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path, nodes=1)
    cluster.lead("")
    await cluster.start()
    try:
        with pytest.raises(LocalClusterError, match=r"no agreed leader in 1\.5 s; the nodes say \{'a': 'no leader'\}"):
            await cluster.wait_ready(timeout_s=1.5)
    finally:
        await cluster.stop()


def test_a_directory_is_used_again_with_its_ports_and_identities(tmp_path: Path) -> None:
    first = LocalCluster(tmp_path, node_settings={"flush_interval_ms": 50})
    first.prepare()
    made = (first.nodes["c"].data_dir / "node.json").read_bytes()
    again = LocalCluster(tmp_path, base_port=9_000)
    again.prepare()
    assert again.addresses == first.addresses
    assert (again.nodes["c"].data_dir / "node.json").read_bytes() == made
    config = load(first.nodes["a"].config_file, {}, {})
    assert config.node == "a" and config.flush_interval_ms == 1_000  # not asked for the second time


def test_a_base_port_gives_ports_that_can_be_remembered(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, base_port=7_400)
    assert cluster.endpoints == ["127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402"]
    assert str(cluster.nodes["b"].peer_address) == "127.0.0.1:7501"
    assert str(cluster.nodes["c"].metrics_address) == "127.0.0.1:7602"


def test_free_ports_are_different_and_below_those_of_outgoing_connections() -> None:
    ports = [next(local_cluster.free_ports()) for _ in range(3)]
    assert all(20_000 <= port < 32_000 for port in ports)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a stopped process that its parent is gone")
def test_no_process_is_left_when_the_owner_is_killed_not_even_a_paused_one(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, pathlib, sys
        from tests.cli.fakes import FakeCluster
        async def main():
            cluster = FakeCluster(pathlib.Path(sys.argv[1]))
            cluster.lead("a")
            await cluster.start()
            await cluster.wait_ready()
            cluster.pause("b")
            print(*(node.process.pid for node in cluster.nodes.values()), flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)],
                             stdout=subprocess.PIPE, env=environment, text=True)
    assert owner.stdout is not None
    pids = [int(word) for word in owner.stdout.readline().split()]
    assert len(pids) == 3 and all(map(alive, pids))
    owner.kill()
    owner.wait()
    wait_gone(pids)
    owner.stdout.close()


async def test_real_nodes_elect_a_leader_and_another_when_it_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("orchestrator.node", exc_type=ImportError)
    async with LocalCluster(tmp_path) as cluster:
        first = await cluster.leader()
        assert first is not None
        await cluster.kill_node(first)
        second = await cluster.wait_leader(other_than=first)
        assert second != first
        cluster.start_node(first)
        await cluster.wait_ready()
        stopped = await asyncio.gather(*(cluster.stop_node(name) for name in cluster.nodes))
        assert stopped == [0, 0, 0]
