"""A cluster that has no room for starts goes on with what executions themselves start."""

from __future__ import annotations

import pytest

from orchestrator.testing import Cluster, fail
from orchestrator.testing import cluster as kit
from orchestrator_client import Overloaded, TerminalError, Workflow, task


@task
async def act() -> None: ...


@task
async def mourn(workflowId: str, reason: str) -> str:
    return f"{workflowId}: {reason}"


def failing() -> Workflow:
    flow = Workflow("flow", failure_workflow="mourning")
    flow.step(act)
    return flow


def mourning() -> Workflow:
    flow = Workflow("mourning")
    flow.returns(said=flow.step(mourn, flow.input.workflowId, flow.input.reason))
    return flow


def test_a_failure_workflow_is_started_without_room_for_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admission refuses what callers start, and nothing that an execution owes: its failure workflow is not lost."""
    monkeypatch.setitem(kit.SETTINGS, "max_live_executions", 1)

    async def scenario(cluster: Cluster) -> None:
        client = cluster.client
        await client.register(failing(), mourning())
        run = await client.start("flow", id="flow-1")
        with pytest.raises(Overloaded, match="live_executions"):
            await client.start("flow", id="flow-2")
        cluster.serve(fail(act, TerminalError("NO", "broken")), mourn)
        ended = await run.wait()
        assert ended.status == "FAILED"
        mourned = await client.run(ended.output["conductor.failure_workflow"]).wait()
        assert mourned.output["said"].startswith("flow-1: ") and "broken" in mourned.output["said"]

    with Cluster(nodes=1) as cluster:
        cluster.run(scenario(cluster))
