"""A backup of a running cluster becomes another cluster, which has everything that was acknowledged before."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.conftest import StartCluster
from tests.cluster.directories import configured, join, on_disk, refused, said
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import PATIENCE_S, Load, arithmetic, within, working


async def test_a_backup_under_load_becomes_another_cluster_of_three(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    file = tmp_path / "one.backup"
    ledger = Ledger()
    workflow, tasks = arithmetic(ledger)
    cluster = await start_cluster()
    async with Client(cluster.endpoints) as client, working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        before = dict(ledger.acknowledged)
        made = await said(cluster, "cluster", "backup", file)
        await load.progress()
    assert made["executions"] >= len(before)
    assert not file.with_name(file.name + ".partial").exists()
    assert (await said(cluster, "cluster", "backup", "verify", file))["content_hash"] == made["content_hash"]
    code, output = await refused(cluster, "cluster", "backup", file)
    assert code == 2 and "is there already" in output
    await cluster.stop(timeout_s=0)

    restored = configured(tmp_path / "restored")
    try:
        first = restored.nodes["a"]
        answer = await said(restored, "restore", file, "--config", first.config_file)
        assert answer["cluster_id"] != made["cluster_id"] and answer["recovery_epoch"] == 1
        applied, scanned = on_disk(first)
        assert (applied.index, f"{scanned:032x}") == (made["index"], made["content_hash"])
        await _goes_on(restored, before)
    finally:
        await restored.stop(timeout_s=0)


async def _goes_on(restored: LocalCluster, before: dict[str, object]) -> None:
    """The first node serves at once, the others join, and what was there completes, whoever has executed it."""
    restored.start_node("a")
    assert await restored.wait_leader() == "a"
    status = await restored.status("a")
    assert status is not None and status.worker_sessions == 0, "workers of the old cluster are in the backup"
    for name in ("b", "c"):
        await join(restored, name)
    ledger = Ledger()
    workflow, tasks = arithmetic(ledger)
    async with Client(restored.endpoints) as client, working(client, tasks):
        for workflow_id, expected in before.items():
            found = await within(client.wait(workflow_id, PATIENCE_S), f"{workflow_id} to end")
            assert (str(found.status), found.output) == ("COMPLETED", expected)
        async with Load(client, ledger, workflow, prefix="after") as load:
            await load.progress()
        await ledger.check(client)
    status = await restored.status("b")
    assert status is not None and status.recovery_epoch == 1 and status.faults_tolerable == 1
    await check_same_content(restored)
