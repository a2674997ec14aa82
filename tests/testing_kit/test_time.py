"""Time passes at once when nothing happens, for everybody alike, and never past what it should have brought."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from orchestrator.testing import Cluster, every_leader_kill, late, slow, virtual
from orchestrator_client import DeadlineExceeded, Retry, TaskContext, Workflow, WorkflowFailed, task
from tests.testing_kit.shop import ORDER, charge, refund, release, reserve, saga, ship

DAY_MS = 86_400_000


@task
async def note(text: str) -> str:
    return text


def waiting(**kind: object) -> Workflow:
    workflow = Workflow("waits")
    got = workflow.wait(**kind)  # type: ignore[arg-type]  # whatever wait() takes
    workflow.step(note, workflow.input.text)
    workflow.returns(got=got)
    return workflow


async def test_a_month_takes_no_time(cluster: Cluster) -> None:
    began, real = cluster.now, time.process_time()
    calls = cluster.serve(note)
    run = await cluster.client.start(waiting(duration_ms=30 * DAY_MS), {"text": "a"})
    await run.result()
    assert timedelta(days=30) <= cluster.now - began < timedelta(days=30, seconds=1)
    assert cluster.now - calls.all[0].at < timedelta(seconds=1)
    assert time.process_time() - real < 1.0  # hours, if heartbeats were sent


async def test_a_wait_is_neither_early_nor_late_by_the_tests_own_clock(cluster: Cluster) -> None:
    cluster.serve(note)
    run = await cluster.client.start(waiting(duration_ms=DAY_MS), {"text": "a"})
    await cluster.advance(hours=23, minutes=59, seconds=59)
    assert (await run.get()).status == "RUNNING"
    await cluster.advance(seconds=2)
    assert (await run.get()).status == "COMPLETED"


async def test_no_time_passes_for_calls_of_any_kind(cluster: Cluster) -> None:
    cluster.serve(note)
    run = await cluster.client.start(waiting(duration_ms=30 * DAY_MS), {"text": "a"})
    await cluster.client.schedules.put(
        {"name": "yearly", "cronExpression": "0 0 0 1 1 *", "startWorkflowRequest": {"name": "waits"}}
    )
    assert [each.name async for each in cluster.client.schedules.list()] == ["yearly"]
    assert [each async for each in cluster.client.events.handlers()] == []
    assert [each async for each in cluster.client.schemas.list()] == []
    assert (await run.get()).status == "RUNNING"


async def test_a_wait_until_a_time(cluster: Cluster) -> None:
    cluster.serve(note)
    until = cluster.now + timedelta(days=400)
    run = await cluster.client.start(waiting(until=until), {"text": "a"})
    await run.result()
    # Log time follows the clocks of the nodes, and may be a little behind the test's.
    assert timedelta(seconds=-1) < cluster.now - until < timedelta(seconds=1)


async def test_a_signal_ends_a_wait_when_the_test_gives_it(cluster: Cluster) -> None:
    cluster.serve(note)
    run = await cluster.client.start(waiting(signal="packed"), {"text": "a"})
    await cluster.advance(days=3)
    await run.signal("packed", {"by": "me"})
    assert (await run.result()).got.by == "me"


async def test_the_deadline_of_a_result_is_the_tests(cluster: Cluster) -> None:
    run = await cluster.client.start(waiting(duration_ms=DAY_MS), {"text": "a"})
    began = cluster.now
    with pytest.raises(DeadlineExceeded, match="was still RUNNING after 100 s"):
        await run.result(timeout_s=100)
    assert timedelta(seconds=100) <= cluster.now - began < timedelta(seconds=101)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await run.result()
    assert timedelta(seconds=150) <= cluster.now - began < timedelta(seconds=152)


async def test_a_task_may_take_hours_and_its_worker_stays_alive(cluster: Cluster) -> None:
    calls = cluster.serve(slow(reserve, 7200), charge, ship)
    began = cluster.now
    await (await cluster.client.start(saga, ORDER)).result()
    assert timedelta(hours=2) <= cluster.now - began < timedelta(hours=2, seconds=1)
    assert [call.attempt for call in calls.all] == [1, 1, 1]


async def test_a_task_times_out_at_its_time_and_is_tried_again(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, slow(charge, 60, times=2), ship)
    await (await cluster.client.start(saga, ORDER)).result()
    first, second, third = calls.of(charge)
    assert (first.state, second.state, third.state) == ("CANCELLED", "CANCELLED", "COMPLETED")
    # A timeout of 10 s, and delays of 200 and 400 ms.
    for earlier, later, seconds in ((first, second, 10.2), (second, third, 10.4)):
        passed = (later.at - earlier.at).total_seconds()
        assert seconds - 0.05 < passed < seconds + 0.5
    assert len({call.key for call in calls.of(charge)}) == 1
    assert first.token < second.token < third.token


async def test_a_late_result_does_not_count_though_the_task_took_effect(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, late(charge, 3600), ship)
    run = await cluster.client.start(saga, ORDER)
    with pytest.raises(WorkflowFailed) as failed:
        await run.result()
    assert [call.took_effect for call in calls.of(charge)] == [True] * 5
    assert calls.effects == ["reserve", "charge", "refund", "release"]
    assert [step.outcome_unknown for step in failed.value.compensation.done] == [True, False]
    assert [call.input["done"] for call in calls.of(refund)] == [None]
    assert calls.of(release)


@task(response_timeout_ms=30_000, retry=Retry.none())
async def beats(times: int, ctx: TaskContext) -> int:
    for number in range(times):
        await asyncio.sleep(20)
        ctx.heartbeat({"at": number})
    await asyncio.sleep(40)
    return times


async def test_a_task_that_falls_silent_is_given_up(cluster: Cluster) -> None:
    workflow = Workflow("beats")
    workflow.step(beats, workflow.input.times)
    cluster.serve(beats)
    began = cluster.now
    with pytest.raises(WorkflowFailed):
        await (await cluster.client.start(workflow, {"times": 100})).result()
    # A hundred signs of life 20 s apart, and then 30 s of silence.
    assert timedelta(seconds=2030) <= cluster.now - began < timedelta(seconds=2032)


async def test_what_the_test_does_meanwhile_happens_in_its_time(cluster: Cluster) -> None:
    seen: list[tuple[str, float]] = []
    began = cluster.now

    async def every(seconds: float, name: str) -> None:
        while True:
            await asyncio.sleep(seconds)
            seen.append((name, round((cluster.now - began).total_seconds())))

    both = [asyncio.create_task(every(3600, "hour")), asyncio.create_task(every(5400, "more"))]
    await cluster.advance(hours=3, minutes=10)
    for one in both:
        one.cancel()
    assert seen == [("hour", 3600), ("more", 5400), ("hour", 7200), ("more", 10800), ("hour", 10800)]


async def test_a_client_session_that_ended_meanwhile_is_no_error(cluster: Cluster) -> None:
    """The SDK's session ends after an hour without a request; the next request opens another."""
    cluster.serve(note)
    workflow = waiting(duration_ms=1)
    await (await cluster.client.start(workflow, {"text": "a"}, id="a")).result()
    await cluster.advance(hours=2)
    await (await cluster.client.start(workflow, {"text": "b"}, id="b")).result()


