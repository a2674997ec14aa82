"""Timeouts, limits and what starts by itself are the same when the leader is killed between any two log entries."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.engine.behaviour import STREAMS
from orchestrator.testing import fail, late, slow
from orchestrator_client import TaskContext, TerminalError, task
from tests.testing_kit.exactness import (
    Json,
    Story,
    a,
    b,
    c,
    d,
    element,
    same_wherever_the_leader_dies,
    step,
    undone,
    workflow,
)


def policy(name: str, **fields: Any) -> Json:
    return {"name": name, "retryCount": 0, **fields}


class Crowd:
    """How many are in it at once, at most."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    def task(self) -> Any:
        @task(name="a")
        async def enter(n: Any, ctx: TaskContext) -> Json:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(1)
            self.inside -= 1
            return {"n": n}

        return enter


def fan(count: int) -> list[Json]:
    given = {"forkTaskName": "a", "forkTaskInputs": [{"n": n} for n in range(count)]}
    return [element("FORK_JOIN_DYNAMIC", "f", given), element("JOIN", "j")]


@same_wherever_the_leader_dies
async def test_a_task_that_times_out(story: Story) -> None:
    """It may have taken effect: it is undone, and what its worker says later does not count."""
    story.serve(late(a, 30), b)
    timed = policy("a", timeoutSeconds=5, responseTimeoutSeconds=4, timeoutPolicy="RETRY")
    ended = await story.run(undone("b"), undone("a", taskDefinition=timed), step("c"))
    assert ended.status in ("FAILED", "TIMED_OUT")
    assert story.asked[0].effects[:2] == ["b", "a"]
    assert story.asked[0].effects[2:] == ["undo_a", "undo_b"]


@same_wherever_the_leader_dies
async def test_a_workflow_that_times_out(story: Story) -> None:
    story.serve()
    began = story.cluster.now
    fields = {"timeoutSeconds": 60, "timeoutPolicy": "TIME_OUT_WF"}
    ended = await story.run(undone("a"), element("HUMAN", "h"), **fields)
    assert ended.status == "TIMED_OUT"
    assert story.asked[0].effects == ["a", "undo_a"]
    assert 60 <= (story.cluster.now - began).total_seconds() < 75


@same_wherever_the_leader_dies
async def test_so_many_at_once(story: Story) -> None:
    """concurrentExecLimit is exact also across a failover."""
    crowd = Crowd()
    enter = crowd.task()
    story.serve(enter)
    await story.cluster.client.register({**policy("a", concurrentExecLimit=2)})
    ended = await story.run(*fan(5))
    assert ended.status == "COMPLETED"
    assert crowd.most == 2


@same_wherever_the_leader_dies
async def test_so_many_in_a_window(story: Story) -> None:
    """rateLimitPerFrequency is exact also across a failover."""
    calls = story.serve(a)
    limited = policy("a", rateLimitPerFrequency=2, rateLimitFrequencyInSeconds=60)
    await story.cluster.client.register(limited)
    ended = await story.run(*fan(5))
    assert ended.status == "COMPLETED"
    times = sorted(call.at for call in calls.all)
    assert all((later - sooner).total_seconds() >= 59 for sooner, later in zip(times, times[2:], strict=False))


@same_wherever_the_leader_dies
async def test_so_many_executions_at_once(story: Story) -> None:
    crowd = Crowd()
    enter = crowd.task()
    story.serve(enter)
    gate = {"rateLimitConfig": {"rateLimitKey": "${workflow.input.k}", "concurrentExecLimit": 1}}
    runs = [await story.start(step("a"), id=f"w{number}", given={"k": "one"}, **gate) for number in range(3)]
    for run in runs:
        assert (await story.ended(run)).status == "COMPLETED"
    assert crowd.most == 1


@same_wherever_the_leader_dies
async def test_a_key_that_is_used_again(story: Story) -> None:
    """One execution for one idempotency key, whoever asks for it again."""
    calls = story.serve()
    client = story.cluster.client
    await story.register(workflow("flow", step("a")))
    first = await client.start("flow", {}, idempotency_key="k", idempotency_strategy="return_existing")
    again = await client.start("flow", {}, idempotency_key="k", idempotency_strategy="return_existing")
    assert first.workflow_id == again.workflow_id
    assert (await story.ended(again)).status == "COMPLETED"
    assert calls.effects == ["a"]


