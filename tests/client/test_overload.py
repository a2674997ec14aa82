"""Starts for which the cluster has no room: who waits, how often the cluster is asked, and what callers learn."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from orchestrator_client import Client, NoLeader, OutcomeUnknown, Overloaded
from orchestrator_client.requests import WINDOW
from orchestrator_client.status import Failure, Kind
from tests.client.fake_cluster import FakeCluster, FakeNode, Refused

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def node(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FullNode:
    return FullNode(cluster, monkeypatch)


class FullNode:
    """What the leader does with starts: refuse, take, or never answer."""

    def __init__(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.does = "refuse"
        self.delay_s = 0.05
        self.attempts: list[Any] = []
        self._attempted = asyncio.Condition()
        serve = FakeNode._serve

        async def served(node: FakeNode, method: str, request: Any, context: Any, effect: Any) -> Any:
            if method == "StartWorkflow":
                await node.admit(context)
                async with self._attempted:
                    self.attempts.append(type(request).FromString(request.SerializeToString()))
                    self._attempted.notify_all()
                match self.does:
                    case "refuse":
                        await node.refuse(context, Refused(FULL, "OVERLOADED", retry_after_s=self.delay_s))
                    case "lose":
                        await node.refuse(context, Refused(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"))
                    case "keep silent":
                        await asyncio.Event().wait()
            return await serve(node, method, request, context, effect)

        monkeypatch.setattr(FakeNode, "_serve", served)

    async def attempted(self, count: int) -> None:
        """Returns once so many starts have come."""
        async with asyncio.timeout(60), self._attempted:
            await self._attempted.wait_for(lambda: len(self.attempts) >= count)


async def outcomes(client: Client, count: int, timeout_s: float) -> Counter[str]:
    async def one(number: int) -> str:
        try:
            await client.start("order", id=f"w{number}", timeout_s=timeout_s)
        except (Overloaded, OutcomeUnknown) as error:
            return type(error).__name__
        return "started"

    return Counter(await asyncio.gather(*map(one, range(count))))


async def test_thousands_that_are_refused_share_a_budget_and_know_that_they_had_no_effect(
    client: Client, node: FullNode
) -> None:
    node.does = "take"
    await client.start("order", id="first")
    node.does = "refuse"
    assert await outcomes(client, 300, timeout_s=3) == {"Overloaded": 300}
    # Each was sent once at most before the first refusal came; after that the client asked about once for each delay.
    assert len(node.attempts) < 300 + 100
    before = len(node.attempts)
    assert await outcomes(client, 1_000, timeout_s=1) == {"Overloaded": 1_000}
    assert len(node.attempts) - before < 50


async def test_who_waits_is_started_when_there_is_room_again(
    cluster: FakeCluster, client: Client, node: FullNode
) -> None:
    begun = asyncio.ensure_future(outcomes(client, 300, timeout_s=60))
    await node.attempted(2)
    node.does = "take"
    assert await begun == {"started": 300}
    assert len(cluster.effects) == 300


async def test_who_is_asked_to_wait_beyond_the_deadline_learns_it_at_once(client: Client, node: FullNode) -> None:
    node.delay_s = 300
    async with asyncio.timeout(60):
        with pytest.raises(Overloaded):
            await client.start("order", timeout_s=200)
    assert len(node.attempts) == 1


async def test_an_attempt_that_was_not_answered_leaves_doubt_that_later_refusals_do_not_remove(
    client: Client, node: FullNode
) -> None:
    node.does = "lose"
    begun = asyncio.ensure_future(client.start("order", id="w", timeout_s=2))
    await node.attempted(1)
    node.does = "refuse"
    with pytest.raises(OutcomeUnknown):
        await begun
    assert len(node.attempts) > 1
    # They were repetitions of one request, by which the cluster would have known it again.
    assert len({attempt.request.SerializeToString(deterministic=True) for attempt in node.attempts}) == 1


async def test_of_an_attempt_that_is_under_way_at_the_deadline_the_outcome_is_unknown(
    client: Client, node: FullNode
) -> None:
    begun = asyncio.ensure_future(client.start("order", timeout_s=1.5))
    await node.attempted(1)
    node.does = "keep silent"
    with pytest.raises(OutcomeUnknown):
        await begun


async def test_a_start_that_was_refused_holds_up_no_number_of_its_session(
    cluster: FakeCluster, client: Client, node: FullNode
) -> None:
    node.does = "take"
    await client.start("order", id="first")
    node.does = "refuse"
    assert await outcomes(client, 3, timeout_s=0.5) == {"Overloaded": 3}
    # While many more wait than a session has numbers for.
    begun = asyncio.ensure_future(outcomes(client, 3 * WINDOW, timeout_s=60))
    await node.attempted(len(node.attempts) + 5)
    assert len(cluster.requests("OpenClientSession")) == 1
    node.does = "take"
    assert await begun == {"started": 3 * WINDOW}


async def test_other_calls_do_not_wait_for_starts(cluster: FakeCluster, client: Client, node: FullNode) -> None:
    node.does = "take"
    await client.start("order", id="w")
    node.does, node.delay_s = "refuse", 30
    begun = asyncio.ensure_future(client.start("order", id="v", timeout_s=60))
    await node.attempted(2)
    async with asyncio.timeout(20):
        assert (await client.get("w")).workflow_id == "w"
        await client.run("w").signal("go")
    assert not begun.done()
    begun.cancel()


async def test_what_never_left_the_client_had_no_effect(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node reads no more from the stream; what is asked then stays here."""
    seen: list[Failure] = []
    async with Client(cluster.addresses) as client:
        await client.start("order", id="w")
        (stream,) = client.connection._streams.values()
        stream._asks_max = 0
        recover = client.connection.recover

        async def noted(address: str, failure: Failure, retry: Any) -> Any:
            seen.append(failure)
            return await recover(address, failure, retry)

        monkeypatch.setattr(client.connection, "recover", noted)
        with pytest.raises(NoLeader):
            await client.start("order", id="v", timeout_s=0.5)
    assert [(failure.kind, failure.sent) for failure in seen] == [(Kind.UNREACHABLE, False)]
