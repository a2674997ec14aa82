"""The worker against a scripted leader: each test plays the server's end of the stream."""


from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_api.v1.workflows_pb2 import (
    TASK_STATUS_COMPLETED,
    TASK_STATUS_FAILED,
    TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
    TASK_STATUS_IN_PROGRESS,
)
from orchestrator_client import (
    Client,
    NotDone,
    Retry,
    TaskContext,
    TerminalError,
    task,
)
from tests.client.fake_cluster import FakeCluster
from tests.client.worker_side import Gate, assignment, charge, streaming, working


async def test_a_worker_says_what_it_can_do_and_does_it(cluster: FakeCluster, client: Client) -> None:
    async with streaming(cluster, client, charge) as stream:
        assert list(stream.hello.task_names) == ["charge", "refund"]
        assert stream.hello.slots == 32
        stream.assign(assignment("charge", input='{"order": {"id": "7", "unknown": 1}}', retry_count=1))
        (result,) = await stream.results(1)
        assert result.status == TASK_STATUS_COMPLETED
        assert result.output.inline == b'{"receipt":"7 key-1 2"}'


async def test_the_queue_says_which_function_is_meant(cluster: FakeCluster, client: Client) -> None:
    @task(name="pack", execution_namespace="eu", isolation_group="gold")
    def pack_gold() -> str:
        return "gold"

    @task(name="pack")
    def pack() -> str:
        return "plain"

    async with working(client, pack_gold, pack, isolation_group="silver", execution_namespace="us"):
        stream = await cluster.stream()
        stream.welcome()
        assert list(stream.hello.task_names) == ["pack@eu-gold", "pack@us-silver"]
        stream.assign(assignment("pack", queue="pack@eu-gold"), assignment("pack", 2, 2, queue="pack@us-silver"))
        results = {result.task_id: result.output.inline for result in await stream.results(2)}
    assert results == {"t1": b'{"result":"gold"}', "t2": b'{"result":"plain"}'}
    definition = pack_gold.definition()
    assert (definition["executionNameSpace"], definition["isolationGroupId"]) == ("eu", "gold")


async def test_a_task_is_given_what_it_asks_for(cluster: FakeCluster, client: Client) -> None:
    told = []

    @task(runtime_metadata=["KEY", "URL"])
    def call(ctx: TaskContext) -> list[str]:
        told.append(repr(ctx))
        return [f"{name}={value}" for name, value in ctx.runtime_metadata.items()]

    async with streaming(cluster, client, call) as stream:
        stream.assign(assignment("call", runtime_metadata={"KEY": "hunter2"}), assignment("call", 2, 2))
        results = {result.task_id: result.output.inline for result in await stream.results(2)}
    assert results == {"t1": b'{"result":["KEY=hunter2"]}', "t2": b'{"result":[]}'}
    assert call.definition()["runtimeMetadata"] == ["KEY", "URL"]
    assert len(told) == 2 and "hunter2" not in "".join(told)


@pytest.mark.parametrize("names", ["KEY", ["KEY", ""]])
def test_what_a_task_asks_for_is_a_list_of_names(names: Any) -> None:
    with pytest.raises(ValueError, match="list of non-empty names"):
        task(runtime_metadata=names)


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
            lambda: "x" * (15 << 20),
            "{}",
            TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
            "OUTPUT_TOO_LARGE",
            "the result of failing has 15728653 bytes of JSON; at most 15728640 fit",
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
        async with asyncio.timeout(60):
            for _ in range(3):
                await stream.heartbeats.get()




async def test_a_result_that_cannot_be_sent_counts_as_perhaps_done(cluster: FakeCluster, client: Client) -> None:
    @task(name="boundless")
    def boundless() -> str:
        return "x" * (15 << 20)

    async with streaming(cluster, client, boundless) as stream:
        stream.assign(assignment("boundless"))
        (result,) = await stream.results(1)
    assert (result.error_code, result.outcome_unknown) == ("OUTPUT_TOO_LARGE", True)


async def test_a_task_may_say_that_its_failure_may_have_taken_effect(cluster: FakeCluster, client: Client) -> None:
    @task(name="uncertain")
    def uncertain() -> None:
        raise TerminalError("PSP_SILENT", "no answer", outcome_unknown=True)

    async with streaming(cluster, client, uncertain) as stream:
        stream.assign(assignment("uncertain"))
        (result,) = await stream.results(1)
    assert (result.error_code, result.outcome_unknown) == ("PSP_SILENT", True)


@pytest.mark.parametrize(
    ("error", "after_ms", "output"),
    [
        (NotDone(1.5, {"page": 2}), 1_500, b'{"page":2}'),
        (NotDone(0), 0, b""),
        (NotDone(1e18), (2**31 - 1) * 1000, b""),
    ],
)
async def test_what_is_not_done_is_asked_again(
    cluster: FakeCluster, client: Client, error: NotDone, after_ms: int, output: bytes
) -> None:
    async with streaming(cluster, client, task(name="paging")(raising(error))) as stream:
        stream.assign(assignment("paging"))
        (result,) = await stream.results(1)
    assert result.status == TASK_STATUS_IN_PROGRESS
    assert (result.callback_after_ms, result.output.inline) == (after_ms, output)


@pytest.mark.parametrize(
    ("details", "reason"),
    [([1], "they are no object"), ({"x": "y" * 70_000}, "at most 65536 fit"), ({"x": object()}, "has no JSON form")],
)
async def test_what_can_not_be_said_of_it_fails_for_good(
    cluster: FakeCluster, client: Client, details: Any, reason: str
) -> None:
    async with streaming(cluster, client, task(name="paging")(raising(NotDone(1, details)))) as stream:
        stream.assign(assignment("paging"))
        (result,) = await stream.results(1)
    assert (result.status, result.error_code) == (TASK_STATUS_FAILED_WITH_TERMINAL_ERROR, "OUTPUT_INVALID")
    assert reason in result.reason
    assert result.outcome_unknown


def test_a_while_is_a_number_of_seconds() -> None:
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="after_s"):
            NotDone(wrong)
    assert str(NotDone(1.5)) == "not done: goes on after 1.5 s"
