"""The client against a scripted cluster: what changes of the leader, lost answers and refusals look like."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc
import pytest

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client import (
    AlreadyExists,
    Client,
    CodecError,
    DeadlineExceeded,
    InvalidRequest,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    Workflow,
    WorkflowFailed,
    WorkflowStatus,
    WorkflowTerminated,
    WrongState,
    connection,
    runs,
    task,
)
from tests.client.fake_cluster import FakeCluster, Refused

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class Order:
    id: str
    quantity: int = 1


@dataclass
class Shipped:
    tracking: str


@task
async def ship(order: Order) -> Shipped:
    return Shipped(order.id)


def saga(version: int = 1, output: type | None = None) -> Workflow:
    workflow = Workflow("order", version=version, input=Order, output=output)
    sent = workflow.step(ship, workflow.input)
    workflow.returns(tracking=sent.tracking)
    return workflow


async def test_a_leader_hint_is_followed(cluster: FakeCluster, client: Client) -> None:
    cluster.elect(cluster.nodes[2])
    run = await client.start("order", {"id": "7"}, id="order-7")
    assert run.workflow_id == "order-7"
    assert cluster.calls[-1][0] is cluster.nodes[2]


async def test_an_answer_that_got_lost_is_asked_for_again_under_the_same_number(
    cluster: FakeCluster, client: Client
) -> None:
    cluster.fault("StartWorkflow", Refused(UNAVAILABLE), after_effect=True)
    await client.start("order", id="order-1")
    first, second = cluster.requests("StartWorkflow")
    assert first.request.session.sequence == second.request.session.sequence == 1
    assert cluster.effects == ["order-1"]


async def test_a_start_goes_on_at_the_next_leader_when_the_leader_dies(cluster: FakeCluster, client: Client) -> None:
    await client.start("order", id="order-1")
    dead, successor = cluster.nodes[0], cluster.nodes[1]
    cluster.elect(None)
    for node in cluster.nodes[1:]:
        node.believes = (dead.address, 1)  # they have not noticed yet
    await dead.kill()
    starting = asyncio.ensure_future(client.start("order", id="order-2"))
    done, _ = await asyncio.wait({starting}, timeout=0.2)
    assert not done
    for node in cluster.nodes[1:]:
        node.believes = None
    cluster.elect(successor)
    elected_at = asyncio.get_running_loop().time()
    await asyncio.wait_for(starting, 10)
    assert asyncio.get_running_loop().time() - elected_at < 2
    assert cluster.calls[-1][0] is successor
    assert cluster.effects == ["order-1", "order-2"]


async def test_a_silent_leader_is_left_when_another_node_knows_a_new_one(cluster: FakeCluster, client: Client) -> None:
    await client.start("order", id="order-1")
    cluster.nodes[0].silent = True
    cluster.elect(cluster.nodes[1])
    started_at = asyncio.get_running_loop().time()
    await client.start("order", id="order-2")
    assert asyncio.get_running_loop().time() - started_at < 3
    assert cluster.effects == ["order-1", "order-2"]


async def test_the_probe_of_a_silent_leader_is_not_awaited_when_another_node_knows_a_new_one(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PROBE_S", 3_600)
    await client.start("order", id="order-1")
    cluster.nodes[0].silent = True
    request = pb.WaitWorkflowRequest(workflow_id="order-1", wait_ms=1)
    call = client.connection.call(lambda node: node.workflows.WaitWorkflow, request, timeout_s=3_600, attempt_s=3_600)
    waiting = asyncio.ensure_future(call)
    # The others have not noticed yet, and go on naming it.
    done, _ = await asyncio.wait({waiting}, timeout=2 * (connection.PATIENCE_S + connection.HEDGE_S))
    assert not done
    cluster.elect(cluster.nodes[1])
    await asyncio.wait_for(waiting, 30)
    assert cluster.calls[-1][0] is cluster.nodes[1]


async def test_a_node_that_was_elected_and_is_not_ready_is_asked_again(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = cluster.nodes[0].address
    for _ in range(3):
        refused = Refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", leader_address=address)
        cluster.fault("OpenClientSession", refused)
    asked = []
    node = client.connection.node
    monkeypatch.setattr(client.connection, "node", lambda address: asked.append(address) or node(address))
    await client.start("order", id="order-1")
    assert set(asked) == {address}


async def test_a_leader_whose_advertised_address_is_unreachable_is_found_through_the_endpoints(
    cluster: FakeCluster, client: Client
) -> None:
    cluster.elect(cluster.nodes[2])
    cluster.nodes[2].advertised = "127.0.0.1:1"
    await client.start("order", id="order-1")
    assert cluster.effects == ["order-1"]
    # A long call asks the leader for signs of life, and its strange name must not send us away again.
    waiting = asyncio.ensure_future(client.wait("order-1"))
    await asyncio.wait({waiting}, timeout=1.2)
    assert len(cluster.requests("WaitWorkflow")) == 1
    await cluster.end("order-1")
    assert (await waiting).status is WorkflowStatus.COMPLETED


async def test_an_overloaded_cluster_is_given_the_time_it_asks_for(cluster: FakeCluster, client: Client) -> None:
    cluster.fault("StartWorkflow", Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_s=0.3))
    started_at = asyncio.get_running_loop().time()
    await client.start("order", id="order-1")
    assert asyncio.get_running_loop().time() - started_at >= 0.3
    cluster.fault("StartWorkflow", Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_s=30))
    with pytest.raises(Overloaded):
        await client.start("order", id="order-2", timeout_s=1)


async def test_an_expired_session_is_replaced_for_a_request_that_had_no_effect(
    cluster: FakeCluster, client: Client
) -> None:
    await client.start("order", id="order-1")
    cluster.sessions.clear()
    await client.start("order", id="order-2")
    assert len(cluster.requests("OpenClientSession")) == 2
    assert cluster.effects == ["order-1", "order-2"]


async def test_a_session_that_expires_under_an_unanswered_request_leaves_its_outcome_unknown(
    cluster: FakeCluster, client: Client
) -> None:
    cluster.fault("StartWorkflow", Refused(UNAVAILABLE), after_effect=True)
    cluster.fault("StartWorkflow", Refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED"))
    with pytest.raises(OutcomeUnknown):
        await client.start("order", id="order-1")


async def test_sequence_numbers_tell_what_is_still_awaited(cluster: FakeCluster, client: Client) -> None:
    for number in range(3):
        await client.signal("order-1", f"s{number}")
    sessions = [request.request.session for request in cluster.requests("SignalWorkflow")]
    assert [(s.sequence, s.lowest_unacknowledged) for s in sessions] == [(1, 1), (2, 2), (3, 3)]


async def test_very_many_requests_at_once_share_a_few_sessions(cluster: FakeCluster, client: Client) -> None:
    await asyncio.gather(*(client.start("order", id=f"order-{number}") for number in range(1_200)))
    assert len(cluster.effects) == len(set(cluster.effects)) == 1_200
    assert len(cluster.requests("OpenClientSession")) <= 3
    for request in cluster.requests("StartWorkflow"):
        session = request.request.session
        assert session.sequence - session.lowest_unacknowledged < 512


async def test_without_a_leader_the_caller_learns_that_nothing_happened() -> None:
    cluster = FakeCluster()
    await cluster.start()
    cluster.elect(None)
    async with Client(cluster.addresses, deadline_s=0.5) as client:
        with pytest.raises(NoLeader):
            await client.start("order")
    await cluster.stop()


async def test_a_result_is_an_object_with_attributes_or_of_the_declared_type(
    cluster: FakeCluster, client: Client
) -> None:
    run = await client.start(saga(), Order("7"), id="order-7")
    await cluster.end("order-7", output=Payload(inline=b'{"tracking": "T7", "parts": [{"sku": "a"}]}'))
    result = await run.result(timeout_s=5)
    assert result.tracking == "T7"
    assert result.parts[0].sku == "a"
    with pytest.raises(AttributeError, match="it has tracking, parts"):
        _ = result.trackign
    typed = client.run("order-7", output=Shipped)
    assert await typed.result() == Shipped("T7")


async def test_a_failed_workflow_says_why_and_what_was_undone(cluster: FakeCluster, client: Client) -> None:
    run = await client.start("order", id="order-7")
    compensation = pb.Compensation(
        state=pb.COMPENSATION_STATE_INCOMPLETE,
        done=[pb.CompensatedStep(reference="charge")],
        left=[pb.CompensatedStep(reference="reserve", reason="skipped")],
    )
    await cluster.end(
        "order-7",
        pb.WORKFLOW_STATUS_FAILED,
        reason="NO_TRUCKS: none",
        failed_task="ship",
        compensation=compensation,
    )
    with pytest.raises(WorkflowFailed) as failed:
        await run.result()
    assert failed.value.reason == "NO_TRUCKS: none"
    assert failed.value.failed_task == "ship"
    assert failed.value.status == "FAILED"
    assert failed.value.compensation.state == "INCOMPLETE"
    assert [step.reference for step in failed.value.compensation.done] == ["charge"]
    assert [step.reference for step in failed.value.compensation.left] == ["reserve"]
    assert str(failed.value) == (
        "workflow order-7 ended FAILED at ship: NO_TRUCKS: none (compensation INCOMPLETE, left: reserve)"
    )


async def test_a_terminated_workflow_has_an_error_of_its_own(cluster: FakeCluster, client: Client) -> None:
    run = await client.start("order", id="order-7")
    await cluster.end("order-7", pb.WORKFLOW_STATUS_TERMINATED)
    with pytest.raises(WorkflowTerminated):
        await run.result()


async def test_waiting_ends_in_time_and_goes_on_after_a_failover(cluster: FakeCluster, client: Client) -> None:
    run = await client.start("order", id="order-7")
    with pytest.raises(DeadlineExceeded, match="still RUNNING") as error:
        await run.result(timeout_s=0.1)
    assert isinstance(error.value, TimeoutError)
    waiting = asyncio.ensure_future(run.wait(timeout_s=20))
    await cluster.reached("WaitWorkflow", 2)
    cluster.elect(cluster.nodes[1])
    await cluster.nodes[0].kill()
    await cluster.end("order-7")
    assert (await waiting).status.ended


async def test_a_watch_survives_a_failover_and_says_nothing_twice(cluster: FakeCluster, client: Client) -> None:
    await client.start("order", id="order-7")

    async def end_it_once_it_is_watched_again() -> None:
        await cluster.reached("WatchWorkflow", 2)
        await cluster.end("order-7")

    seen = []
    async for execution in client.watch("order-7"):
        seen.append(execution.status.value)
        if len(seen) == 1:
            cluster.elect(cluster.nodes[1])
            await cluster.nodes[0].kill()
            ending = asyncio.ensure_future(end_it_once_it_is_watched_again())
    await ending
    assert seen == ["RUNNING", "COMPLETED"]


async def test_a_workflow_is_registered_once_with_its_tasks(cluster: FakeCluster, client: Client) -> None:
    await asyncio.gather(*(client.start(saga(), Order(name), id=name) for name in "123"))
    await client.start(saga(), Order("4"), id="4")
    assert len(cluster.requests("RegisterWorkflows")) == 1
    assert list(cluster.task_definitions) == ["ship"]
    assert cluster.requests("StartWorkflow")[0].version == 1


async def test_a_changed_workflow_needs_a_new_version(cluster: FakeCluster, client: Client) -> None:
    await client.start(saga(), Order("1"))
    changed = saga()
    changed.step(ship, changed.input)
    with pytest.raises(AlreadyExists, match=r"order version 1: .* a higher version"):
        await client.start(changed, Order("2"))
    await client.register(changed, overwrite=True)


async def test_a_definition_can_travel_along(cluster: FakeCluster, client: Client) -> None:
    await client.start(saga(), Order("1"), register=False)
    request = cluster.requests("StartWorkflow")[0]
    assert b'"taskDefinition"' in request.definition_json
    assert not cluster.workflow_definitions


async def test_if_exists(cluster: FakeCluster, client: Client) -> None:
    assert not (await client.start("order", id="order-1")).existing
    assert (await client.start("order", id="order-1", if_exists="return")).existing
    with pytest.raises(AlreadyExists):
        await client.start("order", id="order-1")
    assert cluster.effects == ["order-1"]


async def test_input_is_checked_before_it_is_sent(cluster: FakeCluster, client: Client) -> None:
    with pytest.raises(CodecError, match=r"input\.quantity: expected a whole number, found text"):
        await client.start(saga(), {"id": "1", "quantity": "x"})
    with pytest.raises(InvalidRequest, match="must be an object"):
        await client.start("order", [1])
    with pytest.raises(InvalidRequest) as too_large:
        await client.start("order", {"blob": "x" * (15 << 20)})
    assert too_large.value.field == "input"
    assert too_large.value.limit == str(15 << 20)


async def test_errors_say_whose_fault_it_is(cluster: FakeCluster, client: Client) -> None:
    with pytest.raises(NotFound):
        await client.get("nowhere")
    with pytest.raises(WrongState) as error:
        await client.terminate("order-1", "because", compensation="run")
    assert error.value.reason == "PIVOT_PASSED"


async def test_search_reads_all_pages(cluster: FakeCluster, client: Client) -> None:
    for number in range(5):
        await client.start("order", id=f"order-{number}")
    found = [execution.workflow_id async for execution in client.search(name="order", page_size=2)]
    assert found == [f"order-{number}" for number in range(5)]
    assert len(cluster.requests("SearchWorkflows")) == 3


async def test_any_node_tells_about_the_cluster(cluster: FakeCluster, client: Client) -> None:
    await cluster.nodes[0].kill()
    cluster.elect(cluster.nodes[1])
    assert (await client.leader()).address == cluster.nodes[1].address
    assert (await client.status()).nodes[0].role == "LEADER"


async def test_start_and_wait(cluster: FakeCluster, client: Client) -> None:
    waiting = asyncio.ensure_future(client.start_and_wait("order", id="order-1", timeout_s=10))
    await cluster.reached("WaitWorkflow")
    await cluster.end("order-1", output=Payload(inline=b'{"x": 1}'))
    assert (await waiting).x == 1


async def test_after_the_start_nothing_says_that_it_had_no_effect(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "WAIT_MS", 50)
    monkeypatch.setattr(runs, "ANSWER_S", 0.1)
    async with Client(cluster.addresses, deadline_s=0.3) as client:
        waiting = asyncio.ensure_future(client.start_and_wait("order", id="order-1", timeout_s=60))
        await cluster.reached("WaitWorkflow")
        cluster.elect(None)
        with pytest.raises(DeadlineExceeded, match="order-1 has started"):
            await waiting
    assert cluster.effects == ["order-1"]


async def test_a_wait_may_take_as_long_as_it_asks_for(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the caller is impatient: the server answers at the end of the time that it was given."""
    monkeypatch.setattr(runs, "WAIT_MS", 300)
    async with Client(cluster.addresses, deadline_s=0.001) as client:
        with pytest.raises(DeadlineExceeded, match="still RUNNING"):
            await client.run((await client.start("order", id="order-1", timeout_s=10)).workflow_id).wait(1.0)
