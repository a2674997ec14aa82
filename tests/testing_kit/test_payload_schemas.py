"""JSON schemas of payloads in a whole cluster: nodes look at them, whichever of them dies."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.testing import Cluster, every_leader_kill
from orchestrator_client import InvalidRequest, Workflow, WorkflowFailed, task

NUMBERS = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}


@task(input_schema=("numbers", 1), output_schema=NUMBERS)
async def double(n: int) -> dict[str, Any]:
    return {"n": 2 * n}


@task(name="spoil", output_schema="numbers")
async def spoil(n: int) -> dict[str, Any]:
    return {"n": -n}


def doubling(*, name: str = "doubling", spoilt: bool = False) -> Workflow:
    built = Workflow(name, input_schema="numbers", output_schema=NUMBERS)
    done = built.step(spoil if spoilt else double, n=built.input.n)
    built.returns(n=done.n)
    return built


async def test_what_keeps_its_schemas_completes(cluster: Cluster) -> None:
    await cluster.client.schemas.register("numbers", NUMBERS)
    calls = cluster.serve(double)
    run = await cluster.client.start(doubling(), {"n": 4})
    assert (await run.wait()).output == {"n": 8}
    assert calls.effects == ["double"]
    with pytest.raises(InvalidRequest, match=r"\$\.n: 'four' is not of type 'integer'") as refused:
        await cluster.client.start(doubling(), {"n": "four"})
    assert refused.value.reason == "SCHEMA_VIOLATION"


async def test_what_violates_them_fails_with_a_reason(cluster: Cluster) -> None:
    await cluster.client.schemas.register("numbers", NUMBERS)
    cluster.serve(spoil)
    run = await cluster.client.start(doubling(spoilt=True), {"n": 4})
    with pytest.raises(WorkflowFailed, match=r"its output violates the schema 'numbers': \$\.n: -4 is less than"):
        await run.result()


async def test_a_sub_workflow_is_looked_at_where_it_begins(cluster: Cluster) -> None:
    await cluster.client.schemas.register("numbers", NUMBERS)
    await cluster.client.register(doubling())
    sub = {"name": "sub", "taskReferenceName": "sub", "type": "SUB_WORKFLOW"}
    sub |= {"subWorkflowParam": {"name": "doubling"}, "inputParameters": {"n": "${workflow.input.n}"}}
    run = await cluster.client.start({"name": "parent", "version": 1, "tasks": [sub]}, {"n": 0})
    with pytest.raises(WorkflowFailed, match="the workflow's input violates the schema 'numbers'"):
        await run.result()


@every_leader_kill(at_most=12, seed=5)
async def test_each_payload_is_looked_at_though_leaders_die(cluster: Cluster) -> None:
    await cluster.client.schemas.register("numbers", NUMBERS)
    calls = cluster.serve(double)
    run = await cluster.client.start(doubling(), {"n": 4}, id="doubling")
    execution = await run.wait()
    assert (execution.status, execution.output) == ("COMPLETED", {"n": 8})
    assert len({call.key for call in calls.all}) == 1
