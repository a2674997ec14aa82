"""Sub-workflows with an idempotency key: what is there is done once, whoever waits for it and whoever leads."""

from __future__ import annotations

from typing import Any

from orchestrator.testing import Cluster, every_leader_kill
from orchestrator_client import Workflow, task


@task
async def weigh(order: int) -> dict[str, Any]:
    return {"grams": 100 * order}


def weighing() -> Workflow:
    built = Workflow("weighing")
    built.returns(grams=built.step(weigh, order=built.input.order).grams)
    return built


def shipping() -> dict[str, Any]:
    keyed = {"name": "weighing", "idempotencyKey": "weigh-${workflow.input.order}"}
    weighed = {
        "name": "weighed",
        "taskReferenceName": "weighed",
        "type": "SUB_WORKFLOW",
        "subWorkflowParam": {**keyed, "idempotencyStrategy": "RETURN_EXISTING"},
        "inputParameters": {"order": "${workflow.input.order}"},
    }
    return {"name": "shipping", "tasks": [weighed], "outputParameters": {"grams": "${weighed.output.grams}"}}


@every_leader_kill(at_most=10, seed=3)
async def test_it_is_done_once_and_each_has_its_output(cluster: Cluster) -> None:
    calls = cluster.serve(weigh)
    await cluster.client.register(weighing())
    first = await cluster.client.start(shipping(), {"order": 7}, id="first")
    second = await cluster.client.start(shipping(), {"order": 7}, id="second")
    ends = [await run.wait() for run in (first, second)]
    assert [(end.status, end.output) for end in ends] == [("COMPLETED", {"grams": 700})] * 2
    assert len({call.key for call in calls.all}) == 1
