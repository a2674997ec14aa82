"""Every operation works the same when the leader is killed between any two of its log entries."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from orchestrator.testing import fail, slow
from orchestrator_client import NotFound, TerminalError
from tests.testing_kit.exactness import (
    Story,
    a,
    b,
    c,
    element,
    same_wherever_the_leader_dies,
    step,
    undone,
    workflow,
)

HUMAN = element("HUMAN", "h")


@same_wherever_the_leader_dies
async def test_pause_and_resume(story: Story) -> None:
    story.serve(slow(a, 2), b)
    run = await story.start(step("a"), step("b"))
    await story.begun("a")
    await run.pause()
    await story.cluster.advance(seconds=60)
    assert story.asked[0].effects == ["a"]
    await run.resume()
    assert (await story.ended(run)).status == "COMPLETED"
    assert story.asked[0].effects == ["a", "b"]


@same_wherever_the_leader_dies
async def test_retry(story: Story) -> None:
    story.serve(a, fail(b, TerminalError("NO"), times=1))
    run = await story.start(step("a", 1), step("b", "${a.output.n}"))
    assert (await story.ended(run)).status == "FAILED"
    await run.retry()
    assert (await story.ended(run)).status == "COMPLETED"
    assert story.asked[0].effects == ["a", "b"]


@same_wherever_the_leader_dies
async def test_retry_of_a_fork(story: Story) -> None:
    story.serve(fail(a, TerminalError("NO"), times=1), b)
    fork = element("FORK_JOIN", "f", forkTasks=[[step("a")], [element("WAIT", "t", {"duration": "1h"})]])
    run = await story.start(fork, element("JOIN", "j", joinOn=["a", "t"]), step("b"))
    assert (await story.ended(run)).status == "FAILED"
    await run.retry()
    assert (await run.wait(7200)).status == "COMPLETED"


@same_wherever_the_leader_dies
async def test_retry_that_resumes_sub_workflows(story: Story) -> None:
    story.serve(a, fail(b, TerminalError("NO"), times=1), c)
    await story.register(workflow("child", step("a"), step("b")))
    run = await story.start(element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"}), step("c"))
    assert (await story.ended(run)).status == "FAILED"
    await run.retry(resume_sub_workflows=True)
    assert (await story.ended(run)).status == "COMPLETED"
    assert story.asked[0].effects == ["a", "b", "c"]


async def _again(story: Story, effects: Literal["keep", "compensate_first"]) -> None:
    run = await story.start(undone("a", 1), step("b", "${a.output.n}"))
    assert (await story.ended(run)).status == "COMPLETED"
    await run.restart(effects=effects)
    ended = await story.until(lambda seen: seen.run == 2 and seen.status.ended)
    assert ended.status == "COMPLETED"


@same_wherever_the_leader_dies
async def test_restart_that_keeps_what_was_done(story: Story) -> None:
    calls = story.serve()
    await _again(story, "keep")
    assert calls.effects == ["a", "b"] * 2
    assert len({call.key for call in calls.all}) == 4


@same_wherever_the_leader_dies
async def test_restart_that_compensates_first(story: Story) -> None:
    calls = story.serve()
    await _again(story, "compensate_first")
    assert calls.effects == ["a", "b", "undo_a", "a", "b"]
    assert len({call.key for call in calls.all}) == 5


@same_wherever_the_leader_dies
async def test_rerun_of_a_task(story: Story) -> None:
    calls = story.serve()
    run = await story.start(step("a", 1), step("b", "${a.output.n}"), step("c", "${b.output.n}"))
    await story.ended(run)
    ended = await story.cluster.client.get("w", tasks=True)
    [task_id] = [one.task_id for one in ended.tasks if one.reference == "b"]
    await run.rerun(task_id, task_input={"n": 2})
    assert (await story.ended(run)).output == {"did": "c", "n": 2}
    assert calls.effects == ["a", "b", "c", "b", "c"]


@same_wherever_the_leader_dies
async def test_rerun_of_an_iteration(story: Story) -> None:
    calls = story.serve()
    loop = element("DO_WHILE", "l", items=[1, 2, 3], loopOver=[step("a", "${l.output.loopItem}")])
    run = await story.start(loop, step("b"))
    await story.ended(run)
    ended = await story.cluster.client.get("w", tasks=True)
    [task_id] = [one.task_id for one in ended.tasks if one.reference == "a__2"]
    await run.rerun(task_id)
    assert (await story.ended(run)).status == "COMPLETED"
    assert [call.input["n"] for call in calls.of(a)] == [1, 2, 3, 2, 3]


@same_wherever_the_leader_dies
async def test_skip(story: Story) -> None:
    calls = story.serve()
    run = await story.start(HUMAN, step("a"), step("b", "${a.output.n}"))
    await story.begun("h")
    await run.skip("a", {"n": 9})
    await run.signal("h")
    assert (await story.ended(run)).output == {"did": "b", "n": 9}
    assert calls.effects == ["b"]


@same_wherever_the_leader_dies
async def test_terminate_and_compensate(story: Story) -> None:
    calls = story.serve()
    run = await story.start(undone("a", 1), undone("b", 2), HUMAN)
    await story.begun("h")
    await run.terminate("enough", compensation="run")
    ended = await story.ended(run)
    assert (ended.status, ended.compensation.state) == ("TERMINATED", "COMPLETE")
    assert calls.effects == ["a", "b", "undo_b", "undo_a"]


@same_wherever_the_leader_dies
async def test_terminate_and_compensate_in_a_sub_workflow(story: Story) -> None:
    calls = story.serve()
    await story.register(workflow("child", undone("b"), HUMAN))
    run = await story.start(undone("a"), element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"}))
    await story.until(lambda seen: any(one.reference == "s" and one.status == "IN_PROGRESS" for one in seen.tasks))
    await story.cluster.advance(seconds=30)
    await run.terminate("enough", compensation="run")
    assert (await story.ended(run)).status == "TERMINATED"
    assert calls.effects == ["a", "b", "undo_b", "undo_a"]


@same_wherever_the_leader_dies
async def test_compensation_that_is_stuck(story: Story) -> None:
    undo = a.compensator
    assert undo is not None
    story.serve(a, fail(undo, TerminalError("BROKEN"), times=1), fail(b, TerminalError("NO")))
    run = await story.start(undone("a"), step("b"))
    await story.until(lambda seen: str(seen.compensation.state) == "STUCK")
    await run.retry_compensation()
    ended = await story.ended(run)
    assert (ended.status, ended.compensation.state) == ("FAILED", "COMPLETE")
    assert story.asked[0].effects == ["a", "undo_a"]


@same_wherever_the_leader_dies
async def test_update_variables(story: Story) -> None:
    story.serve()
    run = await story.start(HUMAN, step("a", "${workflow.variables.k}"), variables={"k": 1, "l": 2})
    await story.begun("h")
    await story.cluster.client.update_variables("w", {"k": 3})
    await run.signal("h")
    ended = await story.ended(run)
    assert (ended.output["n"], ended.variables) == (3, {"k": 3, "l": 2})


@same_wherever_the_leader_dies
async def test_update_of_a_task_that_a_worker_has(story: Story) -> None:
    """The worker is told to stop."""
    story.serve(slow(a, 600), b)
    run = await story.start(step("a"), step("b", "${a.output.n}"))
    await story.begun("a")
    await story.cluster.client.update_task("w", "a", "COMPLETED", {"n": 8})
    assert (await story.ended(run)).output == {"did": "b", "n": 8}
    assert story.asked[0].effects == ["b"]


@same_wherever_the_leader_dies
async def test_migrate(story: Story) -> None:
    calls = story.serve()
    run = await story.start(step("a"), HUMAN, step("b"))
    await story.begun("h")
    await story.register({**workflow("flow", step("a"), HUMAN, step("c"), step("d")), "version": 2})
    assert await story.cluster.client.migrate("w", 2, dry_run=True) == []
    await story.cluster.client.migrate("w", 2)
    await run.signal("h")
    ended = await story.ended(run)
    assert (ended.status, ended.version) == ("COMPLETED", 2)
    assert calls.effects == ["a", "c", "d"]


@same_wherever_the_leader_dies
async def test_delete(story: Story) -> None:
    story.serve()
    client = story.cluster.client
    run = await story.start(step("a"))
    await story.ended(run)
    await client.delete("w")
    with pytest.raises(NotFound):
        await client.get("w")
    await story.run(step("a"))
    assert story.asked[0].effects == ["a", "a"]


@same_wherever_the_leader_dies
async def test_delete_that_compensates_first(story: Story) -> None:
    calls = story.serve()
    run = await story.start(undone("a"), HUMAN)
    await story.begun("h")
    await run.terminate("enough", compensation="skip")
    await story.cluster.client.delete("w", effects="compensate_first")
    await story.cluster.advance(seconds=60)
    with pytest.raises(NotFound):
        await story.cluster.client.get("w")
    assert calls.effects == ["a", "undo_a"]


@same_wherever_the_leader_dies
async def test_a_failure_workflow(story: Story) -> None:
    calls = story.serve(a, c, fail(b, TerminalError("NO")))
    await story.register(workflow("mourn", step("c", "${workflow.input.failureStatus}")))
    run = await story.start(undone("a"), step("b"), failureWorkflow="mourn")
    ended = await story.ended(run)
    mourning: Any = ended.output["conductor.failure_workflow"]
    assert (await story.cluster.client.wait(mourning, 60)).status == "COMPLETED"
    assert calls.effects == ["a", "undo_a", "c"]


@same_wherever_the_leader_dies
async def test_schedules(story: Story) -> None:
    """Each time is run once."""
    calls = story.serve()
    schedules = story.cluster.client.schedules
    await story.register(workflow("report", step("a", "${workflow.input._scheduledTime}"), step("b")))
    every_minute = {"name": "s", "cronExpression": "0 * * * * *", "startWorkflowRequest": {"name": "report"}}
    await schedules.put(every_minute)
    await story.cluster.advance(seconds=190)
    await schedules.pause("s")
    await story.cluster.advance(seconds=120)
    runs = await schedules.runs("s")
    times = [run.scheduled_time for run in runs]
    assert len(set(times)) == len(times) == 3
    assert calls.effects.count("a") == calls.effects.count("b") == 3


@same_wherever_the_leader_dies
async def test_a_schedule_that_is_run_by_hand(story: Story) -> None:
    calls = story.serve()
    schedules = story.cluster.client.schedules
    await story.register(workflow("report", step("a")))
    await schedules.put({"name": "s", "cronExpression": "0 0 0 1 1 *", "startWorkflowRequest": {"name": "report"}})
    started = await schedules.run("s")
    assert (await story.cluster.client.wait(started.workflow_id, 60)).status == "COMPLETED"
    assert calls.effects == ["a"]