@every_leader_kill(seed=2)
async def test_nor_is_it_when_the_leader_is_killed_at_that_request(cluster: Cluster) -> None:
    run = await cluster.client.start(waiting(signal="packed"), {"text": "a"}, id="a")
    await cluster.advance(hours=2)
    await run.signal("packed", {"by": "me"})
    cluster.serve(note)
    assert (await run.result()).got.by == "me"


@virtual(nodes=1)
async def test_one_node_is_enough_for_what_needs_no_failover(cluster: Cluster) -> None:
    assert cluster.nodes == [cluster.leader] == ["n1"]
    cluster.serve(reserve, charge, ship)
    assert (await (await cluster.client.start(saga, ORDER)).result()).tracking == "tracking 17"


@virtual(seed=3)
async def test_watching_goes_on_over_days(cluster: Cluster) -> None:
    cluster.serve(note)
    run = await cluster.client.start(waiting(duration_ms=5 * DAY_MS), {"text": "a"})
    assert [seen.status async for seen in run.watch()][-1] == "COMPLETED"


async def test_watching_goes_on_when_the_leader_is_killed(cluster: Cluster) -> None:
    """By the clock of whoever watches, and that of the client, which is another."""
    cluster.serve(note)
    run = await cluster.client.start(waiting(signal="go"), {"text": "a"})
    seen = []
    async for execution in run.watch():
        seen.append(execution.status)
        if len(seen) == 1:
            cluster.kill_leader()
            await run.signal("go")
    assert seen[-1] == "COMPLETED"
