"""Reads at a point of the log: as fresh as was asked for, whole, and of one moment."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.engine.commands import Continue, PauseWorkflow
from orchestrator.engine.model import Signal, Table
from orchestrator.engine.results import ClientSessionOpened, Done, Rejected
from orchestrator.replication.errors import LostLeadership, NotLeader
from orchestrator.rpc.backend import assembled
from orchestrator.rpc.errors import RpcFailure
from orchestrator_api.v1.common_pb2 import ReadOptions
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, soon


async def test_a_cold_execution_is_assembled_as_it_was_hot(bench: Bench) -> None:
    bench.driver.register(workflow("order", simple("book", undo="unbook"), simple("pay")))
    bench.driver.worker("s", "book", "pay", "unbook", slots=9)
    bench.start("w", b'{"big":"' + b"x" * 9000 + b'"}')
    bench.driver.give("book")
    hot = bench.driver.hot("w")
    rows = (dict(hot.tasks), dict(hot.records), dict(hot.signals), dict(hot.payloads), hot.execution)
    indexes = ({key: list(value) for key, value in hot.attempts_of.items()}, dict(hot.by_task_id), dict(hot.open))
    bench.go_cold("w")
    cold = await bench.backend().execution("default", "w")
    assert cold is not None
    assert (cold.tasks, cold.records, cold.signals, cold.payloads, cold.execution) == rows
    assert (cold.attempts_of, cold.by_task_id, cold.open) == indexes
    assert cold.records and cold.payloads
    assert bench.driver.state.execution(("default", "w")) is None


async def test_what_became_hot_while_it_was_read_is_taken_as_it_is_now(bench: Bench) -> None:
    bench.order("pay")
    bench.start("w")
    bench.go_cold("w")
    reading = asyncio.create_task(bench.backend().execution("default", "w"))
    await asyncio.sleep(0)
    bench.apply(PauseWorkflow("default", "w"))
    held = await soon("the execution", reading)
    assert held is bench.driver.hot("w") and held.execution.status.name == "PAUSED"


async def test_what_does_not_exist_is_none(bench: Bench) -> None:
    assert await bench.backend().execution("default", "nobody") is None


def test_rows_of_no_execution_are_refused() -> None:
    with pytest.raises(TypeError, match="first row"):
        assembled([(Table.SIGNAL, ("default", "w", 1), Signal(1, "go", b"{}", 1))])


async def test_a_read_waits_until_the_barriers_index_is_applied(bench: Bench) -> None:
    waited: list[int] = []

    async def wait_applied(index: int) -> None:
        waited.append(index)

    bench.wait_applied = wait_applied  # type: ignore[method-assign]
    bench.driver.index = 41
    backend = bench.backend()
    token = backend.token()
    bench.driver.index = 50
    await backend.read_point(ReadOptions())
    await backend.read_point(ReadOptions(stale_ok=True))
    await backend.read_point(ReadOptions(stale_ok=True, consistency_token=token))
    await backend.read_point(ReadOptions(consistency_token=token))
    assert waited == [50, 41, 41, 50]


@pytest.mark.parametrize("error", [NotLeader("n2"), LostLeadership("lost")])
async def test_a_read_that_no_quorum_confirms_is_not_answered(bench: Bench, error: Exception) -> None:
    bench.barrier_error = error
    with pytest.raises(type(error)):
        await bench.backend().read_point(ReadOptions())
    await bench.backend().read_point(ReadOptions(stale_ok=True))


async def test_a_command_has_the_result_that_its_caller_expects(bench: Bench) -> None:
    backend = bench.backend()
    assert await backend.submit(Continue(), Done) == Done()
    with pytest.raises(RpcFailure) as caught:
        await backend.submit(PauseWorkflow("default", "nobody"), Done)
    assert caught.value.reason == "WORKFLOW_NOT_FOUND"
    with pytest.raises(TypeError, match="Continue answered Done"):
        await backend.submit(Continue(), ClientSessionOpened)
    assert isinstance(await backend.submit_any(PauseWorkflow("default", "nobody"), None), Rejected)


async def test_only_a_leader_leads(bench: Bench) -> None:
    backend = bench.backend()
    backend.require_leading()
    bench.lose_leadership()
    with pytest.raises(NotLeader) as caught:
        backend.require_leading()
    assert caught.value.leader == "n2"
