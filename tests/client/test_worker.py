"""The worker against a scripted leader: each test plays the server's end of the stream."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_api.v1.workflows_pb2 import (
    TASK_STATUS_COMPLETED,
    TASK_STATUS_FAILED,
    TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
)
from orchestrator_client import (
    Client,
    CompensationContext,
    InvalidRequest,
    Retry,
    Task,
    TaskContext,
    TerminalError,
    Worker,
    task,
)
from tests.client.fake_cluster import FakeCluster, Refused, WorkStream


def assignment(name: str, number: int = 1, token: int = 1, input: str = "{}", **fields: Any) -> pb.Assignment:
    return pb.Assignment(
        workflow_id="w",
        task_id=f"t{number}",
        fencing_token=token,
        idempotency_key=f"key-{number}",
        name=name,
        reference=name,
        input=Payload(inline=input.encode()),
        **fields,
    )


class Gate:
    """A task that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.runs = 0

        @task(name="gated")
        async def gated() -> str:
            self.runs += 1
            self.started.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "done"

        self.task = gated

    async def wait(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(10):
            await event.wait()


@dataclass
class Running:
    worker: Worker
    run: asyncio.Task[None]


@asynccontextmanager
async def working(client: Client, *tasks: Task[..., Any], **options: Any) -> AsyncIterator[Running]:
    worker = Worker(client, tasks, handle_signals=False, **options)
    run = asyncio.ensure_future(worker.run())
    try:
        yield Running(worker, run)
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


@asynccontextmanager
async def streaming(cluster: FakeCluster, client: Client, *tasks: Task[..., Any]) -> AsyncIterator[WorkStream]:
    async with working(client, *tasks):
        stream = await cluster.stream()
        stream.welcome()
        yield stream


@dataclass
class Order:
    id: str
    quantity: int = 1


@dataclass
class Charge:
    receipt: str


@task
async def charge(order: Order, ctx: TaskContext) -> Charge:
    return Charge(f"{order.id} {ctx.idempotency_key} {ctx.attempt}")


@charge.compensation
async def refund(order: Order, done: Charge | None, ctx: CompensationContext) -> dict[str, Any]:
    receipt = done.receipt if done else None
    return {"order": order.id, "receipt": receipt, "key": ctx.step.idempotency_key, "outcome": ctx.outcome}


async def test_a_worker_says_what_it_can_do_and_does_it(cluster: FakeCluster, client: Client) -> None:
    async with streaming(cluster, client, charge) as stream:
        assert list(stream.hello.task_names) == ["charge", "refund"]
        assert stream.hello.slots == 32
        stream.assign(assignment("charge", input='{"order": {"id": "7", "unknown": 1}}', retry_count=1))
        (result,) = await stream.results(1)
        assert result.status == TASK_STATUS_COMPLETED
        assert result.output.inline == b'{"receipt":"7 key-1 2"}'


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"step_output": Payload(inline=b'{"receipt":"r"}')}, '"receipt":"r","key":"step-key","outcome":"COMPLETED"'),
        ({"outcome_unknown": True}, '"receipt":null,"key":"step-key","outcome":"UNKNOWN"'),
    ],
)
async def test_a_compensation_gets_the_step_that_it_undoes(
    cluster: FakeCluster, client: Client, output: dict[str, Any], expected: str
) -> None:
    async with streaming(cluster, client, charge) as stream:
        undone = pb.CompensationAssignment(
            reference="charge",
            step_input=Payload(inline=b'{"order":{"id":"7"}}'),
            step_idempotency_key="step-key",
            **output,
        )
        stream.assign(assignment("refund", compensation=undone))
        (result,) = await stream.results(1)
        assert result.output.inline.decode() == '{"order":"7",' + expected + "}"


