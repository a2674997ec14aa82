"""Deleting, updating, many at once, logs and retention with the SDK, against a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_client import (
    Client,
    InvalidRequest,
    NotFound,
    RetentionPolicy,
    TaskContext,
    TaskLogs,
    Workflow,
    WrongState,
    task,
)
from orchestrator_client.attempts import State, WorkerSession
from orchestrator_client.log_buffer import BYTES_MAX, LINE_CHARACTERS_MAX, LINES_MAX, LogBuffer
from orchestrator_client.runner import make_context
from orchestrator_client.upkeep import OPERATIONS
from tests.client.test_against_a_cluster import PATIENCE_S, working


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with LocalCluster(tmp_path, nodes=1) as cluster, Client(cluster.endpoints) as made:
        yield made
        print(cluster.nodes["a"].log_tail())


def waiter(name: str = "waiter") -> Workflow:
    workflow = Workflow(name)
    workflow.wait(signal="go", ref="wait")
    return workflow


async def logged(client: Client, workflow_id: str, count: int) -> TaskLogs:
    async with asyncio.timeout(PATIENCE_S):
        async for _ in client.watch(workflow_id):
            found = await client.task_logs(workflow_id)
            if len(found.lines) >= count:
                break
    return found


async def test_a_deleted_execution_is_gone_and_its_id_is_free(client: Client) -> None:
    run = await client.start(waiter(), id="w")
    with pytest.raises(WrongState, match="terminate it first"):
        await client.delete("w")
    await run.terminate()
    await client.delete("w")
    with pytest.raises(NotFound):
        await client.get("w")
    assert [found.workflow_id async for found in client.search()] == []
    assert not (await client.start(waiter(), id="w")).existing
    with pytest.raises(InvalidRequest):
        await client.delete("w", effects="all")  # type: ignore[arg-type]  # what is refused


async def test_what_was_not_undone_is_kept_or_undone_first(client: Client) -> None:
    undone: list[str] = []

    @task
    async def book(ctx: TaskContext) -> str:
        return ctx.workflow_id

    @book.compensation
    async def cancel(done: str | None) -> None:
        undone.append(str(done))

    workflow = Workflow("trip")
    workflow.step(book)
    workflow.wait(signal="go", ref="wait")
    async with working(client, book):
        for workflow_id in ("t1", "t2"):
            run = await client.start(workflow, id=workflow_id)
            async for seen in run.watch(tasks=True):
                if len(seen.tasks) == 2:
                    break
            await run.terminate(compensation="skip")
            with pytest.raises(WrongState, match="book"):
                await client.delete(workflow_id)
        await client.delete("t1", effects="keep")
        await client.delete("t2", effects="compensate_first")
        with pytest.raises(NotFound):
            await asyncio.wait_for(client.wait("t2"), PATIENCE_S)
    assert undone == ["t2"]


async def test_many_at_once(client: Client) -> None:
    ids = [f"w{number}" for number in range(5)]
    await client.start(waiter(), id=ids[0])
    await asyncio.gather(*(client.start(waiter(), id=workflow_id) for workflow_id in ids[1:]))
    done = await client.operate("pause", [*ids, "none", ids[0]])
    assert done.succeeded == ids
    assert {workflow_id: why.reason for workflow_id, why in done.failed.items()} == {"none": "WORKFLOW_NOT_FOUND"}
    assert (await client.get("w3")).status == "PAUSED"
    assert (await client.operate("terminate_and_delete", ids, reason="enough")).succeeded == ids
    assert [found.workflow_id async for found in client.search()] == []
    assert (await client.operate("resume", [])).succeeded == []
    for wrong in ("sing", "Pause"):
        with pytest.raises(InvalidRequest):
            await client.operate(wrong, ids)  # type: ignore[arg-type]  # what is refused
    assert len(OPERATIONS) == 7


async def test_variables_and_tasks_are_updated(client: Client) -> None:
    workflow = Workflow("waiter")
    waited = workflow.wait(signal="go", ref="wait")
    workflow.returns(said=waited.said)
    run = await client.start(workflow, id="w")
    await client.update_variables("w", {"limit": 5})
    assert (await client.get("w")).variables == {"limit": 5}
    await client.update_task("w", "wait", "IN_PROGRESS", {"more": 1})
    await client.update_task("w", "wait", "COMPLETED", {"said": "yes"})
    assert (await run.result(PATIENCE_S)).said == "yes"
    assert (await client.get("w", tasks=True)).tasks[0].output == {"more": 1, "said": "yes"}
    with pytest.raises(WrongState):
        await client.update_task("w", "wait", "COMPLETED")
    with pytest.raises(InvalidRequest):
        await client.update_task("w", "wait", "DONE")
    with pytest.raises(InvalidRequest):
        await client.update_variables("w", [1])  # type: ignore[arg-type]  # what is refused


async def test_lines_are_seen_while_the_task_runs_and_after_it(client: Client) -> None:
    go_on = asyncio.Event()

    @task
    async def work(ctx: TaskContext) -> None:
        ctx.log("one of %d", 2)
        await go_on.wait()
        ctx.log("two of 2")
        ctx.log.info("not this one")

    workflow = Workflow("work")
    workflow.step(work)
    async with working(client, work):
        run = await client.start(workflow, id="w")
        first = await logged(client, "w", 1)
        assert [(line.text, line.reference, line.attempt) for line in first.lines] == [("one of 2", "work", 1)]
        go_on.set()
        await run.result(PATIENCE_S)
    attempt = (await client.get("w", tasks=True)).tasks[0]
    assert await client.add_task_logs("w", attempt.task_id, "looked at by hand")
    assert not await client.add_task_logs("w", "none", "x")
    found = await client.task_logs("w", reference="work")
    assert [line.text for line in found.lines] == ["one of 2", "two of 2", "looked at by hand"]
    assert found.dropped == 0
    assert (await client.task_logs("w", task_id="none")).lines == []


async def test_the_policy_is_changed_in_parts(client: Client) -> None:
    assert await client.retention() == RetentionPolicy(timedelta(days=7), None, 10 << 30)
    changed = await client.set_retention(age=timedelta(hours=1), count=5)
    assert changed == RetentionPolicy(timedelta(hours=1), 5, 10 << 30)
    assert await client.set_retention(age=timedelta(0), bytes=0) == RetentionPolicy(None, 5, None)
    assert await client.retention() == RetentionPolicy(None, 5, None)


# --- what a worker keeps until it is said


def session() -> WorkerSession:
    made = WorkerSession(pb.WorkHello(slots=1))
    made.receive(pb.WorkResponse(term=1, generation=1, welcome=pb.WorkWelcome(session_id="s", resumed=True)))
    list(made.outgoing())
    return made


def assigned(held: WorkerSession) -> pb.Assignment:
    given = pb.Assignment(workflow_id="w", task_id="t", fencing_token=3, name="n")
    assignments = pb.WorkAssignments(assignments=[given])
    held.receive(pb.WorkResponse(term=1, generation=1, assignments=assignments))
    return given


def test_lines_go_with_the_next_tick_or_with_the_result() -> None:
    held = session()
    given = assigned(held)
    [attempt] = held.attempts.values()
    context = make_context(given, lambda details: None, attempt.logged.add)
    context.log("one")
    assert list(held.outgoing()) == []
    held.tick()
    [frame] = held.outgoing()
    [said] = frame.logs.attempts
    assert (said.workflow_id, said.task_id, said.fencing_token) == ("w", "t", 3)
    assert [line.text for line in said.lines] == ["one"]
    context.log("two")
    held.finish(attempt, pb.TaskResult(task_id="t", fencing_token=3))
    [frame] = held.outgoing()
    assert [line.text for line in frame.results.results[0].logs] == ["two"]


def test_lines_of_what_is_fenced_are_not_said() -> None:
    held = session()
    assigned(held)
    [attempt] = held.attempts.values()
    attempt.logged.add("x")
    cancellation = pb.Cancellation(workflow_id="w", task_id="t", fencing_token=3, fenced=True)
    held.receive(
        pb.WorkResponse(term=1, generation=1, cancellations=pb.WorkCancellations(cancellations=[cancellation]))
    )
    assert attempt.state is State.CANCELLED
    held.tick()
    assert list(held.outgoing()) == []


def test_what_is_too_much_is_left_out_and_told() -> None:
    buffer = LogBuffer()
    for number in range(LINES_MAX + 5):
        buffer.add(str(number))
    lines = buffer.take()
    assert [line.text for line in lines[:2]] == ["(5 lines left out)", "5"]
    assert buffer.take() == []
    for _ in range(40):
        buffer.add("é" * (LINE_CHARACTERS_MAX + 1))
    lines = buffer.take()
    assert sum(len(line.text.encode()) for line in lines) <= BYTES_MAX + 30
    assert {len(line.text) for line in lines[1:]} == {LINE_CHARACTERS_MAX}
    buffer.add("half a pair: \ud800")
    assert buffer.take()[0].text == "half a pair: ?"


async def test_what_is_registered_is_listed_page_by_page(client: Client) -> None:
    await client.register(waiter("w1"), waiter("w2"), waiter("w3"), {"name": "t1"}, {"name": "t2"})
    assert [one["name"] async for one in client.workflow_definitions(page_size=2)] == ["w1", "w2", "w3"]
    assert [one["name"] async for one in client.task_definitions(page_size=1)] == ["t1", "t2"]
