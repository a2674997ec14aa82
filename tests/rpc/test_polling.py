"""Unary polling and completing, for clients without a stream."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from orchestrator.engine import commands
from orchestrator.rpc import workers
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.common_pb2 import Payload
from tests.rpc.bench import Bench, Stubs, soon, until
from tests.rpc.statuses import info_of


@pytest.fixture(autouse=True)
def order(bench: Bench) -> None:
    bench.order("pay")


def poll(stubs: Stubs, *names: str, **fields: Any) -> Any:
    request = pb.PollTasksRequest(**({"worker_id": "p", "task_names": names or ("pay",)} | fields))
    return stubs.workers.PollTasks(request)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the failure", call)
    return caught.value


async def test_what_is_ready_is_leased_up_to_the_number_asked_for(bench: Bench, stubs: Stubs) -> None:
    for number in range(3):
        bench.start(f"w{number}")
    given = (await poll(stubs, max_tasks=2)).assignments
    assert [each.workflow_id for each in given] == ["w0", "w1"]
    assert [each.workflow_id for each in (await poll(stubs)).assignments] == ["w2"]


async def test_with_nothing_ready_nothing_is_logged(bench: Bench, stubs: Stubs) -> None:
    assert not (await poll(stubs, wait_ms=20)).assignments
    assert bench.submitted == []


async def test_a_poller_wakes_when_an_attempt_is_queued(bench: Bench, stubs: Stubs) -> None:
    call = poll(stubs, "ship", "pay", wait_ms=60_000)
    await until("the poller", lambda: len(bench.notifier._watchers) == 2)
    bench.start("w1")
    assert [each.workflow_id for each in (await soon("the attempt", call)).assignments] == ["w1"]
    assert bench.notifier._watchers == {}


async def test_of_two_pollers_one_gets_the_attempt_and_the_other_waits_on(bench: Bench, stubs: Stubs) -> None:
    calls = [poll(stubs, worker_id=f"p{number}", wait_ms=60_000) for number in range(2)]
    await until("both", lambda: sum(len(events) for events in bench.notifier._watchers.values()) == 2)
    bench.start("w1")
    done, waiting = await asyncio.wait([asyncio.ensure_future(call) for call in calls], timeout=10,
                                       return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 1)
    bench.start("w2")
    (second,) = waiting
    assert [each.workflow_id for each in (await soon("the second", second)).assignments] == ["w2"]


async def test_domains_are_apart(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    assert not (await poll(stubs, domain="eu")).assignments
    assert (await poll(stubs)).assignments


def test_no_two_pollers_share_a_session_however_they_are_named() -> None:
    from orchestrator.rpc.hello import poller_session_id

    named = [("a:b", "", "c"), ("a", "b", "c"), ("a", "", "b::c"), ("a", "b:", "c"), ("", "a:b:", "c")]
    assert len({poller_session_id(*names) for names in named}) == len(named)


async def test_a_poller_learns_that_the_node_leads_no_longer(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LEADERSHIP_CHECK_SECONDS", 0.01)
    call = poll(stubs, wait_ms=60_000)
    await until("the poller", lambda: bench.notifier._watchers)
    bench.is_leading, bench.leader = False, "n2"
    error = await failure(call)
    assert info_of(error).reason == "NOT_LEADER"
    assert info_of(await failure(poll(stubs))).reason == "NOT_LEADER"


async def test_what_was_leased_to_a_caller_that_went_away_is_ready_again(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    bench.gate.clear()
    call = poll(stubs, wait_ms=60_000)
    await until("the command", lambda: bench.submitted_of(commands.PollTasks))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon("the cancellation", call)
    for _ in range(20):
        await asyncio.sleep(0.001)
    bench.gate.set()
    await until("the attempt to be released", lambda: bench.submitted_of(commands.ReleaseTask))
    assert [each.workflow_id for each in (await poll(stubs, wait_ms=1000)).assignments] == ["w1"]


async def test_the_attempt_of_a_cold_execution_is_assigned_too(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    bench.gate.clear()
    call = poll(stubs)
    await until("the command", lambda: bench.submitted_of(commands.PollTasks))
    bench.gate.set()
    assert (await soon("the attempt", call)).assignments
    lease = next(iter(bench.driver.state.leases.values()))
    bench.go_cold("w1")
    assert lease.workflow_id == "w1"


async def test_a_result_gets_its_verdict(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    (given,) = (await poll(stubs)).assignments
    result = pb.TaskResult(
        workflow_id="w1", task_id=given.task_id, fencing_token=given.fencing_token,
        status=workflows_pb2.TASK_STATUS_COMPLETED, output=Payload(inline=b'{"a":1}'),
    )
    for _ in range(2):
        verdict = (await stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=result))).verdict
        assert (verdict.task_id, verdict.verdict) == (given.task_id, pb.VERDICT_ACCEPTED)
    assert bench.driver.header("w1").status.name == "COMPLETED"
    result.fencing_token += 1
    verdict = (await stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=result))).verdict
    assert verdict.verdict == pb.VERDICT_FENCED


async def test_who_is_not_done_is_asked_again(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    (given,) = (await poll(stubs)).assignments
    tokens = [given.fencing_token]
    for said in (b'{"page":1}', b""):
        result = pb.TaskResult(
            workflow_id="w1", task_id=given.task_id, fencing_token=tokens[-1],
            status=workflows_pb2.TASK_STATUS_IN_PROGRESS, callback_after_ms=5_000,
        )
        if said:
            result.output.inline = said
        verdict = (await stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=result))).verdict
        assert verdict.verdict == pb.VERDICT_ACCEPTED
        assert bench.driver.latest(given.reference, "w1").status.name == "SCHEDULED"
        bench.driver.wait(5_000)
        (again,) = (await poll(stubs)).assignments
        assert (again.task_id, again.idempotency_key) == (given.task_id, given.idempotency_key)
        assert again.heartbeat_details.inline == b'{"page":1}'
        tokens.append(again.fencing_token)
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": workflows_pb2.TASK_STATUS_CANCELED}, "result.status"),
        ({"status": 0}, "result.status"),
        ({"workflow_id": ""}, "result.workflow_id"),
        ({"task_id": ""}, "result.task_id"),
    ],
)
async def test_a_result_that_can_not_be_read_is_refused(
    bench: Bench, stubs: Stubs, change: dict[str, Any], field: str
) -> None:
    fields = {"workflow_id": "w", "task_id": "t", "status": workflows_pb2.TASK_STATUS_COMPLETED} | change
    call = stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=pb.TaskResult(**fields)))
    assert info_of(await failure(call)).metadata["field"] == field
    assert bench.submitted == []


async def test_long_reasons_and_codes_are_cut_not_refused(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    (given,) = (await poll(stubs)).assignments
    result = pb.TaskResult(
        workflow_id="w1", task_id=given.task_id, fencing_token=given.fencing_token,
        status=workflows_pb2.TASK_STATUS_FAILED, reason="x" * 20_000, error_code="y" * 300,
    )
    verdict = (await stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=result))).verdict
    assert verdict.verdict == pb.VERDICT_ACCEPTED
    (command,) = bench.submitted_of(commands.CompleteTask)
    assert (len(command.reason), len(command.error_code)) == (10_000, 200)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"worker_id": ""}, "worker_id"), ({"task_names": []}, "task_names"),
     ({"task_names": ["system/jq"]}, "task_names[0]"), ({"namespace": "$system"}, "namespace"),
     ({"max_tasks": 1001}, "max_tasks"), ({"wait_ms": 60_001}, "wait_ms"), ({"domain": "x" * 201}, "domain")],
)
async def test_a_poll_that_breaks_a_rule_is_refused(stubs: Stubs, change: dict[str, Any], field: str) -> None:
    assert info_of(await failure(poll(stubs, **change))).metadata["field"] == field
