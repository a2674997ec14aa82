"""Starting, reading, waiting for, watching and steering executions over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator.engine import choices, commands
from orchestrator.engine.model import CompensationState, Table, WorkflowStatus
from orchestrator.replication.errors import LostLeadership, NotLeader
from orchestrator.rpc import awaiting
from orchestrator.rpc.workflows import WorkflowServicer
from orchestrator.storage.search import ExecutionFilter, Page
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import ClientSession, PageRequest, Payload, ReadOptions, RequestIdentity
from tests.rpc.asking import Way
from tests.rpc.bench import Bench, Stubs, soon, until
from tests.rpc.statuses import info_of

ULID = "01JX0000000000000000000ABC"


@pytest.fixture(autouse=True)
def order(bench: Bench) -> None:
    bench.order("pay", "ship")


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the failure", call)
    return caught.value


async def field_refused(call: Any) -> str:
    error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return info_of(error).metadata["field"]


def finish(bench: Bench, workflow_id: str = "w") -> None:
    """A worker does all that there is to do."""
    for number, name in enumerate(("pay", "ship")):
        bench.apply(commands.PollTasks(f"p{number}", "default", "", "w", (name,), 1))
        attempt = bench.driver.latest(name, workflow_id)
        status = commands.TaskStatus.COMPLETED
        bench.apply(
            commands.CompleteTask("default", workflow_id, attempt.task_id, attempt.fencing_token, status, b"{}", "", "")
        )


# --- starting


async def test_a_start_reaches_the_state_machine_with_everything_that_was_given(
    bench: Bench, stubs: Stubs, way: Way
) -> None:
    session = (await stubs.workflows.OpenClientSession(pb.OpenClientSessionRequest())).session_id
    identity = RequestIdentity(session=ClientSession(id=session, sequence=4, lowest_unacknowledged=2))
    reply = await way.start(
        pb.StartWorkflowRequest(
            request=identity, name="order", version=1, workflow_id="w1",
            if_exists=pb.IF_EXISTS_RETURN, input=Payload(inline=b'{"a":1}'), correlation_id="c", priority=5,
            created_by="me", task_to_domain={"pay": "eu", "*": "us"}, idempotency_key="k",
            idempotency_strategy=pb.IDEMPOTENCY_STRATEGY_FAIL_ON_RUNNING,
        )
    )
    assert bench.submitted_of(commands.StartWorkflow) == [
        commands.StartWorkflow("default", "order", 1, "w1", choices.IfExists.RETURN, b'{"a":1}', "c", 5, "me",
                               (("*", "us"), ("pay", "eu")), b"", "k",
                               choices.IdempotencyStrategy.FAIL_ON_RUNNING)
    ]
    assert bench.identities[-1] == commands.RequestIdentity("", session, 4, 2)
    assert (reply.workflow_id, reply.existing) == ("w1", False)


async def test_a_start_answers_the_id_and_whether_it_existed(way: Way) -> None:
    made = await way.start(pb.StartWorkflowRequest(name="order"))
    assert made.workflow_id and not made.existing and made.consistency_token
    request = pb.StartWorkflowRequest(name="order", workflow_id="w1", if_exists=pb.IF_EXISTS_RETURN)
    assert [(await way.start(request)).existing for _ in range(2)] == [False, True]
    request.if_exists = pb.IF_EXISTS_FAIL
    assert (await failure(way.start(request))).code() is grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"workflow_id": "x" * 201}, "workflow_id"),
        ({"priority": 100}, "priority"),
        ({"input": Payload(inline=b"[]")}, "input"),
        ({"correlation_id": "x" * 201}, "correlation_id"),
        ({"created_by": "x" * 201}, "created_by"),
        ({"task_to_domain": {"": "eu"}}, "task_to_domain"),
        ({"task_to_domain": {f"t{number}": "eu" for number in range(1001)}}, "task_to_domain"),
        ({"definition_json": b"x" * ((1 << 20) + 1)}, "definition_json"),
        ({"request": RequestIdentity(request_id="x")}, "request.request_id"),
        ({"if_exists": 9}, "if_exists"),
        ({"idempotency_key": "x" * 201}, "idempotency_key"),
        ({"idempotency_strategy": 9}, "idempotency_strategy"),
    ],
)
async def test_a_start_that_breaks_a_rule_is_refused_with_the_field(
    bench: Bench, way: Way, change: dict[str, Any], field: str
) -> None:
    request = pb.StartWorkflowRequest(**({"name": "order"} | change))
    assert await field_refused(way.start(request)) == field
    assert bench.submitted == []


async def test_elsewhere_than_at_the_leader_the_client_is_sent_there(bench: Bench, stubs: Stubs) -> None:
    bench.lose_leadership()
    calls: list[Callable[[], Any]] = [
        lambda: stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order")),
        lambda: stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w")),
        lambda: stubs.workflows.WaitWorkflow(pb.WaitWorkflowRequest(workflow_id="w")),
        lambda: stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w")).read(),
        lambda: stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest()),
        lambda: stubs.workflows.OpenClientSession(pb.OpenClientSessionRequest()),
    ]
    for call in calls:
        error = await failure(call())
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")
        assert info_of(error).metadata["leader_address"] == "127.0.0.1:7402"


async def test_a_client_session_is_opened(bench: Bench, stubs: Stubs) -> None:
    opened = await stubs.workflows.OpenClientSession(pb.OpenClientSessionRequest())
    assert opened.session_id and opened.idle_timeout_ms > 0


# --- reading


async def test_an_execution_is_read_with_its_tasks_hot_and_cold_alike(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1", b'{"big":"' + b"x" * 10_000 + b'"}')
    request = pb.GetWorkflowRequest(workflow_id="w1", include_tasks=True)
    hot = (await stubs.workflows.GetWorkflow(request)).workflow
    assert (hot.name, hot.status, len(hot.tasks), len(hot.input.inline)) == (
        "order", pb.WORKFLOW_STATUS_RUNNING, 1, 10_010
    )
    assert hot.definition_json and hot.HasField("start_time") and not hot.HasField("end_time")
    bench.go_cold("w1")
    assert (await stubs.workflows.GetWorkflow(request)).workflow == hot
    request.include_tasks = False
    assert not (await stubs.workflows.GetWorkflow(request)).workflow.tasks


async def test_what_does_not_exist_is_not_found(stubs: Stubs) -> None:
    for call in (
        stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="nobody")),
        stubs.workflows.WaitWorkflow(pb.WaitWorkflowRequest(workflow_id="nobody")),
        stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="nobody")).read(),
    ):
        error = await failure(call)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "WORKFLOW_NOT_FOUND")


async def test_a_stale_read_is_answered_by_any_node_and_a_token_holds_it_back(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    token = (await stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w1"))).consistency_token
    bench.lose_leadership()
    for options in (ReadOptions(stale_ok=True), ReadOptions(stale_ok=True, consistency_token=token)):
        request = pb.GetWorkflowRequest(workflow_id="w1", read=options)
        assert (await stubs.workflows.GetWorkflow(request)).workflow.workflow_id == "w1"
    bench.driver.index -= 1
    error = await failure(stubs.workflows.GetWorkflow(request, timeout=0.05))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("token", ["x", "%%%", "AAAA", "ü"])
async def test_a_token_of_no_reply_is_refused(stubs: Stubs, token: str) -> None:
    request = pb.GetWorkflowRequest(workflow_id="w", read=ReadOptions(consistency_token=token))
    assert await field_refused(stubs.workflows.GetWorkflow(request)) == "read.consistency_token"


async def test_a_search_has_the_filters_that_were_asked_for(bench: Bench, stubs: Stubs) -> None:
    seen: list[tuple[ExecutionFilter, int, str]] = []
    bench.start("w1")

    def page(wanted: ExecutionFilter, size: int, token: str) -> Page:
        seen.append((wanted, size, token))
        return Page([bench.driver.header("w1")], "more")

    bench.pages = page
    reply = await stubs.workflows.SearchWorkflows(
        pb.SearchWorkflowsRequest(
            name="order", statuses=[pb.WORKFLOW_STATUS_RUNNING, pb.WORKFLOW_STATUS_FAILED], correlation_id="c",
            started_from=Timestamp(seconds=1), started_before=Timestamp(seconds=2, nanos=500_001),
            compensation_states=[pb.COMPENSATION_STATE_STUCK], page=PageRequest(size=7, token="t"),
        )
    )
    assert [found.workflow_id for found in reply.workflows] == ["w1"] and reply.next_token == "more"
    (wanted, size, token) = seen[0]
    assert (size, token) == (7, "t")
    assert wanted == ExecutionFilter(
        namespace="default", name="order", statuses=(WorkflowStatus.RUNNING, WorkflowStatus.FAILED),
        correlation_id="c", started_from_ms=1000, started_before_ms=2001, ended_from_ms=None, ended_before_ms=None,
        compensation_states=(CompensationState.STUCK,),
    )
    assert await field_refused(stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest(statuses=[0]))) == "statuses"


# --- waiting


async def test_waiting_answers_the_end(bench: Bench, way: Way) -> None:
    bench.start("w")
    call = way.wait(pb.WaitWorkflowRequest(workflow_id="w", include_tasks=True))
    await until("the waiter", lambda: ("execution", "default", "w") in bench.notifier._watchers)
    finish(bench)
    ended = (await soon("the end", call)).workflow
    assert ended.status == pb.WORKFLOW_STATUS_COMPLETED and len(ended.tasks) == 2 and ended.HasField("end_time")
    await until("it to be forgotten", lambda: bench.notifier._watchers == {})


async def test_waiting_for_what_has_ended_answers_at_once(bench: Bench, way: Way) -> None:
    bench.start("w")
    finish(bench)
    bench.go_cold()
    reply = await soon("the end", way.wait(pb.WaitWorkflowRequest(workflow_id="w")))
    assert reply.workflow.status == pb.WORKFLOW_STATUS_COMPLETED


async def test_when_the_time_is_over_waiting_answers_the_state_so_far(bench: Bench, way: Way) -> None:
    bench.start("w")
    request = pb.WaitWorkflowRequest(workflow_id="w", wait_ms=30)
    assert (await way.wait(request)).workflow.status == pb.WORKFLOW_STATUS_RUNNING
    assert await field_refused(way.wait(pb.WaitWorkflowRequest(workflow_id="w", wait_ms=300_001)))


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "found out"])
async def test_whoever_waits_or_watches_learns_that_the_node_leads_no_longer(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    monkeypatch.setattr(awaiting, "LEADERSHIP_CHECK_SECONDS", 0.01)
    bench.start("w")
    waiting = stubs.workflows.WaitWorkflow(pb.WaitWorkflowRequest(workflow_id="w"))
    watching = stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await soon("the first state", watching.read())
    await until("both", lambda: sum(len(events) for events in bench.notifier._watchers.values()) == 2)
    bench.is_leading, bench.leader = False, "n2"
    if is_told:
        bench.notifier.wake_all()
    for call in (waiting, watching.read()):
        error = await failure(call)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")


async def test_start_and_wait_answers_the_end_or_the_end_of_a_task(bench: Bench, stubs: Stubs) -> None:
    start = pb.StartWorkflowRequest(name="order", workflow_id="w")
    whole = stubs.workflows.StartWorkflowAndWait(pb.StartWorkflowAndWaitRequest(start=start))
    await until("the waiter", lambda: bench.notifier._watchers)
    start.if_exists = pb.IF_EXISTS_RETURN
    part = stubs.workflows.StartWorkflowAndWait(
        pb.StartWorkflowAndWaitRequest(start=start, wait_until_task="pay")
    )
    await until("both", lambda: sum(len(events) for events in bench.notifier._watchers.values()) == 2)
    bench.driver.worker("s", "pay")
    attempt = bench.driver.latest("pay")
    bench.apply(
        commands.CompleteTask("default", "w", attempt.task_id, attempt.fencing_token, commands.TaskStatus.COMPLETED,
                              b'{"paid":true}', "", "")
    )
    reached = (await soon("the task's end", part)).workflow
    assert reached.status == pb.WORKFLOW_STATUS_RUNNING
    assert reached.tasks[0].output.inline == b'{"paid":true}'
    assert not whole.done()
    bench.apply(commands.TerminateWorkflow("default", "w", "enough", choices.TerminateCompensation.SKIP))
    assert (await soon("the end", whole)).workflow.status == pb.WORKFLOW_STATUS_TERMINATED


@pytest.mark.parametrize("error", [NotLeader("n2"), LostLeadership("lost")], ids=["not leader", "lost"])
async def test_a_start_whose_node_then_loses_leadership_is_not_said_to_have_no_effect(
    bench: Bench, stubs: Stubs, error: Exception
) -> None:
    bench.barrier_error = error
    start = pb.StartWorkflowRequest(name="order", workflow_id="w")
    found = await failure(stubs.workflows.StartWorkflowAndWait(pb.StartWorkflowAndWaitRequest(start=start)))
    assert (found.code(), info_of(found).reason) == (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN")
    assert bench.driver.header("w").status is WorkflowStatus.RUNNING


# --- watching


async def test_watching_tells_each_state_and_ends_after_the_last(bench: Bench, stubs: Stubs) -> None:
    bench.start("w")
    call = stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w", include_tasks=True))
    first = (await soon("the first state", call.read())).workflow
    assert first.status == pb.WORKFLOW_STATUS_RUNNING
    await until("the watcher", lambda: bench.notifier._watchers)
    bench.apply(commands.PauseWorkflow("default", "w"))
    assert (await soon("the next", call.read())).workflow.status == pb.WORKFLOW_STATUS_PAUSED
    bench.apply(commands.TerminateWorkflow("default", "w", "enough", choices.TerminateCompensation.SKIP))
    last = (await soon("the last", call.read())).workflow
    assert (last.status, last.reason) == (pb.WORKFLOW_STATUS_TERMINATED, "enough")
    assert await soon("the end", call.read()) is grpc.aio.EOF
    assert bench.notifier._watchers == {}


async def test_an_end_that_comes_while_a_state_is_being_sent_is_told_all_the_same(bench: Bench) -> None:
    bench.start("w")
    states = WorkflowServicer(bench.backend()).WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"), None)
    assert (await soon("the first state", anext(states))).workflow.status == pb.WORKFLOW_STATUS_RUNNING
    bench.apply(commands.TerminateWorkflow("default", "w", "enough", choices.TerminateCompensation.SKIP))
    assert (await soon("the last", anext(states))).workflow.status == pb.WORKFLOW_STATUS_TERMINATED
    with pytest.raises(StopAsyncIteration):
        await soon("the end", anext(states))


async def test_a_watcher_that_goes_away_leaves_nothing_behind(bench: Bench, stubs: Stubs) -> None:
    bench.start("w")
    call = stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await soon("the first state", call.read())
    call.cancel()
    await until("the watcher to be forgotten", lambda: bench.notifier._watchers == {})


async def test_an_unexpected_error_while_watching_is_internal(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start("w")
    call = stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await soon("the first state", call.read())
    bench.go_cold()
    bench.driver.database.clear()
    bench.driver.database[Table.EXECUTION, ("default", "w")] = b"\xc1"
    bench.notifier.wake_all()
    error = await failure(call.read())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert any("unexpectedly" in record.message for record in caplog.records)


# --- steering


async def test_each_steering_call_is_its_command(bench: Bench, stubs: Stubs) -> None:
    bench.start("w")
    identity = RequestIdentity(request_id=ULID)
    common: dict[str, Any] = {"workflow_id": "w", "request": identity}
    for call, request, command in (
        ("PauseWorkflow", pb.PauseWorkflowRequest(**common), commands.PauseWorkflow("default", "w")),
        ("ResumeWorkflow", pb.ResumeWorkflowRequest(**common), commands.ResumeWorkflow("default", "w")),
        ("RetryWorkflow", pb.RetryWorkflowRequest(**common), commands.RetryWorkflow("default", "w")),
        ("RetryCompensation", pb.RetryCompensationRequest(**common), commands.RetryCompensation("default", "w")),
        ("SkipCompensation", pb.SkipCompensationRequest(**common), commands.SkipCompensation("default", "w")),
        ("AbandonCompensation", pb.AbandonCompensationRequest(reason="r", **common),
         commands.AbandonCompensation("default", "w", "r")),
        ("SignalWorkflow", pb.SignalWorkflowRequest(name="go", payload=Payload(inline=b'{"a":1}'), **common),
         commands.SignalWorkflow("default", "w", "go", b'{"a":1}')),
        ("TerminateWorkflow",
         pb.TerminateWorkflowRequest(reason="r", compensation=pb.TERMINATE_COMPENSATION_RUN, **common),
         commands.TerminateWorkflow("default", "w", "r", choices.TerminateCompensation.RUN)),
    ):
        # Some do not fit the state: what counts is what is asked of the state machine.
        (answer,) = await asyncio.gather(getattr(stubs.workflows, call)(request), return_exceptions=True)
        assert not isinstance(answer, grpc.aio.AioRpcError) or answer.code() is not grpc.StatusCode.INTERNAL
        assert bench.submitted[-1] == command
        assert bench.identities[-1] == commands.RequestIdentity(request_id=ULID)


async def test_steering_needs_an_execution_and_within_limits(bench: Bench, stubs: Stubs) -> None:
    assert await field_refused(stubs.workflows.PauseWorkflow(pb.PauseWorkflowRequest())) == "workflow_id"
    long = pb.TerminateWorkflowRequest(workflow_id="w", reason="x" * 2001)
    assert await field_refused(stubs.workflows.TerminateWorkflow(long)) == "reason"
    odd = pb.TerminateWorkflowRequest(workflow_id="w", compensation=9)
    assert await field_refused(stubs.workflows.TerminateWorkflow(odd)) == "compensation"
    unnamed = pb.SignalWorkflowRequest(workflow_id="w")
    assert await field_refused(stubs.workflows.SignalWorkflow(unnamed)) == "name"
    assert bench.submitted == []


async def test_many_calls_at_once_each_get_their_own_answer(bench: Bench, way: Way) -> None:
    calls = [
        way.start(pb.StartWorkflowRequest(name="order", workflow_id=f"w{number}"))
        for number in range(50)
    ]
    replies = await soon("all answers", asyncio.gather(*calls))
    assert [reply.workflow_id for reply in replies] == [f"w{number}" for number in range(50)]