def raising(error: BaseException) -> Callable[[], None]:
    def failing() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    ("function", "input", "status", "code", "reason"),
    [
        (raising(ValueError("bad luck")), "{}", TASK_STATUS_FAILED, "ValueError", "ValueError: bad luck"),
        (
            raising(TerminalError("CARD_DECLINED", "no money")),
            "{}",
            TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
            "CARD_DECLINED",
            "CARD_DECLINED: no money",
        ),
        (raising(SystemExit(3)), "{}", TASK_STATUS_FAILED, "SystemExit", "SystemExit: 3"),
        (
            charge.function,
            '{"order": {"id": 7}}',
            TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
            "INPUT_INVALID",
            "the input does not fit failing: order.id: expected text, found a number",
        ),
        (
            lambda: "x" * 300_000,
            "{}",
            TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
            "OUTPUT_TOO_LARGE",
            "the result of failing has 300013 bytes of JSON; at most 262144 fit",
        ),
        (
            lambda: {"a": [object()]},
            "{}",
            TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
            "OUTPUT_INVALID",
            "the result of failing: result.a[0]: a object has no JSON form; give it as a dataclass or a dict",
        ),
    ],
)
async def test_failures(
    cluster: FakeCluster, client: Client, function: Any, input: str, status: int, code: str, reason: str
) -> None:
    async with streaming(cluster, client, task(name="failing")(function)) as stream:
        stream.assign(assignment("failing", input=input))
        (result,) = await stream.results(1)
        assert (result.status, result.error_code, result.reason) == (status, code, reason)


async def test_plain_functions_run_beside_each_other_in_threads(cluster: FakeCluster, client: Client) -> None:
    meeting = threading.Barrier(3)

    @task
    def meet() -> int:
        return meeting.wait(10)

    async with streaming(cluster, client, meet) as stream:
        stream.assign(*(assignment("meet", number) for number in range(3)))
        results = await stream.results(3)
        assert sorted(result.output.inline for result in results) == [b'{"result":0}', b'{"result":1}', b'{"result":2}']


