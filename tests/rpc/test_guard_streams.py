"""Streams behind the guard: each thing that is said is judged, and a stream ends with the right to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from orchestrator.access.limits import ClientLimits
from orchestrator.engine import commands, system
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator_api.v1 import asks_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_api.v1.errors_pb2 import ErrorInfo
from tests.access.issuing import ISSUER, Issuer
from tests.engine.driver import simple, workflow
from tests.rpc.asking import Asker
from tests.rpc.attempts import result
from tests.rpc.bench import Bench, Stubs, Worker, soon, until
from tests.rpc.guarding import DENIED, EXPIRED, MISSING, NOW_MS, RULES, Guarded, guarded
from tests.rpc.statuses import info_of, retry_after_ms


@pytest.fixture
async def guard(bench: Bench, tmp_path: Path) -> AsyncIterator[Guarded]:
    bench.order("pay", "ship")
    bench.driver.register(workflow("payroll", simple("pay")))
    async with guarded(bench, tmp_path) as made:
        yield made


def status(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    return error.code(), info_of(error).reason


async def asking(stubs: Stubs) -> Asker:
    asker = Asker(stubs)
    await asker.hello()
    return asker


async def ended(asker: Asker) -> tuple[grpc.StatusCode, str]:
    """With what the stream of asks ends."""
    try:
        while await soon("the end of the stream", asker.call.read()) is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return status(error)
    raise AssertionError("the stream ended well")


def reason(answer: asks_pb2.Answer) -> str:
    """Of a refusal; empty if it is none."""
    for detail in answer.refused.details:
        if detail.type_url.endswith("ErrorInfo"):
            return ErrorInfo.FromString(detail.value).reason
    return ""


# --- asks


async def test_each_start_and_wait_is_judged_by_its_own_workflow(bench: Bench, guard: Guarded) -> None:
    bench.driver.start("payroll", "p")
    bench.driver.start("order", "o")
    asker = await asking(guard.as_("starter"))
    numbers = [
        *await asker.start(pb.StartWorkflowRequest(name="order", workflow_id="w")),
        *await asker.start(pb.StartWorkflowRequest(name="payroll")),
        *await asker.start(pb.StartWorkflowRequest(name="order", namespace="other")),
        *await asker.start(pb.StartWorkflowRequest(name="order", definition_json=b"{}")),
        await asker.outcome(pb.StartWorkflowRequest(name="payroll", workflow_id="q"), wait_ms=1),
        *await asker.wait(pb.WaitWorkflowRequest(workflow_id="p", wait_ms=1)),
        *await asker.wait(pb.WaitWorkflowRequest(workflow_id="none", wait_ms=1)),
        *await asker.wait(pb.WaitWorkflowRequest(workflow_id="o", wait_ms=1)),
    ]
    answers = await asker.answers(len(numbers))
    denied = "PERMISSION_DENIED"
    assert [reason(answers[number]) for number in numbers] == [
        "", denied, denied, denied, denied, "WORKFLOW_NOT_FOUND", "WORKFLOW_NOT_FOUND", ""]
    assert [command.name for command in bench.submitted_of(commands.StartWorkflow)] == ["order"]


async def test_a_wait_that_outlives_its_execution_does_not_see_another_under_its_id(
    bench: Bench, guard: Guarded
) -> None:
    bench.driver.start("order", "w")
    asker = await asking(guard.as_("starter"))
    (number,) = await asker.wait(pb.WaitWorkflowRequest(workflow_id="w", wait_ms=60_000))
    await until("the wait to be watched", lambda: bool(bench.notifier._watchers))
    bench.apply(commands.TerminateWorkflow("default", "w", "", commands.TerminateCompensation.SKIP))
    answer = (await asker.answers(1))[number]
    assert answer.workflow.status == pb.WORKFLOW_STATUS_TERMINATED


@pytest.mark.parametrize(("name", "expected"), [("", MISSING), ("nobody", DENIED)])
async def test_a_stream_is_not_opened_for_nobody(guard: Guarded, name: str, expected: Any) -> None:
    assert await ended(Asker(guard.as_(name))) == expected
    assert status(await Worker(guard.as_(name)).failed()) == expected


async def test_rules_that_change_count_for_what_is_said_from_then_on(bench: Bench, guard: Guarded) -> None:
    asker = await asking(guard.as_("starter"))
    guard.write(RULES.replace("order*", "payroll"))
    await guard.rules.look()
    numbers = await asker.start(pb.StartWorkflowRequest(name="order"), pb.StartWorkflowRequest(name="payroll"))
    answers = await asker.answers(2)
    assert [reason(answers[number]) for number in numbers] == ["PERMISSION_DENIED", ""]


async def test_a_stream_ends_when_its_token_is_taken_away(bench: Bench, guard: Guarded) -> None:
    asker, other = await asking(guard.as_("starter")), await asking(guard.as_("operator"))
    watching = guard.as_("owner").workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    bench.start("w")
    await soon("the execution", watching.read())
    rules = RULES.replace('to = ["starter"]', 'to = ["nobody"]')
    guard.write(rules, without="starter")
    await guard.rules.look()
    assert await ended(asker) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    await other.start(pb.StartWorkflowRequest(name="order"))
    assert len(await other.answers(1)) == 1
    guard.write(rules.replace('to = ["owner"]', 'to = ["nobody"]'), without="owner")
    await guard.rules.look()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the end of the watch", watching.read())
    assert status(caught.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_stream_ends_when_its_token_expires(bench: Bench, tmp_path: Path) -> None:
    bench.order("pay")
    signer = Issuer()
    signer.write(tmp_path / "keys.json")
    more = f"""
        [[jwt]]
        name = "corp"
        issuer = "{ISSUER}"
        audience = "orchestrator"
        jwks_file = "keys.json"
        [[grant]]
        to = ["corp:alice"]
        role = "admin"
        namespaces = ["default"]
    """
    async with guarded(bench, tmp_path, more=more) as guard:
        stubs = guard.showing("Bearer " + signer.token(exp=NOW_MS / 1000 + 10))
        asker, worker = await asking(stubs), Worker(stubs)
        await worker.hello("pay")
        guard.rules.on_tick()
        await asker.start(pb.StartWorkflowRequest(name="order"))
        assert len(await asker.answers(1)) == 1
        guard.now_ms += 40_000
        guard.rules.on_tick()
        assert await ended(asker) == EXPIRED
        assert status(await worker.failed()) == EXPIRED
        assert guard.refused["TOKEN_EXPIRED"] == 2


async def test_who_watches_sees_no_more_than_the_rules_allow_now(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    watching = guard.as_("starter").workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    assert (await soon("the execution", watching.read())).workflow.name == "order"
    guard.write(RULES.replace("order*", "payroll"))
    await guard.rules.look()
    bench.apply(commands.PauseWorkflow("default", "w"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the end of the watch", watching.read())
    assert status(caught.value) == (grpc.StatusCode.NOT_FOUND, "WORKFLOW_NOT_FOUND")


# --- workers


async def test_a_worker_says_hello_for_what_it_may_execute(bench: Bench, guard: Guarded) -> None:
    for name, tasks in (("payer", ("pay", "ship")), ("payer", ("ship",)), ("reader", ("pay",)), ("operator", ("pay",))):
        worker = Worker(guard.as_(name))
        await worker.say(hello=workers_pb2.WorkHello(worker_id="w", task_names=tasks, slots=1))
        error = await worker.failed()
        assert status(error) == DENIED
        assert info_of(error).metadata["method"] == "Work/hello"
    worker = Worker(guard.as_("payer"))
    await worker.hello("pay")
    assert [opened.task_names for opened in bench.submitted_of(commands.OpenSession)] == [("pay",)]


async def test_a_worker_executes_its_task_and_is_told_when_it_completes_anothers(bench: Bench, guard: Guarded) -> None:
    bench.start("w1")
    bench.start("w2")
    payer, shipper = Worker(guard.as_("payer")), Worker(guard.as_("shipper"))
    await payer.hello("pay")
    await shipper.hello("ship")
    first, second = await payer.assigned(2)
    await shipper.give(result(first))
    (verdict,) = await shipper.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_INVALID and "PERMISSION_DENIED" in verdict.message
    await payer.give(result(first), result(second))
    assert {each.verdict for each in await payer.verdicts(2)} == {workers_pb2.VERDICT_ACCEPTED}
    shipping = await shipper.assigned(2)
    await shipper.give(*(result(each) for each in shipping))
    await shipper.verdicts(2)
    assert bench.driver.header("w1").status.name == "COMPLETED"
    assert [line["method"] for line in guard.recorded()] == ["Work/results"]


async def test_what_is_said_of_anothers_attempt_is_not_taken_up(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    payer, shipper = Worker(guard.as_("payer")), Worker(guard.as_("shipper"))
    await payer.hello("pay")
    await shipper.hello("ship")
    (given,) = await payer.assigned()
    attempt = {"workflow_id": "w", "task_id": given.task_id, "fencing_token": given.fencing_token}
    details = Payload(inline=b'{"at":1}')
    line = workers_pb2.LogLine(time_ms=1, text="x")
    for worker in (shipper, payer):
        await worker.say(logs=workers_pb2.WorkLogs(attempts=[workers_pb2.AttemptLogs(**attempt, lines=[line])]))
        beat = workers_pb2.AttemptHeartbeat(**attempt, details=details)
        await worker.say(heartbeat=workers_pb2.WorkHeartbeat(attempts=[beat]))
        await worker.next("alive")
    await until("the payer's word", lambda: bool(bench.submitted_of(commands.RecordHeartbeat)))
    assert len(bench.submitted_of(commands.RecordHeartbeat)) == len(bench.submitted_of(AddTaskLogs)) == 1


async def test_anothers_session_is_not_taken_over_with_what_it_has(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    payer = Worker(guard.as_("payer"))
    session = (await payer.hello("pay", session_id="s")).session_id
    await payer.assigned()
    for tasks in (("ship",), ("pay",)):
        thief = Worker(guard.as_("shipper"))
        await thief.say(hello=workers_pb2.WorkHello(worker_id="w", task_names=tasks, slots=1, session_id=session))
        assert status(await thief.failed()) == DENIED
    assert bench.driver.state.sessions[session,].task_names == ("pay",)
    # The same one comes back to it.
    await Worker(guard.as_("payer")).hello("pay", session_id=session)


async def test_a_session_that_holds_what_is_not_allowed_is_not_taken_over_under_fewer_names(
    bench: Bench, guard: Guarded
) -> None:
    bench.start("w")
    admin = Worker(guard.as_("owner"))
    await admin.hello("pay", "ship", session_id="s")
    await admin.assigned()
    bench.apply(commands.UpdateSession("s", ("ship",), 1))
    thief = Worker(guard.as_("shipper"))
    await thief.say(hello=workers_pb2.WorkHello(worker_id="w", task_names=["ship"], slots=1, session_id="s"))
    assert status(await thief.failed()) == DENIED


async def test_a_worker_that_may_not_any_more_is_sent_away(bench: Bench, guard: Guarded) -> None:
    payer, shipper = Worker(guard.as_("payer")), Worker(guard.as_("shipper"))
    await payer.hello("pay")
    await shipper.hello("ship")
    guard.write(RULES.replace('tasks = ["pay"]', 'tasks = ["refund"]'))
    await guard.rules.look()
    assert status(await payer.failed()) == DENIED
    bench.apply(commands.StartWorkflow("default", "order", 1, "w", commands.IfExists.FAIL, b"{}", "", 0, "", ()))
    await shipper.say(heartbeat=workers_pb2.WorkHeartbeat())
    await shipper.next("alive")


async def test_system_work_is_for_nodes(bench: Bench, guard: Guarded) -> None:
    hello = workers_pb2.WorkHello(namespace=system.NAMESPACE, worker_id="a", task_names=["system/http"], slots=1)
    for name in ("admin", "owner", "payer"):
        worker = Worker(guard.as_(name))
        await worker.say(hello=hello)
        assert status(await worker.failed()) == DENIED
    node = Worker(guard.node())
    await node.say(hello=hello)
    await node.next("welcome")


async def test_nodes_go_on_when_rules_change_long_after_they_have_come(bench: Bench, guard: Guarded) -> None:
    """Their proofs are good for a minute only; a session that ended would do its work twice."""
    node = Worker(guard.node())
    names = ["system/http"]
    await node.say(hello=workers_pb2.WorkHello(namespace=system.NAMESPACE, worker_id="a", task_names=names, slots=1))
    await node.next("welcome")
    guard.now_ms += 3_600_000
    guard.write(RULES.replace("order*", "*"))
    await guard.rules.look()
    await node.say(heartbeat=workers_pb2.WorkHeartbeat())
    await node.next("alive")


async def test_rules_that_change_end_nobody_because_of_others_at_the_same_address(
    bench: Bench, tmp_path: Path
) -> None:
    bench.order("pay")
    signer, forger = Issuer(), Issuer()
    signer.write(tmp_path / "keys.json")
    more = f"""
        [[jwt]]
        name = "corp"
        issuer = "{ISSUER}"
        audience = "orchestrator"
        jwks_file = "keys.json"
        [[grant]]
        to = ["corp:alice"]
        role = "admin"
        namespaces = ["default"]
    """
    async with guarded(bench, tmp_path, more=more) as guard:
        asker = await asking(guard.showing("Bearer " + signer.token()))
        forged = guard.showing("Bearer " + forger.token())
        for _ in range(101):
            with pytest.raises(grpc.aio.AioRpcError):
                await forged.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())
        guard.write(RULES.replace("order*", "*"), more=more)
        await guard.rules.look()
        await asker.start(pb.StartWorkflowRequest(name="order"))
        assert len(await asker.answers(1)) == 1


async def test_an_admin_can_not_complete_system_work(bench: Bench, guard: Guarded) -> None:
    called = {"inputParameters": {"http_request": {"uri": "http://a.test", "method": "GET"}}, "type": "HTTP"}
    bench.driver.register(workflow("fetch", simple("get") | called))
    node = Worker(guard.node())
    await node.say(hello=workers_pb2.WorkHello(
        namespace=system.NAMESPACE, worker_id="a", task_names=["system/http"], slots=1))
    await node.next("welcome")
    bench.driver.start("fetch", "w", b"{}")
    for effect in bench.driver.effects:
        bench.perform(effect)
    (given,) = await node.assigned()
    thief = Worker(guard.as_("admin"))
    await thief.hello("pay")
    await thief.give(result(given))
    (verdict,) = await thief.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_INVALID
    await node.give(result(given))
    assert (await node.verdicts())[0].verdict == workers_pb2.VERDICT_ACCEPTED


# --- limits


LIMITS = ClientLimits(requests_per_second=10, burst=5, streams_max=2)


async def test_asks_take_from_the_rate_of_their_client(bench: Bench, tmp_path: Path) -> None:
    bench.order("pay")
    async with guarded(bench, tmp_path, limits=LIMITS) as guard:
        asker, other = await asking(guard.as_("operator")), await asking(guard.as_("owner"))
        requests = [pb.StartWorkflowRequest(name="order") for _ in range(6)]
        numbers = await asker.start(*requests)
        answers = await asker.answers(6)
        # Opening the stream was the first.
        assert [reason(answers[number]) for number in numbers] == [""] * 4 + ["RATE_LIMITED"] * 2
        await other.start(requests[0])
        assert not reason(next(iter((await other.answers(1)).values())))
        guard.monotonic += 0.1
        (number,) = await asker.start(requests[0])
        assert not reason((await asker.answers(1))[number])


async def test_calls_are_refused_with_when_to_come_again_but_results_and_heartbeats_never(
    bench: Bench, tmp_path: Path
) -> None:
    bench.order("pay")
    async with guarded(bench, tmp_path, limits=LIMITS) as guard:
        stubs = guard.as_("payer")
        worker = Worker(stubs)
        await worker.hello("pay", slots=20)
        for number in range(20):
            bench.start(f"w{number}")
        given = await worker.assigned(20)
        poll = workers_pb2.PollTasksRequest(worker_id="p", task_names=["pay"])
        for _ in range(5):
            await stubs.workers.PollTasks(poll)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.workers.PollTasks(poll)
        assert status(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert 100 <= (retry_after_ms(caught.value) or 0) <= 102
        await worker.give(*(result(each) for each in given))
        assert {each.verdict for each in await worker.verdicts(20)} == {workers_pb2.VERDICT_ACCEPTED}
        for _ in range(20):
            reply = await stubs.workers.CompleteTask(workers_pb2.CompleteTaskRequest(result=result(given[0])))
            assert reply.verdict.verdict == workers_pb2.VERDICT_ACCEPTED
            await worker.say(heartbeat=workers_pb2.WorkHeartbeat())
            await worker.next("alive")
        assert guard.refused["RATE_LIMITED"] == 1


async def test_streams_are_counted_by_client_and_given_back(bench: Bench, tmp_path: Path) -> None:
    bench.order("pay")
    async with guarded(bench, tmp_path, limits=LIMITS) as guard:
        first, second = await asking(guard.as_("operator")), await asking(guard.as_("operator"))
        too_many = (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
        assert await ended(Asker(guard.as_("operator"))) == too_many
        await asking(guard.as_("owner"))
        first.call.cancel()
        guard.monotonic += 10
        third = Asker(guard.as_("operator"))

        async def again() -> None:
            nonlocal third
            while True:
                try:
                    await third.hello()
                    return
                except (grpc.aio.AioRpcError, AssertionError):
                    guard.monotonic += 1
                    third = Asker(guard.as_("operator"))

        await soon("a place for another stream", again())
        await second.start(pb.StartWorkflowRequest(name="order"))
        assert len(await second.answers(1)) == 1


async def test_without_rules_a_client_is_an_address(bench: Bench, tmp_path: Path) -> None:
    bench.order("pay")
    async with guarded(bench, tmp_path, rules=None, limits=LIMITS) as guard:
        stubs, other = guard.as_(""), guard.as_("")
        for number in range(5):
            await (stubs, other)[number % 2].workflows.SearchWorkflows(pb.SearchWorkflowsRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())
        assert status(caught.value) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")


async def test_nodes_have_no_limits(bench: Bench, tmp_path: Path) -> None:
    async with guarded(bench, tmp_path, limits=LIMITS) as guard:
        streams = []
        for number in range(4):
            worker = Worker(guard.node())
            names = ["system/http"]
            await worker.say(hello=workers_pb2.WorkHello(
                namespace=system.NAMESPACE, worker_id=f"a{number}", task_names=names, slots=1))
            await worker.next("welcome")
            streams.append(worker)
        assert not guard.refused
