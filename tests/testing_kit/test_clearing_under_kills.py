"""What runs again is cleared step by step, and comes to the same when the leader is killed between any two steps."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import errors, limits
from orchestrator.engine import step as engine_step
from tests.testing_kit.exactness import Story, check_each_kill, element, step, undone

LARGE = 1_000


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step in an entry of its own, and small."""
    monkeypatch.setattr(limits, "TRANSITIONS_PER_STEP", 3)
    monkeypatch.setattr(limits, "MESSAGES_PER_ENTRY", 1)


async def _forked(story: Story) -> Any:
    story.serve()
    given = {"forkTaskName": "a", "forkTaskInputs": [{"n": n} for n in range(4)]}
    loop = element("DO_WHILE", "l", items=[1, 2], loopOver=[step("b", "${l.output.loopItem}")])
    run = await story.start(
        undone("d", 1), element("FORK_JOIN_DYNAMIC", "f", given), element("JOIN", "j"), loop, step("c")
    )
    assert (await story.ended(run)).status == "COMPLETED"
    return run


def test_a_restart(slowly: None) -> None:
    async def tell(story: Story) -> None:
        run = await _forked(story)
        await run.restart(effects="keep")
        assert (await story.until(lambda seen: seen.run == 2 and seen.status.ended)).status == "COMPLETED"
        assert len(story.asked[0].effects) == 2 * 8

    check_each_kill(tell, at_most=24, in_order=False)


@pytest.mark.parametrize(("reference", "again"), [("f", 7), ("l", 3), ("b__2", 2)])
def test_a_rerun(slowly: None, reference: str, again: int) -> None:
    async def tell(story: Story) -> None:
        run = await _forked(story)
        ended = await story.cluster.client.get("w", tasks=True)
        [task_id] = [one.task_id for one in ended.tasks if one.reference == reference]
        await run.rerun(task_id)
        assert (await story.until(lambda seen: seen.run == 2 and seen.status.ended)).status == "COMPLETED"
        assert len(story.asked[0].effects) == 8 + again

    check_each_kill(tell, at_most=10, in_order=False)


def test_callers_wait_until_it_is_cleared(slowly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again what is refused meanwhile."""
    refused: list[str] = []

    def being_cleared(workflow_id: str) -> None:
        refused.append(workflow_id)
        errors.being_cleared(workflow_id)

    monkeypatch.setattr(engine_step, "being_cleared", being_cleared)

    async def tell(story: Story) -> None:
        story.serve()
        given = {"forkTaskName": "a", "forkTaskInputs": [{"n": n} for n in range(40)]}
        tasks = (element("FORK_JOIN_DYNAMIC", "f", given), element("JOIN", "j"), element("HUMAN", "h"))
        run = await story.start(*tasks)
        await story.begun("h")
        await run.terminate("enough")
        refused.clear()
        await run.restart()
        await run.pause()
        assert refused
        await run.resume()
        await story.begun("h")
        await run.signal("h")
        assert (await story.ended(run)).status == "COMPLETED"

    check_each_kill(tell, at_most=10, in_order=False)


def test_a_thousand_tasks_are_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices as they are, with a kill of the leader at the entries between which they fall."""
    monkeypatch.setattr(limits, "MESSAGES_PER_ENTRY", 1)
    loop = element("DO_WHILE", "l", items=list(range(LARGE)), loopOver=[element("NOOP", "n")])

    async def tell(story: Story) -> int:
        story.serve()
        run = await story.start(step("a"), loop, step("b"))
        assert (await story.ended(run)).status == "COMPLETED"
        ended = await story.cluster.client.get("w", tasks=True)
        [task_id] = [one.task_id for one in ended.tasks if one.reference == "n__5"]
        await run.rerun(task_id)
        assert (await story.until(lambda seen: seen.run == 2 and seen.status.ended)).status == "COMPLETED"
        assert story.asked[0].effects == ["a", "b", "b"]
        return len(ended.tasks)

    check_each_kill(tell, at_most=3)
