"""Workers of a test do what workers do, note it, and follow their scripts."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from orchestrator.testing import Cluster, crash, fail, slow
from orchestrator_client import Execution, TaskContext, TerminalError, Workflow, WorkflowFailed, task
from tests.testing_kit.shop import ORDER, Charge, Order, charge, refund, release, reserve, saga, ship


async def ended(cluster: Cluster) -> Execution:
    run = await cluster.client.start(saga, ORDER, id="order-1")
    return await run.wait()


async def test_every_call_is_noted_with_what_it_was_given(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, charge, ship)
    execution = await ended(cluster)
    assert execution.output == {"tracking": "tracking 17"}
    assert [call.name for call in calls.all] == calls.effects == ["reserve", "charge", "ship"]
    [paid] = calls.of(charge)
    assert paid.input == {"order": ORDER}
    assert (paid.workflow_id, paid.reference, paid.attempt, paid.state) == ("order-1", "charge", 1, "COMPLETED")
    assert calls.of("ship")[0].input == {"order": ORDER, "receipt": f"receipt {paid.key}"}
    assert len({call.key for call in calls.all}) == 3
    assert [call.token for call in calls.all] == sorted({call.token for call in calls.all})


async def test_a_terminal_error_turns_the_saga_round(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, charge, fail(ship, TerminalError("NO_TRUCKS", "all out")))
    run = await cluster.client.start(saga, ORDER)
    with pytest.raises(WorkflowFailed, match="NO_TRUCKS: all out") as failed:
        await run.result()
    assert failed.value.compensation.state == "COMPLETE"
    assert calls.effects == ["reserve", "charge", "refund", "release"]
    [shipped] = calls.of(ship)
    assert (shipped.state, shipped.took_effect) == ("FAILED", False)
    assert isinstance(shipped.error, TerminalError)
    assert calls.of(refund)[0].input["done"] == Charge(f"receipt {calls.of(charge)[0].key}")


async def test_a_failure_passes_after_so_many_times(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, fail(charge, ConnectionError, times=3), ship)
    assert (await ended(cluster)).status == "COMPLETED"
    assert [call.state for call in calls.of(charge)] == ["FAILED", "FAILED", "FAILED", "COMPLETED"]
    assert [call.attempt for call in calls.of(charge)] == [1, 2, 3, 4]
    assert calls.effects == ["reserve", "charge", "ship"]


async def test_a_failure_that_does_not_pass_uses_up_the_attempts(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, fail(charge, ValueError("no")), ship)
    execution = await ended(cluster)
    assert (execution.status, execution.failed_task) == ("FAILED", "charge")
    assert len(calls.of(charge)) == 5
    assert calls.effects == ["reserve", "release"]


async def test_a_compensation_can_be_told_to_fail(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, charge, fail(ship, TerminalError("NO")), fail(refund, OSError("bank"), times=2))
    assert (await ended(cluster)).compensation.state == "COMPLETE"
    assert [call.state for call in calls.of(refund)] == ["FAILED", "FAILED", "COMPLETED"]
    assert calls.effects == ["reserve", "charge", "refund", "release"]


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_worker_that_dies_is_started_again_and_the_step_too(cluster: Cluster, after_effect: bool) -> None:
    calls = cluster.serve(reserve, crash(charge, after_effect=after_effect), ship)
    began = cluster.now
    assert (await ended(cluster)).status == "COMPLETED"
    first, second = calls.of(charge)
    assert (first.state, first.took_effect) == ("RUNNING", after_effect)
    assert (second.state, second.key) == ("COMPLETED", first.key)
    # Which is known once its session has ended.
    assert timedelta(seconds=10) < cluster.now - began < timedelta(seconds=15)
    assert calls.effects == ["reserve", "charge", "ship"]


async def test_another_worker_takes_over(cluster: Cluster) -> None:
    dying = cluster.serve(reserve, charge, crash(ship), slots=1)
    run = await cluster.client.start(saga, ORDER)
    while not dying.of(ship):  # noqa: ASYNC110 - calls have no event
        await asyncio.sleep(1)
    other = cluster.serve(ship)
    assert (await run.result()).tracking == "tracking 17"
    assert [call.name for call in other.all] == ["ship"]


async def test_scripts_go_around_each_other(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, slow(fail(charge, OSError, times=1), 5), ship)
    began = cluster.now
    assert (await ended(cluster)).status == "COMPLETED"
    assert timedelta(seconds=10) < cluster.now - began < timedelta(seconds=11)
    assert [call.state for call in calls.of(charge)] == ["FAILED", "COMPLETED"]


@task
def in_a_thread(ctx: TaskContext) -> str:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    ctx.heartbeat({"from": "a thread"})
    return threading.current_thread().name


async def test_a_plain_function_runs_in_a_thread(cluster: Cluster) -> None:
    workflow = Workflow("thread")
    workflow.returns(name=workflow.step(in_a_thread))
    cluster.serve(in_a_thread)
    run = await cluster.client.start(workflow)
    assert (await run.result()).name != threading.main_thread().name
    assert await asyncio.to_thread(threading.current_thread) is not threading.main_thread()


@task
async def fetches(order: Order) -> None:
    await asyncio.open_connection("example.org", 80)


async def test_the_world_outside_is_refused_with_a_reason(cluster: Cluster) -> None:
    workflow = Workflow("fetches", input=Order)
    workflow.step(fetches, workflow.input)
    calls = cluster.serve(fetches)
    with pytest.raises(WorkflowFailed, match="virtual time and no sockets"):
        await (await cluster.client.start(workflow, ORDER)).result()
    assert len(calls.all) == 5


async def test_what_is_served_must_be_tasks_and_each_once(cluster: Cluster) -> None:
    with pytest.raises(TypeError, match="is none"):
        cluster.serve(saga)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="is none"):
        fail(ended, OSError)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="'charge' is served twice"):
        cluster.serve(charge, fail(charge, OSError))


async def test_the_compensation_of_a_task_is_served_with_it(cluster: Cluster) -> None:
    first = cluster.serve(reserve, charge)
    second = cluster.serve(fail(ship, TerminalError("NO")))
    await ended(cluster)
    assert first.effects == ["reserve", "charge", "refund", "release"]
    assert [call.name for call in second.all] == ["ship"]
    assert [step.reference for step in (await cluster.client.get("order-1")).compensation.done] == ["charge", "reserve"]
    assert release.name in first.effects