@same_wherever_the_leader_dies
async def test_a_compensation_that_is_skipped_and_one_that_is_abandoned(story: Story) -> None:
    undo_b, undo_a = b.compensator, a.compensator
    assert undo_a is not None
    assert undo_b is not None
    error = TerminalError("BROKEN")
    story.serve(a, b, c, fail(undo_b, error), fail(undo_a, error), fail(d, TerminalError("NO")))
    run = await story.start(undone("a"), undone("b"), undone("c"), step("d"))
    await story.until(lambda seen: str(seen.compensation.state) == "STUCK")
    await run.skip_compensation()
    await story.until(lambda seen: str(seen.compensation.state) == "STUCK" and len(seen.compensation.left) == 2)
    await run.abandon_compensation("enough")
    ended = await story.ended(run)
    assert (ended.status, ended.compensation.state) == ("FAILED", "INCOMPLETE")
    assert story.asked[0].effects == ["a", "b", "c", "undo_c"]


@same_wherever_the_leader_dies
async def test_a_pivot(story: Story) -> None:
    """What comes after it is not undone."""
    story.serve(a, b, fail(c, TerminalError("NO")))
    ended = await story.run(undone("a"), step("b", pivot=True), step("c"))
    assert ended.status == "FAILED"
    assert story.asked[0].effects == ["a", "b"]


@same_wherever_the_leader_dies
async def test_what_event_handlers_do_to_executions(story: Story) -> None:
    """Variables are set, a task fails, another execution is terminated: each once."""
    calls = story.serve()
    events = story.cluster.client.events
    run = await story.start(undone("a"), element("HUMAN", "h"), variables={"k": 0})
    other = await story.start(element("HUMAN", "h"), id="other")
    await story.begun("h")
    actions = [
        {
            "action": "update_workflow_variables",
            "update_workflow_variables": {"workflowId": "w", "variables": {"k": "${k}"}},
        },
        {"action": "fail_task", "fail_task": {"workflowId": "w", "taskRefName": "h", "output": {"k": "${k}"}}},
        {"action": "terminate_workflow", "terminate_workflow": {"workflowId": "other", "terminationReason": "${k}"}},
    ]
    await events.put_handler({"name": "x", "event": "e", "active": True, "actions": actions})
    assert not (await events.publish("e", {"k": 5}, message_id="m")).repeated
    assert (await events.publish("e", {"k": 6}, message_id="m")).repeated
    assert (await story.ended(run)).status == "FAILED"
    assert (await story.ended(other)).status == "TERMINATED"
    assert calls.effects == ["a", "undo_a"]


@same_wherever_the_leader_dies
async def test_each_event_is_given_to_one_task_that_waits_for_it(story: Story) -> None:
    """One comes before it is waited for, and two while two wait for them."""
    story.serve()
    while (await story.cluster.client.status()).behaviour_level < STREAMS:
        await story.cluster.advance(seconds=1)
    events = story.cluster.client.events
    action = {"action": "correlate", "correlate": {"correlationKey": "${k}"}}
    await events.put_handler({"name": "x", "event": "e", "active": True, "actions": [action]})

    def wait(reference: str, key: str) -> Json:
        return element("WAIT", reference, {"event": "e", "correlationKey": key})

    other = await story.start(wait("w1", "k"), id="other")
    await story.begun("w1", "other")
    await events.publish("e", {"k": "early", "n": 1}, message_id="m1")
    run = await story.start(wait("w1", "early"), undone("a", "${w1.output.n}"), wait("w2", "k"))
    await story.begun("w2")
    await events.publish("e", {"k": "k", "n": 2}, message_id="m2")
    assert (await story.ended(other)).output["n"] == 2
    await events.publish("e", {"k": "k", "n": 3}, message_id="m3")
    assert (await events.publish("e", {"k": "k", "n": 4}, message_id="m3")).repeated
    assert (await story.ended(run)).output["n"] == 3


@same_wherever_the_leader_dies
async def test_a_schedule_whose_runs_wait_for_each_other(story: Story) -> None:
    calls = story.serve(slow(a, 90))
    schedules = story.cluster.client.schedules
    await story.register(workflow("report", step("a")))
    request = {"name": "report"}
    minutely = {"cronExpression": "0 * * * * *", "overlapPolicy": "BUFFER_ONE"}
    await schedules.put({"name": "s", "startWorkflowRequest": request, **minutely})
    await story.cluster.advance(minutes=4)
    await schedules.delete("s")
    await story.cluster.advance(minutes=5)
    assert calls.effects.count("a") == len({call.key for call in calls.all})
