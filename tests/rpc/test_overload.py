"""A flood of starts for which there is no room: they are refused at the door, and everything else goes on."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from orchestrator.engine.commands import CompleteTask, StartWorkflow
from orchestrator.replication.errors import Overloaded
from orchestrator.rpc import ask_stream
from orchestrator_api.v1 import workers_pb2, workflows_pb2
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_api.v1.workflows_pb2 import StartWorkflowRequest, WaitWorkflowRequest
from tests.rpc.asking import Asker, refusal
from tests.rpc.bench import Bench, Stubs, Worker, soon
from tests.rpc.statuses import info_of, retry_after_ms

FLOOD = 5_000
FULL = Overloaded("no new workflows for now: starts_under_way is 40, the limit is 32", 800)


@pytest.fixture(autouse=True)
def order(bench: Bench) -> None:
    bench.order("pay", "ship")


def start(number: int) -> StartWorkflowRequest:
    return StartWorkflowRequest(name="order", workflow_id=f"new-{number}", input=Payload(inline=b'{"a":1}'))


async def test_a_flood_is_refused_with_hints_while_results_polls_and_reads_go_on(bench: Bench, stubs: Stubs) -> None:
    bench.start("w")
    worker = Worker(stubs)
    await worker.hello("pay", slots=4)
    (pay,) = await worker.assigned()
    flooding, reading = Asker(stubs), Asker(stubs)
    await flooding.hello()
    await reading.hello()
    bench.refusal = lambda: FULL
    before = len(bench.submitted)

    flood = asyncio.ensure_future(flooding.start(*map(start, range(FLOOD))))
    # A worker's result, the next task by a poll, its result by a call, a wait and a read.
    await worker.give(
        workers_pb2.TaskResult(
            workflow_id="w", task_id=pay.task_id, fencing_token=pay.fencing_token,
            status=workflows_pb2.TASK_STATUS_COMPLETED, output=Payload(inline=b"{}"),
        )
    )
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_ACCEPTED
    polled = await soon("the poll", stubs.workers.PollTasks(
        workers_pb2.PollTasksRequest(worker_id="p", task_names=["ship"], max_tasks=1, wait_ms=5_000)
    ))
    (ship,) = polled.assignments
    (number,) = await reading.wait(WaitWorkflowRequest(workflow_id="w", wait_ms=5_000))
    await soon("the result", stubs.workers.CompleteTask(workers_pb2.CompleteTaskRequest(
        result=workers_pb2.TaskResult(
            workflow_id="w", task_id=ship.task_id, fencing_token=ship.fencing_token,
            status=workflows_pb2.TASK_STATUS_COMPLETED, output=Payload(inline=b"{}"),
        ),
    )))
    assert (await reading.answer(number)).workflow.status == workflows_pb2.WORKFLOW_STATUS_COMPLETED
    read = await soon("the read", stubs.workflows.GetWorkflow(workflows_pb2.GetWorkflowRequest(workflow_id="w")))
    assert read.workflow.status == workflows_pb2.WORKFLOW_STATUS_COMPLETED

    await flood
    answers = await flooding.answers(FLOOD)
    for answer in answers.values():
        error = refusal(answer)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (info_of(error).reason, retry_after_ms(error)) == ("OVERLOADED", 800)
    # Nothing was done for them: no command was made, and none was proposed.
    assert not [command for command in bench.submitted[before:] if isinstance(command, StartWorkflow)]
    assert len(bench.submitted_of(CompleteTask)) == 2


async def test_the_status_of_a_flood_is_made_once_for_the_same_words(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    status_of = ask_stream.status_of
    monkeypatch.setattr(ask_stream, "status_of", lambda failure: (made.append(failure.message), status_of(failure))[1])
    asker = Asker(stubs)
    await asker.hello()
    bench.refusal = lambda: FULL
    await asker.start(*map(start, range(100)))
    await asker.answers(100)
    later = Overloaded("other words", 1_600)
    bench.refusal = lambda: later
    numbers = await asker.start(start(0))
    answers = await asker.answers(1)
    assert made == [str(FULL), "other words"]
    assert retry_after_ms(refusal(answers[numbers[0]])) == 1_600


async def test_when_there_is_room_again_the_same_stream_starts(bench: Bench, stubs: Stubs) -> None:
    asker = Asker(stubs)
    await asker.hello()
    bench.refusal = lambda: FULL
    await asker.start(start(1))
    await asker.answers(1)
    bench.refusal = lambda: None
    (number,) = await asker.start(start(1))
    assert (await asker.answer(number)).started.workflow_id == "new-1"


@pytest.mark.parametrize("method", ["StartWorkflow", "StartWorkflowAndWait", "ExecuteWorkflow"])
async def test_calls_that_start_are_refused_alike(bench: Bench, stubs: Stubs, method: str) -> None:
    bench.refusal = lambda: FULL
    requests = {
        "StartWorkflow": start(1),
        "StartWorkflowAndWait": workflows_pb2.StartWorkflowAndWaitRequest(start=start(1), wait_ms=1_000),
        "ExecuteWorkflow": workflows_pb2.ExecuteWorkflowRequest(start=start(1), wait_ms=1_000),
    }
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await soon("the refusal", getattr(stubs.workflows, method)(requests[method]))
        assert (info_of(caught.value).reason, retry_after_ms(caught.value)) == ("OVERLOADED", 800)
    assert bench.submitted_of(StartWorkflow) == []


async def test_a_refusal_without_a_delay_of_its_own_has_the_usual_one(bench: Bench, stubs: Stubs) -> None:
    bench.refusal = lambda: Overloaded("no room")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the refusal", stubs.workflows.StartWorkflow(start(1)))
    assert retry_after_ms(caught.value) == 100
