"""From one node to three, to five, and back to three, on the same data and under load; nothing is lost on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.conftest import StartCluster
from tests.cluster.directories import join, refused, said
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import caught_up, check_same_content
from tests.cluster.test_replaced_node import orchestrator
from tests.cluster.workload import Load, arithmetic, eventually, working


async def test_one_three_five_three_under_load(start_cluster: StartCluster, tmp_path: Path) -> None:
    """Each change is made while starts come; a leader goes, too; and in the end one of three may die."""
    one = await start_cluster(1)
    # The same directory, with four more nodes, whose data are yet to be made.
    cluster = LocalCluster(one.directory, 5)
    for node in cluster.nodes.values():
        node.directory.mkdir(exist_ok=True)
        if node.name not in one.nodes:
            node.config_file.write_text(cluster._toml(node))
    cluster.nodes["a"] = one.nodes["a"]
    ledger = Ledger()
    workflow, tasks = arithmetic(ledger)
    try:
        async with Client(cluster.endpoints) as client, working(client, tasks):
            async with Load(client, ledger, workflow) as load:
                await load.progress()
                for name in ("b", "c", "d", "e"):
                    await join(cluster, name)
                    await load.progress(10)
                await _five(cluster)
                leader = await cluster.wait_leader()
                for name in (leader, next(name for name in "abc" if name != leader)):
                    await _removed(cluster, name)
                    await load.progress(10)
                    assert await cluster.stop_node(name) == 0
                    del cluster.nodes[name]
                await cluster.kill_node(await cluster.wait_leader())
                await load.progress()
                for node in cluster.nodes.values():
                    if not node.running:
                        cluster.start_node(node.name)
                await cluster.wait_ready()
            await ledger.check(client)
        for name in cluster.nodes:
            await caught_up(cluster, name)
        await check_same_content(cluster)
    finally:
        await cluster.stop(timeout_s=0)


async def _five(cluster: LocalCluster) -> None:
    """Two changes at once: one is made, or both are, one after the other; and two may fail."""
    status = await cluster.status(await cluster.wait_leader())
    assert status is not None and status.faults_tolerable == 2 and not status.membership_changing
    code, output = await refused(cluster, "cluster", "join", "--config", cluster.nodes["e"].config_file)
    assert code == 4 and "a member already" in output


async def _removed(cluster: LocalCluster, name: str) -> None:
    await said(cluster, "cluster", "remove", name)

    async def is_gone() -> bool:
        status = await cluster.status(await cluster.wait_leader())
        return status is not None and name not in [node.name for node in status.nodes]

    await eventually(is_gone, f"{name} to be a member no longer")


async def test_a_change_while_another_runs_is_refused_and_the_status_shows_it(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = await start_cluster(3)
    more = LocalCluster(cluster.directory, 5)
    for name in ("d", "e"):
        more.nodes[name].directory.mkdir()
        more.nodes[name].config_file.write_text(more._toml(more.nodes[name]))
    # Admitted, and not started: it never catches up.
    await said(cluster, "cluster", "join", "--config", more.nodes["d"].config_file)
    status = await cluster.status(await cluster.wait_leader())
    assert status is not None and status.membership_changing
    assert "not over yet" in (await orchestrator_text(cluster, "cluster", "status"))
    code, output = await refused(cluster, "cluster", "join", "--config", more.nodes["e"].config_file)
    assert code == 4 and "MEMBERSHIP_CHANGE_IN_PROGRESS" in output
    # Nothing is left behind of what was refused.
    assert await asyncio.to_thread(lambda: list(more.nodes["e"].data_dir.iterdir())) == []
    await said(cluster, "cluster", "remove", "d")
    status = await cluster.status(await cluster.wait_leader())
    assert status is not None and not status.membership_changing
    await said(cluster, "cluster", "join", "--config", more.nodes["e"].config_file)


async def orchestrator_text(cluster: LocalCluster, *arguments: str) -> str:
    """What people see."""
    code, output = await orchestrator(cluster, *arguments, as_json=False)
    assert code == 0, output
    return output
