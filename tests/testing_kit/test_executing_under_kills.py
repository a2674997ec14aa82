"""Synchronous execution and signals while leaders die: whoever waits goes on waiting, and a signal counts once."""

from __future__ import annotations

from typing import Any

from orchestrator.testing import Cluster, every_leader_kill
from orchestrator_client import task


@task
async def work(n: int) -> int:
    return n + 1


def one(reference: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": kind, **fields}


INNER = {
    "name": "inner", "version": 1, "schemaVersion": 2, "outputParameters": {"by": "${ask.output.by}"},
    "tasks": [one("work", "SIMPLE", inputParameters={"n": 1}), one("ask", "HUMAN"), one("again", "WAIT")],
}
OUTER = {
    "name": "outer", "version": 1, "schemaVersion": 2,
    "tasks": [one("sub", "SUB_WORKFLOW", subWorkflowParam={"name": "inner"})],
}


@every_leader_kill(at_most=15, seed=11)
async def test_a_caller_waits_on_and_a_signal_counts_once(cluster: Cluster) -> None:
    """Two tasks wait one after the other: a signal that was given twice would end both."""
    await cluster.client.register(work, INNER, OUTER)
    calls = cluster.serve(work)
    asked = await cluster.client.execute("outer", id="w", wait_s=120, return_strategy="BLOCKING_TASK")
    assert asked.task is not None and asked.task.reference == "ask"
    later = await cluster.client.signal_task("w", output={"by": "me"}, wait_s=120, return_strategy="BLOCKING_TASK")
    assert later is not None and later.task is not None and later.task.reference == "again"
    ended = await cluster.client.conductor.signal("w", wait_s=120)
    assert (ended["targetWorkflowId"], ended["targetWorkflowStatus"]) == ("w", "COMPLETED")
    assert ended["output"]["by"] == "me"
    assert len({call.key for call in calls.all}) == 1


async def test_the_time_of_a_wait_is_that_of_the_test(cluster: Cluster) -> None:
    await cluster.client.register(work, INNER, OUTER)
    waited = await cluster.client.execute("outer", id="w", wait_s=5)
    assert waited.timed_out and waited.target_status == "RUNNING"
