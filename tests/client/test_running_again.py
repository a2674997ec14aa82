"""Running again, skipping, migrating, messages and explaining with the SDK, against a real node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, NotFound, Run, TaskStatus, TimeKind, Workflow, WrongState
from tests.client.test_against_a_cluster import PATIENCE_S


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with LocalCluster(tmp_path, nodes=1) as cluster, Client(cluster.endpoints) as made:
        yield made
        print(cluster.nodes["a"].log_tail())


def two_waits(version: int = 1, second: str = "second") -> Workflow:
    workflow = Workflow("waits", version=version)
    workflow.wait(signal="first", ref="first")
    workflow.wait(signal=second, ref=second)
    return workflow


async def ended(client: Client) -> Run:
    run = await client.start(two_waits(), id="w")
    await run.signal("first", {"n": 1})
    await run.signal("second", {"n": 2})
    await run.result(PATIENCE_S)
    return run


async def test_what_has_ended_is_restarted(client: Client) -> None:
    run = await client.start(two_waits(), id="w")
    with pytest.raises(WrongState, match="WORKFLOW_RUNNING"):
        await client.restart("w")
    await run.terminate()
    await client.restart("w")
    seen = await client.get("w", tasks=True)
    assert (seen.status, seen.run, [one.reference for one in seen.tasks]) == ("RUNNING", 2, ["first"])


async def test_what_has_ended_is_rerun_from_a_task_or_with_another_input(client: Client) -> None:
    await ended(client)
    second = (await client.get("w", tasks=True)).tasks[1]
    await client.rerun("w", second.task_id, correlation_id="again")
    seen = await client.get("w", tasks=True)
    assert (seen.status, seen.correlation_id) == ("RUNNING", "again")
    assert [(one.reference, one.status) for one in seen.tasks] == [("first", "COMPLETED"), ("second", "IN_PROGRESS")]
    await client.terminate("w")
    await client.rerun("w", workflow_input={"k": 2})
    seen = await client.get("w", tasks=True)
    assert (seen.input, len(seen.tasks)) == ({"k": 2}, 1)
    await client.terminate("w")
    with pytest.raises(NotFound):
        await client.rerun("nobody")


async def test_a_task_that_has_not_begun_is_skipped(client: Client) -> None:
    run = await client.start(two_waits(), id="w")
    await client.skip_task("w", "second", {"by": "ann"})
    with pytest.raises(WrongState, match="TASK_BEGUN"):
        await run.skip("first")
    await run.signal("first", {})
    seen = await client.wait("w", PATIENCE_S, tasks=True)
    assert (seen.tasks[-1].status, seen.tasks[-1].output) == ("SKIPPED", {"by": "ann"})


async def test_what_runs_is_migrated_if_that_is_safe(client: Client) -> None:
    await client.start(two_waits(), id="w")
    await client.register(two_waits(2, "third"))
    assert await client.migrate("w", dry_run=True) == []
    assert (await client.get("w")).version == 1
    assert await client.migrate("w") == []
    assert (await client.get("w")).version == 2
    other = Workflow("waits", version=3)
    other.wait(signal="other", ref="other")
    await client.register(other)
    [obstacle] = await client.migrate("w", 3, dry_run=True)
    assert "first" in obstacle
    with pytest.raises(WrongState, match="MIGRATION_UNSAFE"):
        await client.migrate("w", 3)


async def test_messages_are_pushed_and_what_is_waited_for_is_said(client: Client) -> None:
    definition = {
        "name": "puller",
        "version": 1,
        "tasks": [{"name": "pull", "taskReferenceName": "pull", "type": "PULL_WORKFLOW_MESSAGES"}],
    }
    await client.register(definition)
    await client.start("puller", id="w")
    [waiting] = await client.explain("w")
    assert (waiting.reference, waiting.until, waiting.child_workflow_id) == ("pull", None, "")
    assert waiting.waits_for == "a message in the workflow's queue, or an update of the task"
    message_id = await client.push_message("w", {"text": "hello"})
    seen = await client.wait("w", PATIENCE_S, tasks=True)
    [message] = seen.tasks[0].output["messages"]
    assert message_id and message["payload"] == {"text": "hello"}
    assert await client.explain("w") == []
    timing = await client.timing("w")
    assert sum(timing.shares.values(), timedelta()) == timing.until - timing.began
    assert [(one.reference, one.status, set(one.spent) <= {TimeKind.SIGNAL}) for one in timing.attempts] == [
        ("pull", TaskStatus.COMPLETED, True)]
    with pytest.raises(WrongState):
        await client.push_message("w", {})
