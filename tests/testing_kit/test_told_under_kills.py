"""What tasks and workflows tell of themselves is told once, and told, wherever the leader is killed."""

from __future__ import annotations

from orchestrator.testing import Cluster, fail
from orchestrator_client import task
from tests.testing_kit.exactness import (
    Json,
    Story,
    b,
    c,
    element,
    same_wherever_the_leader_dies,
    step,
    undone,
    workflow,
)

CHANGES = "onScheduled,onStart,onSuccess,onFailed,onCancelled"
# One execution for each event: what it was told is its input.
NOTE = workflow("note", element("NOOP", "n"))
FIELDS = ("stateChange", "referenceTaskName", "taskStatus", "retryCount", "of", "status", "name")


def telling(**payload: str) -> Json:
    return {CHANGES: [{"type": "told", "payload": payload}]}


def noting(event: str) -> Json:
    told = {field: f"${{{field}}}" for field in FIELDS}
    start = {"action": "start_workflow", "start_workflow": {"name": "note", "input": told}}
    return {"name": f"notes {event}", "event": event, "active": True, "actions": [start]}


@same_wherever_the_leader_dies
async def test_each_change_is_told_once(story: Story) -> None:
    """A task that is tried twice, one that waits, one that fails for good and turns the saga round."""
    story.serve(fail(b, ConnectionError, times=1), c)
    await story.register(NOTE)
    client = story.cluster.client
    for event in ("conductor:flow:told", "conductor:flow:status"):
        await client.events.put_handler(noting(event))
    ended = await story.run(
        undone("b", retryCount=1, onStateChange=telling(of="${b.output.did}"), taskDefinition={
            "name": "b", "retryDelaySeconds": 1,
        }),
        element("WAIT", "w", {"duration": "2s"}, onStateChange=telling()),
        element("TERMINATE", "t", {"terminationStatus": "FAILED"}, onStateChange=telling()),
        workflowStatusListenerEnabled=True,
        workflowStatusListenerSink="conductor",
    )
    assert ended.status == "FAILED"
    await story.cluster.advance(seconds=5)
    notes = [note async for note in client.search(name="note", full=True)]
    said = sorted(f"{note.input['stateChange']} {note.input['referenceTaskName']} {note.input['taskStatus']}"
                  for note in notes if note.input["stateChange"])
    assert said == sorted(
        [
            *["onScheduled b SCHEDULED", "onStart b IN_PROGRESS"] * 2,
            "onFailed b FAILED",
            "onSuccess b COMPLETED",
            "onScheduled w SCHEDULED",
            "onStart w IN_PROGRESS",
            "onSuccess w COMPLETED",
            "onScheduled t SCHEDULED",
            "onSuccess t COMPLETED",
        ]
    )
    statuses = sorted(note.input["status"] for note in notes if note.input["status"])
    assert statuses == ["COMPENSATING", "FAILED"]


async def test_a_worker_serves_the_queue_of_its_group(cluster: Cluster) -> None:
    """The option of a task is both in its definition and in what its worker serves."""

    @task(isolation_group="gold", execution_namespace="eu")
    async def pack() -> str:
        return "packed"

    await cluster.client.register(pack.definition(), workflow("packing", step("pack")))
    run = await cluster.client.start("packing")
    await cluster.advance(seconds=5)
    [queue] = await cluster.client.task_queues("pack")
    assert (queue.queue, queue.ready, queue.worker_count) == ("pack@eu-gold", 1, 0)
    cluster.serve(pack)
    assert (await run.wait()).status == "COMPLETED"