async def test_results_that_are_ready_together_go_in_one_frame(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with streaming(cluster, client, gate.task) as stream:
        stream.assign(*(assignment("gated", number) for number in range(20)))
        await gate.wait(gate.started)
        gate.open.set()
        assert len((await stream.frame("results")).results) == 20


async def test_a_result_is_sent_again_until_its_verdict_comes(cluster: FakeCluster, client: Client) -> None:
    async with working(client, charge) as running:
        first = await cluster.stream()
        first.welcome()
        given = assignment("charge", input='{"order": {"id": "7"}}')
        first.assign(given)
        (result,) = await first.results(1)
        first.break_off()

        second = await cluster.stream()
        assert second.hello.session_id == "worker-session"
        assert [held.task_id for held in second.hello.held] == ["t1"]
        second.welcome(resumed=True)
        assert await second.results(1) == [result]
        second.judge(result)
        second.break_off()

        third = await cluster.stream()
        assert not third.hello.held
        third.welcome(resumed=True)
        # Handed out again by mistake: it has had its verdict.
        third.assign(given)
        third.assign(assignment("charge", 2, input='{"order": {"id": "8"}}'))
        assert [again.task_id for again in await third.results(1)] == ["t2"]
        assert running.worker.running == 0


async def test_running_attempts_do_not_notice_a_change_of_the_leader(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task):
        first = await cluster.stream()
        first.welcome()
        given = assignment("gated")
        first.assign(given)
        await gate.wait(gate.started)
        cluster.elect(cluster.nodes[1])
        await cluster.nodes[0].kill()

        second = await cluster.stream()
        assert second.node is cluster.nodes[1]
        second.welcome(resumed=True)
        second.assign(given)  # a new leader is not sure that it arrived
        gate.open.set()
        assert [result.task_id for result in await second.results(1)] == ["t1"]
        assert gate.runs == 1


async def test_frames_of_an_older_leader_or_generation_are_ignored(cluster: FakeCluster, client: Client) -> None:
    async with working(client, charge):
        stream = await cluster.stream()
        stream.welcome(term=5, generation=3)
        order = '{"order": {"id": "7"}}'
        stream.assign(assignment("charge", 1, input=order), term=4, generation=9)
        stream.assign(assignment("charge", 2, input=order), term=5, generation=2)
        stream.assign(assignment("charge", 3, input=order), term=5, generation=3)
        assert [result.task_id for result in await stream.results(1)] == ["t3"]
        stream.break_off()

        # A node that has missed its own end resumes the session of which it once was the leader.
        stale = await cluster.stream()
        stale.welcome(resumed=True, term=4, generation=9)
        fresh = await cluster.stream()
        fresh.welcome(resumed=True, term=6, generation=4)
        assert [result.task_id for result in await fresh.results(1)] == ["t3"]


async def test_a_lost_session_ends_what_runs(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task) as running:
        first = await cluster.stream()
        first.welcome("one")
        first.assign(assignment("gated"))
        await gate.wait(gate.started)
        first.break_off()

        second = await cluster.stream()
        second.welcome("two", resumed=False, generation=0)
        await gate.wait(gate.cancelled)
        gate.open.set()
        second.assign(assignment("gated", token=2), generation=0)
        (result,) = await second.results(1)
        assert result.fencing_token == 2
        second.break_off()
        assert (await cluster.stream()).hello.session_id == "two"
        assert running.worker.running == 0


async def test_a_cancelled_attempt_stops_and_frees_its_slot(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with streaming(cluster, client, gate.task) as stream:
        given = assignment("gated")
        stream.assign(given)
        await gate.wait(gate.started)
        stream.cancel(given, fenced=True)
        release = await stream.frame("release")
        assert gate.cancelled.is_set()
        assert [(held.task_id, held.fencing_token) for held in release.attempts] == [("t1", 1)]


async def test_a_result_in_spite_of_a_cancel_counts_only_while_the_server_awaits_it(
    cluster: FakeCluster, client: Client
) -> None:
    started = asyncio.Queue[None]()

    @task
    async def stubborn() -> str:
        started.put_nowait(None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished anyway"
        return ""

    async with streaming(cluster, client, stubborn) as stream:
        for number, fenced in ((1, False), (2, True)):
            given = assignment("stubborn", number)
            stream.assign(given)
            await started.get()
            stream.cancel(given, fenced=fenced)
        assert [result.task_id for result in await stream.results(1)] == ["t1"]
        assert [held.task_id for held in (await stream.frame("release")).attempts] == ["t2"]


async def test_a_thread_learns_of_its_cancellation_from_the_context(cluster: FakeCluster, client: Client) -> None:
    @task
    def watching(ctx: TaskContext) -> None:
        ctx.heartbeat({"at": "start"})
        assert ctx.cancelled.wait(10)

    async with streaming(cluster, client, watching) as stream:
        given = assignment("watching")
        stream.assign(given)
        beat = await stream.frame("heartbeat")
        assert beat.attempts[0].details.inline == b'{"at":"start"}'
        stream.cancel(given, fenced=True)
        assert [held.task_id for held in (await stream.frame("release")).attempts] == ["t1"]


async def test_the_last_details_arrive_before_the_failure(cluster: FakeCluster, client: Client) -> None:
    @task(retry=Retry.none())
    async def progressing(ctx: TaskContext) -> None:
        assert ctx.previous_details == {"page": 3}
        ctx.heartbeat({"page": 4})
        ctx.heartbeat({"page": 5})
        raise OSError("broken pipe")

    async with streaming(cluster, client, progressing) as stream:
        stream.assign(assignment("progressing", heartbeat_details=Payload(inline=b'{"page": 3}')))
        beat = await stream.frame("heartbeat")
        assert [each.details.inline for each in beat.attempts] == [b'{"page":5}']
        await stream.results(1)


async def test_heartbeats_come_by_themselves(cluster: FakeCluster, client: Client) -> None:
    async with streaming(cluster, client, charge) as stream:
        async with asyncio.timeout(10):
            for _ in range(3):
                await stream.heartbeats.get()


async def test_go_away_is_followed_to_the_hinted_leader(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task):
        first = await cluster.stream()
        first.welcome()
        first.assign(assignment("gated"))
        await gate.wait(gate.started)
        cluster.elect(cluster.nodes[2])
        first.go_away(cluster.nodes[2].address)
        second = await cluster.stream()
        assert second.node is cluster.nodes[2]
        assert [held.task_id for held in second.hello.held] == ["t1"]
        assert not gate.cancelled.is_set()


async def test_go_away_from_the_leader_itself_means_come_back(cluster: FakeCluster, client: Client) -> None:
    async with working(client, charge):
        first = await cluster.stream()
        first.welcome("one")
        first.go_away(first.node.address)
        second = await cluster.stream()
        assert second.node is first.node
        # The session has ended; the server opens it anew under its old id.
        second.welcome("one", resumed=False)
        second.assign(assignment("charge", input='{"order": {"id": "7"}}'))
        await second.results(1)


async def test_details_that_are_no_object_fail_where_they_are_given(cluster: FakeCluster, client: Client) -> None:
    @task
    async def progressing(ctx: TaskContext) -> None:
        ctx.heartbeat(3)

    async with streaming(cluster, client, progressing) as stream:
        stream.assign(assignment("progressing"))
        (result,) = await stream.results(1)
        assert result.reason == "TypeError: heartbeat details are an object (a dict or a dataclass), not int"


async def test_stopping_finishes_what_runs_and_says_goodbye(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task) as running:
        stream = await cluster.stream()
        stream.welcome()
        stream.assign(assignment("gated"))
        await gate.wait(gate.started)
        stopping = asyncio.ensure_future(running.worker.stop())
        assert (await stream.frame("slots")).slots == 0
        gate.open.set()
        results = await stream.results(1)
        assert not stopping.done()
        stream.judge(*results)
        await stream.frame("goodbye")
        await asyncio.wait_for(asyncio.gather(stopping, running.run), 10)


async def test_stopping_does_not_wait_longer_than_it_is_told(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task) as running:
        stream = await cluster.stream()
        stream.welcome()
        stream.assign(assignment("gated"))
        await gate.wait(gate.started)
        await asyncio.wait_for(running.worker.stop(timeout_s=0.05), 10)
        assert (await stream.frame("slots")).slots == 0
        await stream.frame("goodbye")
        await gate.wait(gate.cancelled)


async def test_sigterm_drains(cluster: FakeCluster, client: Client) -> None:
    worker = Worker(client, [charge])
    run = asyncio.ensure_future(worker.run())
    stream = await cluster.stream()
    stream.welcome()
    await worker.connected()
    os.kill(os.getpid(), signal.SIGTERM)
    await stream.frame("slots")
    await stream.frame("goodbye")
    await asyncio.wait_for(run, 10)


async def test_a_cancelled_worker_gives_back_what_it_holds(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task) as running:
        stream = await cluster.stream()
        stream.welcome()
        stream.assign(assignment("gated"))
        await gate.wait(gate.started)
        running.run.cancel()
        await stream.frame("goodbye")
        await gate.wait(gate.cancelled)


async def test_a_worker_that_is_refused_for_good_says_so(cluster: FakeCluster, client: Client) -> None:
    cluster.work_fault = lambda: Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID", field="slots", limit="10000")
    with pytest.raises(InvalidRequest) as error:
        await asyncio.wait_for(Worker(client, [charge], handle_signals=False).run(), 10)
    assert (error.value.field, error.value.limit) == ("slots", "10000")


async def test_a_worker_outlives_a_bug_of_the_server(cluster: FakeCluster, client: Client) -> None:
    faults = [Refused(grpc.StatusCode.INTERNAL), Refused(grpc.StatusCode.UNKNOWN)]
    cluster.work_fault = lambda: faults.pop() if faults else None
    async with working(client, charge):
        await cluster.stream()
    assert not faults


async def test_a_session_that_nobody_knows_any_more_is_opened_anew(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task):
        first = await cluster.stream()
        first.welcome("one")
        first.assign(assignment("gated"))
        await gate.wait(gate.started)
        faults = [Refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")]
        cluster.work_fault = lambda: faults.pop() if faults else None
        first.break_off()
        second = await cluster.stream()
        assert second.hello.session_id == ""
        assert not second.hello.held
        await gate.wait(gate.cancelled)


async def test_leaving_ends_though_the_server_says_nothing(cluster: FakeCluster, client: Client) -> None:
    async with working(client, charge) as running:
        await cluster.stream()  # which is never welcomed
        await asyncio.wait_for(running.worker.stop(), 10)
        await asyncio.wait_for(running.run, 10)


async def test_a_worker_finds_the_leader(cluster: FakeCluster, client: Client) -> None:
    cluster.elect(cluster.nodes[2])
    async with working(client, charge):
        assert (await cluster.stream()).node is cluster.nodes[2]


async def test_a_worker_leaves_a_silent_leader(cluster: FakeCluster, client: Client) -> None:
    async with working(client, charge):
        first = await cluster.stream()
        first.welcome()
        cluster.nodes[0].silent = True
        cluster.elect(cluster.nodes[1])
        second = await cluster.stream()
        assert second.node is cluster.nodes[1]
        assert second.hello.session_id == "worker-session"


def test_two_tasks_of_one_name_are_refused() -> None:
    @task(name="charge")
    async def other() -> None: ...

    async def make() -> None:
        Worker(Client("localhost:1"), [charge, other])

    with pytest.raises(ValueError, match="two different tasks are named 'charge'"):
        asyncio.run(make())
