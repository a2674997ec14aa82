"""A follower that was away catches up: by the log, or by a snapshot where the log does not reach back so far."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, TaskContext, Workflow, task
from tests.cluster.conftest import StartCluster
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import caught_up, check_same_content, metric
from tests.cluster.workload import PATIENCE_S, Load, arithmetic, working

# Kept for slow followers: next to nothing, in the smallest files.
SHORT_JOURNAL = {"journal_segment_bytes": 64 * 1024, "journal_tail_entries": 10, "journal_tail_bytes": 64 * 1024}
INSTALLED = "orchestrator_snapshots_installed_total"


@dataclass
class Letter:
    text: str


async def follower_of(cluster: LocalCluster) -> str:
    leader = await cluster.wait_leader()
    return next(name for name in cluster.nodes if name != leader)


async def goes_on_without_the_leader(cluster: LocalCluster, load: Load) -> None:
    """The majority now needs the one that was away."""
    leader = await cluster.wait_leader()
    await cluster.kill_node(leader)
    await load.progress()
    cluster.start_node(leader)
    await cluster.wait_ready()


async def test_after_a_short_absence_the_log_is_enough(cluster: LocalCluster, client: Client, ledger: Ledger) -> None:
    workflow, tasks = arithmetic(ledger)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        absent = await follower_of(cluster)
        await cluster.kill_node(absent)
        await load.progress(200)
        cluster.start_node(absent)
        await cluster.wait_ready()
        await caught_up(cluster, absent)
        assert await metric(cluster.nodes[absent], INSTALLED) == 0
        await goes_on_without_the_leader(cluster, load)
    await ledger.check(client)
    await check_same_content(cluster)


async def test_after_a_long_absence_a_snapshot_is_installed(start_cluster: StartCluster, ledger: Ledger) -> None:
    cluster = await start_cluster(**SHORT_JOURNAL)
    workflow, tasks = arithmetic(ledger)
    async with Client(cluster.endpoints) as client:
        async with working(client, tasks), Load(client, ledger, workflow) as load:
            await load.progress()
            absent = await follower_of(cluster)
            await cluster.kill_node(absent)
            await write_letters(client, ledger)
            cluster.start_node(absent)
            await cluster.wait_ready()
            await caught_up(cluster, absent)
            assert await metric(cluster.nodes[absent], INSTALLED) >= 1
            await goes_on_without_the_leader(cluster, load)
        await ledger.check(client)
    await check_same_content(cluster)


async def write_letters(client: Client, ledger: Ledger, *, letters: int = 200, text: str = "x" * 4_000) -> None:
    """More than the journal keeps; the payloads are rows of their own, which the snapshot must have, too."""
    @task
    async def read(letter: str, ctx: TaskContext) -> str:
        ledger.runs(ctx)
        return letter

    workflow = Workflow("letter", input=Letter)
    workflow.returns(text=workflow.step(read, workflow.input.text))
    async with working(client, [read], worker_id="reader"):
        runs = [await client.start(workflow, Letter(f"{n} {text}"), id=f"letter-{n}") for n in range(letters)]
        for n, run in enumerate(runs):
            ledger.acknowledge(run.workflow_id, {"text": f"{n} {text}"})
        for run in runs:
            await run.result(PATIENCE_S)
