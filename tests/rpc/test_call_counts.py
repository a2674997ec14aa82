"""Each call is counted once when it has ended, under the code that its caller has seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator_api.v1 import cluster_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.rpc.bench import Bench, until
from tests.rpc.guarding import DENIED, NOT_FOUND, Guarded, guarded, refused
from tests.telemetry.prometheus import samples


@pytest.fixture
async def guard(bench: Bench, tmp_path: Path) -> AsyncIterator[Guarded]:
    bench.order("pay")
    async with guarded(bench, tmp_path) as made:
        yield made


def counted(guard: Guarded) -> dict[str, float]:
    found = samples(guard.metrics.page()[0])
    name = "orchestrator_grpc_calls_total"
    return {series.removeprefix(name): value for series, value in found.items() if series.startswith(name)}


async def test_calls_are_counted_by_method_and_code(guard: Guarded) -> None:
    missing = pb.GetWorkflowRequest(workflow_id="no")
    assert await refused(guard.as_("reader").workflows.GetWorkflow(missing)) == NOT_FOUND
    assert await refused(guard.as_("nobody").workflows.GetWorkflow(missing)) == DENIED
    await guard.as_("admin").cluster.GetRetention(cluster_pb2.GetRetentionRequest())
    assert counted(guard) == {
        "{code=NOT_FOUND,method=WorkflowService/GetWorkflow}": 1,
        "{code=PERMISSION_DENIED,method=WorkflowService/GetWorkflow}": 1,
        "{code=OK,method=ClusterService/GetRetention}": 1,
    }
    found = samples(guard.metrics.page()[0])
    assert found["orchestrator_grpc_call_seconds_count{method=WorkflowService/GetWorkflow}"] == 2


async def test_a_stream_is_counted_when_it_has_ended_also_if_its_caller_has_gone(
    bench: Bench, guard: Guarded
) -> None:
    bench.driver.start("order", "w")
    watching = guard.as_("admin").workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await watching.read()
    assert not counted(guard)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching.read()
    await until("the stream to end", lambda: bool(counted(guard)))
    assert counted(guard) == {"{code=CANCELLED,method=WorkflowService/WatchWorkflow}": 1}
