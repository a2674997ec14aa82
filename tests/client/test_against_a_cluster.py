"""The SDK against a real node: what its fake cluster promises is what the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import (
    AlreadyExists,
    Client,
    CompensationContext,
    DeadlineExceeded,
    InvalidRequest,
    NotDone,
    NotFound,
    Retry,
    SyncClient,
    Task,
    TaskContext,
    TerminalError,
    Worker,
    Workflow,
    WorkflowFailed,
    WorkflowTerminated,
    WrongState,
    task,
)

PATIENCE_S = 30


@dataclass
class Order:
    id: str
    amount: int


@dataclass
class Receipt:
    number: str


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, nodes=1) as made:
        yield made
    print(made.nodes["a"].log_tail())


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.endpoints) as made:
        yield made


@asynccontextmanager
async def working(client: Client, *tasks: Task[..., Any], **options: Any) -> AsyncIterator[Worker]:
    worker = Worker(client, tasks, handle_signals=False, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.stop(timeout_s=5)
        await running


async def test_an_order_from_its_start_to_its_typed_result(client: Client) -> None:
    contexts: list[TaskContext] = []

    @task
    async def charge(order: Order, ctx: TaskContext) -> Receipt:
        contexts.append(ctx)
        return Receipt(f"{order.id}/{order.amount}")

    @task
    def number(receipt: str, times: int = 2) -> str:
        return receipt * times

    workflow = Workflow("order", input=Order)
    receipt = workflow.step(charge, workflow.input)
    workflow.returns(text=workflow.step(number, receipt.number), whole=receipt)
    async with working(client, charge, number):
        run = await client.start(workflow, Order("o1", 5), id="o1", correlation_id="c1")
        result = await run.result(PATIENCE_S)
    assert (result.text, result.whole.number) == ("o1/5o1/5", "o1/5")
    execution = await run.get(tasks=True)
    assert (execution.status, execution.input, execution.correlation_id) == (
        "COMPLETED", {"id": "o1", "amount": 5}, "c1")
    first, second = execution.tasks
    assert (contexts[0].task_id, contexts[0].fencing_token) == (first.task_id, first.fencing_token)
    assert contexts[0].idempotency_key == first.idempotency_key != second.idempotency_key
    assert (contexts[0].workflow_name, contexts[0].reference, contexts[0].attempt) == ("order", "charge", 1)


async def test_an_id_is_taken_once(client: Client) -> None:
    workflow = Workflow("waiter")
    workflow.wait(signal="go")
    first = await client.start(workflow, id="w")
    with pytest.raises(AlreadyExists, match="taken"):
        await client.start(workflow, id="w")
    again = await client.start(workflow, id="w", if_exists="return")
    assert (first.existing, again.existing, again.workflow_id) == (False, True, "w")
    made = await client.start(workflow)
    assert len(made.workflow_id) == 26


async def test_an_idempotency_key_stands_for_one_execution(client: Client) -> None:
    workflow = Workflow("waiter")
    workflow.wait(signal="go")
    first = await client.start(workflow, idempotency_key="k")
    with pytest.raises(AlreadyExists, match=first.workflow_id) as taken:
        await client.start(workflow, idempotency_key="k", idempotency_strategy="fail_on_running")
    assert taken.value.reason == "IDEMPOTENCY_KEY_TAKEN"
    again = await client.start(workflow, idempotency_key="k", idempotency_strategy="return_existing")
    assert (again.existing, again.workflow_id) == (True, first.workflow_id)
    assert (await first.get()).idempotency_key == "k"
    await first.terminate()
    other = await client.start(workflow, idempotency_key="k", idempotency_strategy="fail_on_running")
    assert other.workflow_id != first.workflow_id
    with pytest.raises(InvalidRequest, match="idempotency_strategy"):
        await client.start(workflow, idempotency_key="k", idempotency_strategy="maybe")  # type: ignore[arg-type]


async def test_signals_are_kept_until_a_wait_takes_them(client: Client) -> None:
    workflow = Workflow("approval")
    first = workflow.wait(signal="first")
    second = workflow.wait(signal="second")
    workflow.returns(first=first.by, second=second.by)
    run = await client.start(workflow, id="s")
    await run.signal("second", {"by": "b"})
    with pytest.raises(DeadlineExceeded):
        await run.result(0.2)
    await run.signal("first", {"by": "a"})
    result = await run.result(PATIENCE_S)
    assert (result.first, result.second) == ("a", "b")
    with pytest.raises(WrongState):
        await run.signal("third")


async def test_a_failure_that_is_retried_and_one_that_is_not(client: Client) -> None:
    attempts: list[int] = []

    @task(retry=Retry.fixed(delay_ms=10, attempts=3))
    async def fragile(ctx: TaskContext) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError("not yet")
        raise TerminalError("GIVEN_UP", "no use")

    workflow = Workflow("fragile")
    workflow.step(fragile)
    async with working(client, fragile):
        with pytest.raises(WorkflowFailed) as failed:
            await (await client.start(workflow)).result(PATIENCE_S)
    assert attempts == [1, 2, 3]
    assert (failed.value.status, failed.value.failed_task) == ("FAILED", "fragile")
    assert "GIVEN_UP" in failed.value.reason
    tasks = (await client.get(failed.value.workflow_id, tasks=True)).tasks
    assert [each.status for each in tasks] == ["FAILED", "FAILED", "FAILED_WITH_TERMINAL_ERROR"]


async def test_a_task_that_is_not_done_goes_on_where_it_was(client: Client) -> None:
    told: list[tuple[Any, int, str]] = []

    @task
    async def paging(ctx: TaskContext) -> dict[str, int]:
        told.append((ctx.previous_details, ctx.attempt, ctx.idempotency_key))
        page = (ctx.previous_details or {"page": 0})["page"]
        if page < 2:
            raise NotDone(0.01, {"page": page + 1})
        return {"pages": page}

    workflow = Workflow("paging")
    workflow.step(paging)
    async with working(client, paging):
        run = await client.start(workflow)
        await run.result(PATIENCE_S)
    assert [details for details, _, _ in told] == [None, {"page": 1}, {"page": 2}]
    assert {(attempt, key) for _, attempt, key in told} == {(1, told[0][2])}
    [only] = (await client.get(run.workflow_id, tasks=True)).tasks
    assert (only.status, only.output) == ("COMPLETED", {"pages": 2})


async def test_a_saga_is_undone_by_the_same_worker(client: Client) -> None:
    undone: list[tuple[Any, ...]] = []

    @task
    async def charge(order: Order, ctx: TaskContext) -> Receipt:
        undone.append(("key", ctx.idempotency_key))
        return Receipt("r1")

    @charge.compensation
    async def refund(order: Order, done: Receipt | None, ctx: CompensationContext) -> None:
        undone.append((order, done, ctx.outcome, ctx.step.reference))
        assert undone[0] == ("key", ctx.step.idempotency_key) and ctx.idempotency_key != ctx.step.idempotency_key

    @task
    async def ship(order: Order) -> None:
        raise TerminalError("NO_TRUCKS")

    workflow = Workflow("saga", input=Order)
    workflow.step(charge, workflow.input)
    workflow.step(ship, workflow.input)
    async with working(client, charge, ship):
        with pytest.raises(WorkflowFailed, match="NO_TRUCKS") as failed:
            await (await client.start(workflow, Order("o1", 5))).result(PATIENCE_S)
    assert undone[1:] == [(Order("o1", 5), Receipt("r1"), "COMPLETED", "charge")]
    assert failed.value.compensation.state == "COMPLETE"
    assert [step.reference for step in failed.value.compensation.done] == ["charge"]


async def test_terminating_cancels_the_running_attempt(client: Client) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()

    @task
    async def endless() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    workflow = Workflow("endless")
    workflow.step(endless)
    async with working(client, endless) as worker:
        run = await client.start(workflow)
        await asyncio.wait_for(running.wait(), PATIENCE_S)
        await run.terminate("enough")
        await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
        with pytest.raises(WorkflowTerminated, match="enough"):
            await run.result(PATIENCE_S)
        # Its slot is free again.
        running.clear()
        await client.start(workflow, id="next")
        await asyncio.wait_for(running.wait(), PATIENCE_S)
        assert worker.running == 1
        await client.run("next").terminate()


async def test_heartbeats_keep_an_attempt_alive_and_their_details_reach_the_next(client: Client) -> None:
    seen: list[Any] = []

    @task(response_timeout_ms=1_000, retry=Retry.fixed(delay_ms=0, attempts=2))
    async def beating(ctx: TaskContext) -> str:
        seen.append(ctx.previous_details)
        if ctx.attempt == 2:
            return "done"
        for n in range(15):  # longer than the response timeout
            ctx.heartbeat({"at": n})
            await asyncio.sleep(0.1)
        await asyncio.Event().wait()  # and now it is silent
        return "never"

    workflow = Workflow("beating")
    workflow.returns(said=workflow.step(beating))
    async with working(client, beating):
        run = await client.start(workflow)
        assert (await run.result(PATIENCE_S)).said == "done"
    assert seen == [None, {"at": 14}]
    first, second = (await run.get(tasks=True)).tasks
    assert (first.status, second.status) == ("TIMED_OUT", "COMPLETED")


async def test_a_stopping_worker_finishes_what_it_has_and_leaves_the_rest(client: Client) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    @task
    async def slow(x: int) -> int:
        entered.set()
        await go_on.wait()
        return x

    @dataclass
    class Number:
        x: int

    workflow = Workflow("slow", input=Number)
    workflow.returns(x=workflow.step(slow, workflow.input.x))
    worker = Worker(client, [slow], slots=1, handle_signals=False)
    running = asyncio.create_task(worker.run())
    first = await client.start(workflow, Number(1))
    await asyncio.wait_for(entered.wait(), PATIENCE_S)
    second = await client.start(workflow, Number(2))
    worker.drain()
    go_on.set()
    assert (await first.result(PATIENCE_S)).x == 1
    await asyncio.wait_for(running, PATIENCE_S)
    status = await client.status()
    assert (status.worker_sessions, status.leased_tasks, status.ready_tasks) == (0, 0, 1)
    async with working(client, slow):
        assert (await second.result(PATIENCE_S)).x == 2


async def test_a_watch_sees_the_changes_and_ends_with_the_execution(client: Client) -> None:
    workflow = Workflow("watched")
    workflow.wait(signal="go", ref="one")
    workflow.wait(signal="go", ref="two")
    run = await client.start(workflow)
    seen: list[int] = []
    async for execution in run.watch(tasks=True):
        seen.append(sum(each.status == "COMPLETED" for each in execution.tasks))
        if not execution.status.ended:
            await run.signal("go")
    assert seen[0] == 0 and seen == sorted(seen) and execution.status == "COMPLETED"


async def test_search_pages_through_what_matches(client: Client) -> None:
    workflow = Workflow("waiter")
    workflow.wait(signal="go")
    runs = [await client.start(workflow, id=f"w-{n}", correlation_id=f"c-{n % 2}") for n in range(7)]
    await runs[0].signal("go")
    await runs[0].wait(PATIENCE_S)
    found = [each.workflow_id async for each in client.search(name="waiter", page_size=2)]
    assert found == [f"w-{n}" for n in reversed(range(7))]
    assert {e.workflow_id async for e in client.search(correlation_id="c-1")} == {"w-1", "w-3", "w-5"}
    assert [e.workflow_id async for e in client.search(statuses=["COMPLETED"])] == ["w-0"]
    assert [e async for e in client.search(name="nobody")] == []


async def test_mistakes_are_told_as_the_callers(client: Client) -> None:
    with pytest.raises(NotFound):
        await client.get("nobody")
    with pytest.raises(NotFound):
        await client.start("no-such-workflow")
    with pytest.raises(InvalidRequest) as wrong:
        await client.register({"name": "x", "version": 1, "tasks": [{"name": "y", "type": "SIMPLE"}]})
    assert "taskReferenceName" in wrong.value.message
    with pytest.raises(InvalidRequest):
        await client.start("x", id="i" * 201)


async def test_a_definition_is_not_replaced_by_accident(client: Client) -> None:
    first, changed = Workflow("same"), Workflow("same")
    first.wait(signal="one")
    changed.wait(signal="other")
    await client.register(first)
    await client.register(first)
    with pytest.raises(AlreadyExists, match="higher version"):
        await client.register(changed)
    await client.register(changed, overwrite=True)
    assert (await client.workflow_definition("same"))["tasks"][0]["inputParameters"] == {"signal": "other"}


async def test_a_node_that_restarts_is_a_pause(cluster: LocalCluster, client: Client) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    @task
    async def held(ctx: TaskContext) -> str:
        ran.append(ctx.fencing_token)
        entered.set()
        await release.wait()
        return "done"

    workflow = Workflow("held")
    workflow.returns(said=workflow.step(held))
    async with working(client, held):
        run = await client.start(workflow)
        await asyncio.wait_for(entered.wait(), PATIENCE_S)
        waiting = asyncio.create_task(run.result(PATIENCE_S))
        await cluster.kill_node("a")
        cluster.start_node("a")
        await cluster.wait_ready()
        release.set()
        assert (await waiting).said == "done"
    assert len(ran) == 1


async def test_the_client_without_asyncio(cluster: LocalCluster) -> None:
    workflow = Workflow("waiter")
    workflow.returns(by=workflow.wait(signal="go").by)

    def use() -> str:
        with SyncClient(cluster.endpoints) as client:
            run = client.start(workflow, id="sync")
            run.signal("go", {"by": "thread"})
            return str(run.result(PATIENCE_S).by)

    assert await asyncio.to_thread(use) == "thread"


async def test_queues_are_told(client: Client) -> None:
    await client.register({"name": "nobody-takes-it", "concurrentExecLimit": 3})
    workflow = {"name": "queued", "version": 1, "tasks": [
        {"name": "nobody-takes-it", "taskReferenceName": "a", "type": "SIMPLE"}]}
    await client.start(workflow, task_to_domain={"*": "eu"})
    [queue] = await client.task_queues("nobody-takes-it")
    assert (queue.name, queue.domain, queue.ready, queue.leased) == ("nobody-takes-it", "eu", 1, 0)
    assert (queue.concurrent_limit, queue.rate_limit, queue.held_back, queue.workers) == (3, 0, False, [])


async def test_workflows_and_tasks_are_searched(client: Client) -> None:
    workflow = Workflow("searched")
    workflow.wait(signal="go")
    for number in range(3):
        await client.start(workflow, {"secret": f"Number {number}"}, id=f"searched-{number}")
    await client.signal("searched-1", "go", {})
    await client.wait("searched-1", PATIENCE_S)
    found = client.search(query="workflowId = 'searched-*' AND status = RUNNING", sort="workflowId:ASC")
    assert [(each.workflow_id, each.input) async for each in found] == [("searched-0", {}), ("searched-2", {})]
    found = client.search(query="workflowType = searched", free_text="number 1", full=True)
    assert [(each.workflow_id, each.input) async for each in found] == [("searched-1", {"secret": "Number 1"})]
    hits = await client.count(query="workflowType STARTS_WITH search AND NOT status = COMPLETED")
    assert (hits.count, hits.is_lower_bound) == (2, False)
    tasks = [each async for each in client.search_tasks(query="workflowType = searched AND status = COMPLETED")]
    assert [(each.workflow_id, each.task.type, each.workflow_status) for each in tasks] == [
        ("searched-1", "WAIT", "COMPLETED")]
    assert (await client.count_tasks(query="workflowType = searched AND status = IN_PROGRESS")).count == 2
    with pytest.raises(InvalidRequest, match="there is no field 'color'"):
        _ = [each async for each in client.search(query="color = red")]


async def test_limits_hold_for_workers_with_more_slots(client: Client) -> None:
    running, peak = 0, 0

    @task(concurrent_limit=2, rate_limit=4, rate_window_ms=500)
    async def limited(number: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.02)
        running -= 1
        return number

    workflow = Workflow("limited", concurrent_limit=6)
    workflow.returns(number=workflow.step(limited, 5))
    began = asyncio.get_running_loop().time()
    async with working(client, limited, slots=20):
        runs = [await client.start(workflow, {}) for _ in range(10)]
        results = [await run.result(PATIENCE_S) for run in runs]
    assert [result.number for result in results] == [5] * 10
    assert peak == 2
    # Ten are three windows' worth: the last two came a second after the first at the earliest.
    assert asyncio.get_running_loop().time() - began > 0.9


async def test_masked_fields_are_for_workers_only(client: Client) -> None:
    given: list[str] = []

    @task
    async def pay(card: str) -> dict[str, str]:
        given.append(card)
        return {"card": card}

    workflow = Workflow("paying", masked_fields=["card"])
    workflow.step(pay, workflow.input.card)
    async with working(client, pay):
        run = await client.start(workflow, {"card": "4111", "sum": 5})
        await run.wait(PATIENCE_S)
    execution = await run.get(tasks=True)
    assert given == ["4111"]
    assert execution.input == {"card": "***", "sum": 5}
    assert execution.output == {"card": "***"}
    assert (execution.tasks[0].input, execution.tasks[0].output) == ({"card": "***"}, {"card": "***"})
    assert not [each async for each in client.search(free_text="4111")]


async def test_a_definition_is_taken_away_and_what_runs_goes_on(client: Client) -> None:
    approval = Workflow("approval")
    approval.wait(signal="approve")
    await client.register(approval)
    run = await client.start("approval", {})
    await client.delete_workflow_definition("approval", 1)
    with pytest.raises(NotFound) as refused:
        await client.start("approval", {})
    assert refused.value.reason == "WORKFLOW_DEFINITION_NOT_FOUND"
    with pytest.raises(NotFound):
        await client.delete_workflow_definition("approval")
    await run.signal("approve")
    assert (await run.wait(PATIENCE_S)).status == "COMPLETED"
    await client.register({"name": "charge", "retryCount": 1})
    await client.delete_task_definition("charge")
    with pytest.raises(NotFound):
        await client.delete_task_definition("charge")
