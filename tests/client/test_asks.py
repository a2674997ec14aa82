"""The stream on which a client's starts and waits share messages, when something comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client import Client, DeadlineExceeded, NotFound, OutcomeUnknown, Overloaded, WorkflowTerminated
from tests.client.fake_cluster import FakeCluster, Refused
from tests.replication.cluster import wait_until as until

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with Client(cluster.addresses, deadline_s=10) as made:
        yield made


def begin(client: Client, workflow_id: str = "w", **options: Any) -> asyncio.Future[Any]:
    return asyncio.ensure_future(client.start_and_wait("order", id=workflow_id, **options))


async def completed(cluster: FakeCluster, workflow_id: str = "w") -> None:
    await cluster.end(workflow_id, output=Payload(inline=b'{"n":1}'))


async def test_a_start_that_is_waited_for_is_asked_once(cluster: FakeCluster, client: Client) -> None:
    outcome = begin(client)
    await cluster.reached("WaitWorkflow")
    await completed(cluster)
    assert (await outcome).n == 1
    assert [method for _, method, _ in cluster.calls] == ["OpenClientSession", "StartWorkflow", "WaitWorkflow"]


async def test_what_does_not_end_well_is_an_error_that_says_why(cluster: FakeCluster, client: Client) -> None:
    outcome = begin(client)
    await cluster.reached("WaitWorkflow")
    await cluster.end("w", pb.WORKFLOW_STATUS_TERMINATED, reason="enough")
    with pytest.raises(WorkflowTerminated) as terminated:
        await outcome
    assert terminated.value.reason == "enough"


@pytest.mark.parametrize("is_told", [True, False], ids=["told that it has started", "not told"])
async def test_an_outcome_goes_on_at_the_next_leader(cluster: FakeCluster, client: Client, is_told: bool) -> None:
    for node in cluster.nodes:
        node.tells_of_starts = is_told
    outcome = begin(client)
    await cluster.reached("WaitWorkflow")
    if is_told:
        (stream,) = client.connection._streams.values()
        await until("it to be told", lambda: any(asked.started for asked in stream._open.values()))
    cluster.elect(cluster.nodes[1])
    await cluster.nodes[0].kill()
    await cluster.reached("WaitWorkflow", 2)
    await completed(cluster)
    assert (await outcome).n == 1
    starts = cluster.requests("StartWorkflow")
    assert len(starts) == (1 if is_told else 2)
    assert {start.request.session.sequence for start in starts} == {1}
    assert cluster.effects == ["w"]


async def test_a_start_whose_answer_got_lost_is_asked_for_again(cluster: FakeCluster, client: Client) -> None:
    cluster.fault("StartWorkflow", Refused(UNAVAILABLE), after_effect=True)
    outcome = begin(client)
    await cluster.reached("WaitWorkflow")
    await completed(cluster)
    assert (await outcome).n == 1
    assert cluster.effects == ["w"]


async def test_one_ask_that_is_cancelled_is_taken_back_and_the_others_go_on(
    cluster: FakeCluster, client: Client
) -> None:
    first, second = begin(client, "a"), begin(client, "b")
    await cluster.reached("WaitWorkflow", 2)
    first.cancel()
    await asyncio.wait({first})
    await completed(cluster, "a")
    await completed(cluster, "b")
    assert (await second).n == 1
    assert client.connection._streams[cluster.nodes[0].address].is_idle


async def test_the_deadline_of_one_is_not_that_of_the_others(cluster: FakeCluster, client: Client) -> None:
    brief, patient = begin(client, "a", timeout_s=0.2), begin(client, "b", timeout_s=60)
    with pytest.raises(DeadlineExceeded, match="a was still RUNNING"):
        await brief
    assert not patient.done()
    await completed(cluster, "b")
    assert (await patient).n == 1


async def test_what_has_no_room_until_the_deadline_had_no_effect(cluster: FakeCluster, client: Client) -> None:
    cluster.fault("StartWorkflow", Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_s=30))
    refused, other = begin(client, "a", timeout_s=1), begin(client, "b")
    with pytest.raises(Overloaded):
        await refused
    await completed(cluster, "b")
    assert (await other).n == 1


async def test_of_a_start_whose_answer_is_refused_the_outcome_is_unknown(cluster: FakeCluster, client: Client) -> None:
    """As to a client that leaves too many answers lying: the stream ends, with what it was to say."""
    for node in cluster.nodes:
        node.refuses_answers = Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "UNREAD_ANSWERS", retry_after_s=0.01)
    with pytest.raises(OutcomeUnknown):
        await client.start("order", id="a", timeout_s=1)
    assert cluster.requests("StartWorkflow")
    for node in cluster.nodes:
        node.refuses_answers = None
    assert (await client.start("order", id="b")).workflow_id == "b"


async def test_of_a_start_that_is_never_answered_the_outcome_is_unknown(cluster: FakeCluster, client: Client) -> None:
    await client.start("order", id="a")
    cluster.nodes[0].silent = True
    for node in cluster.nodes[1:]:
        node.believes = ("", 1)
    with pytest.raises(OutcomeUnknown):
        await client.start_and_wait("order", id="b", timeout_s=1)


async def test_many_at_once_share_messages(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.start("order", id="first")
    (stream,) = client.connection._streams.values()
    written: list[int] = []
    monkeypatch.setattr(stream, "_call", _Counting(stream._call, lambda frame: written.append(len(frame.asks.asks))))
    runs = await asyncio.gather(*(client.start("order", id=f"w{number}") for number in range(10_000)))
    assert [run.workflow_id for run in runs] == [f"w{number}" for number in range(10_000)]
    assert len(cluster.effects) == 10_001
    # As many as one client session takes; then the node answers one by one.
    assert sum(written) == 10_000 and written[0] > 500


class _Counting:
    """A call, whose frames are shown before they are written."""

    def __init__(self, call: Any, show: Callable[[Any], None]) -> None:
        self._call = call
        self._show = show

    async def write(self, frame: Any) -> None:
        self._show(frame)
        await self._call.write(frame)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


async def test_no_more_are_sent_than_the_node_has_room_for(cluster: FakeCluster, client: Client) -> None:
    await client.start("order", id="w")
    (stream,) = client.connection._streams.values()
    stream._asks_max = 2
    waits = [asyncio.ensure_future(client.wait("w")) for _ in range(5)]
    await cluster.reached("WaitWorkflow", 2)
    await asyncio.sleep(0.1)
    assert len(cluster.requests("WaitWorkflow")) == 2
    await completed(cluster)
    for wait in waits:
        assert (await wait).status.ended


async def test_where_there_is_no_stream_each_ask_is_a_call(cluster: FakeCluster, client: Client) -> None:
    for node in cluster.nodes:
        node.serves_asks = False
    outcome = begin(client)
    await cluster.reached("WaitWorkflow")
    await completed(cluster)
    assert (await outcome).n == 1
    with pytest.raises(NotFound):
        await client.wait("nobody")


async def test_a_client_that_is_closed_leaves_nobody_waiting(cluster: FakeCluster) -> None:
    client = Client(cluster.addresses)
    outcome = begin(client)
    await cluster.reached("WaitWorkflow")
    await client.close()
    await asyncio.wait({outcome}, timeout=10)
    assert outcome.cancelled()
