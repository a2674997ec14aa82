"""How a worker comes back to the cluster, and how it leaves: the leader's side is played by the test."""


from __future__ import annotations

import asyncio
import os
import signal

import grpc
import pytest

from orchestrator_api.v1 import workers_pb2
from orchestrator_client import (
    Client,
    InvalidRequest,
    TaskContext,
    Worker,
    task,
)
from tests.client.fake_cluster import FakeCluster, Refused
from tests.client.worker_side import Gate, assignment, charge, streaming, working


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


async def test_what_was_leased_before_the_leader_knew_is_finished(cluster: FakeCluster, client: Client) -> None:
    gate = Gate()
    async with working(client, gate.task) as running:
        stream = await cluster.stream()
        stream.welcome()
        await running.worker.connected()
        cluster.answers_heartbeats = False
        stopping = asyncio.ensure_future(running.worker.stop())
        assert (await stream.frame("slots")).slots == 0
        # Leased while that was on its way.
        stream.assign(assignment("gated"))
        stream.send(alive=workers_pb2.WorkAlive())
        stream.send(alive=workers_pb2.WorkAlive())
        await gate.wait(gate.started)
        gate.open.set()
        stream.judge(*await stream.results(1))
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
        assert second.hello.session_id not in ("", "one")
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
