"""A worker dies in the middle of a step: another one gets it, with a higher fencing token and the same key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.verify.attempts import Ran
from orchestrator_client import Client
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.worker_process import worker_process
from tests.cluster.workload import PATIENCE_S, Gate, Number, eventually


@pytest.mark.parametrize("leader_dies_too", [False, True])
async def test_the_step_of_a_worker_that_was_killed_is_handed_to_another(
    cluster: LocalCluster, client: Client, ledger: Ledger, tmp_path: Path, leader_dies_too: bool
) -> None:
    def ran(name: str) -> list[Ran]:
        return Ran.lines(tmp_path / f"{name}.ran")

    async with worker_process("first", tmp_path, cluster.endpoints) as first:
        run = await client.start(Gate(ledger).workflow, Number(7), id="step")
        ledger.acknowledge("step", {"x": 7})
        await eventually(lambda: ran("first"), "the first worker to execute the step")
        first.kill()
        if leader_dies_too:
            leader = await cluster.wait_leader()
            await cluster.kill_node(leader)
            cluster.start_node(leader)
            await cluster.wait_ready()
        async with worker_process("second", tmp_path, cluster.endpoints):
            await eventually(lambda: ran("second"), "the second worker to execute the step")
            (tmp_path / "second.finish").touch()
            await run.result(PATIENCE_S)
    ledger.ran = ran("first") + ran("second")
    lost, done = (await run.get(tasks=True)).tasks
    assert (lost.status, done.status) == ("TIMED_OUT", "COMPLETED")
    assert lost.reason == "WORKER_LOST"
    assert (lost.worker_id, done.worker_id) == ("first", "second")
    assert done.fencing_token > lost.fencing_token
    assert done.idempotency_key == lost.idempotency_key
    await ledger.check(client, attempts_max=2)
    await check_same_content(cluster)
