"""Two of three disks are gone: one node goes on with what it has, and the others never come back with old data."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.conftest import StartCluster
from tests.cluster.directories import at, join, on_disk, refused, said
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import metric
from tests.cluster.workload import Load, arithmetic, eventually, working

# Nothing but the journal has what is acknowledged: the databases are far behind.
SELDOM_MS = 60_000


async def test_one_node_goes_on_and_the_others_are_rebuilt(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = await start_cluster(flush_interval_ms=SELDOM_MS)
    ledger = Ledger()
    workflow, tasks = arithmetic(ledger)
    async with Client(cluster.endpoints) as lasting:
        async with working(lasting, tasks), Load(lasting, ledger, workflow) as load:
            await load.progress()
        await _recovered(cluster, lasting, ledger, tmp_path)
        # A client that has known the old cluster goes on.
        async with working(lasting, tasks), Load(lasting, ledger, workflow, prefix="after") as load:
            await load.progress()
        await ledger.check(lasting)


async def _recovered(cluster: LocalCluster, lasting: Client, ledger: Ledger, tmp_path: Path) -> None:
    await eventually(lambda: _agree(cluster), "all nodes to have applied the same entries")
    survivor, *lost = sorted(cluster.nodes)
    node = cluster.nodes[survivor]
    code, output = await refused(cluster, "recover", "--config", node.config_file, *_give_up(lost))
    assert code == 3 and "in use by another process" in output
    for name in cluster.nodes:
        await cluster.kill_node(name)
    old = {name: tmp_path / f"old-{name}" for name in cluster.nodes}
    for name, copy in old.items():
        shutil.copytree(cluster.nodes[name].data_dir, copy)
    for name in lost:
        shutil.rmtree(cluster.nodes[name].data_dir)

    has = await said(cluster, "recover", "--config", node.config_file)
    assert has["members"] == sorted(cluster.nodes) and has["last_index"] > has["applied_index"]
    await _is_guarded(cluster, survivor, lost, has["cluster_id"])
    confirmed = ("--confirm", has["cluster_id"])
    begun = await said(cluster, "recover", "--config", node.config_file, *_give_up(lost), *confirmed)
    assert (begun["index"], begun["recovery_epoch"]) == (has["last_index"], 1)
    applied, scanned = on_disk(node)
    assert f"{scanned:032x}" == begun["content_hash"] and applied.index == has["last_index"]
    # What another node would have come to, had it been the one that is left.
    other = old[lost[0]]
    again = await said(cluster, "recover", "--data-dir", other, "--node", lost[0],
                       *_give_up(name for name in cluster.nodes if name != lost[0]), *confirmed)
    assert again["content_hash"] == begun["content_hash"]
    assert at(other / "state.db")[0].chain_hash == applied.chain_hash

    cluster.start_node(survivor)
    assert await cluster.wait_leader() == survivor
    await ledger.check(lasting)
    await _comes_back_in_vain(cluster, lost[1], old[lost[1]])
    for name in lost:
        await join(cluster, name)


def _give_up(names: object) -> list[str]:
    return [argument for name in names for argument in ("--give-up", name)]  # type: ignore[attr-defined]  # names


async def _agree(cluster: LocalCluster) -> bool:
    names = ("orchestrator_commit_index", "orchestrator_applied_index", "orchestrator_log_durable_index")
    return len({await metric(node, name) for node in cluster.nodes.values() for name in names}) == 1


async def _is_guarded(cluster: LocalCluster, survivor: str, lost: list[str], cluster_id: str) -> None:
    """Nothing is changed by mistake: every node is named, none of them answers, and the id is that of the cluster."""
    before = on_disk(cluster.nodes[survivor])
    command = ("recover", "--config", cluster.nodes[survivor].config_file)
    code, output = await refused(cluster, *command, *_give_up(lost[:1]), "--confirm", cluster_id)
    assert code == 2 and f"{lost[1]} would be given up" in output
    code, output = await refused(cluster, *command, *_give_up([*lost, "z"]), "--confirm", cluster_id)
    assert code == 2 and "z is no other member" in output
    code, output = await refused(cluster, *command, *_give_up(lost), "--confirm", "another")
    assert code == 2 and "nothing was changed" in output
    address = cluster.nodes[lost[0]].peer_address
    server = await asyncio.start_server(lambda reader, writer: writer.close(), address.host, address.port)
    try:
        code, output = await refused(cluster, *command, *_give_up(lost), "--confirm", cluster_id)
        assert code == 4 and f"{lost[0]} can be reached" in output
    finally:
        server.close()
        await server.wait_closed()
    assert on_disk(cluster.nodes[survivor]) == before


async def _comes_back_in_vain(cluster: LocalCluster, name: str, data: Path) -> None:
    """With its old disk, a node stops itself as soon as it hears of the recovered cluster."""
    node = cluster.nodes[name]
    shutil.copytree(data, node.data_dir)
    cluster.start_node(name)
    await eventually(lambda: node.exit_code is not None, f"node {name} to stop itself")
    assert node.exit_code == 4 and "it was given up when the cluster was recovered" in node.log_tail(200)
    status = await cluster.status(await cluster.wait_leader())
    assert status is not None and [each.name for each in status.nodes] == ["a"]
    shutil.rmtree(node.data_dir)
