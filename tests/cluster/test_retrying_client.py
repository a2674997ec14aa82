"""A client that repeats its requests while leaders die: the same request takes effect once and has the same answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_api.v1.common_pb2 import ClientSession, RequestIdentity
from orchestrator_api.v1.workflows_pb2 import IF_EXISTS_RETURN, StartWorkflowResponse
from orchestrator_client import Client, Workflow
from orchestrator_client.status import Failure, Kind
from tests.cluster.nodes import Pinned, check_same_content, pinned
from tests.cluster.workload import eventually

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CLIENTS = 16
EACH = 12

waiter = Workflow("waiter")
waiter.wait(signal="go")
other = Workflow("other")
other.wait(signal="go")


async def now_ms(client: Client) -> int:
    """The cluster's own time: what a plain client takes from its clock."""
    return int(((await client.status()).log_time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def ulid(time_ms: int, chance: random.Random) -> str:
    number = time_ms << 80 | chance.getrandbits(80)
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(26)))


async def until_answered(cluster: LocalCluster, call: Callable[[Pinned], Any]) -> Any:
    """As a simple client does it: the same request to one node after the other, until one answers."""
    async def tried() -> Any:
        for name in cluster.nodes:
            async with pinned(cluster, name) as node:
                answer = await call(node)
                if not isinstance(answer, Failure) or answer.kind is Kind.FINAL:
                    return answer
        return None

    return await eventually(tried, "a node to answer")


async def kill_leader(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    await cluster.kill_node(leader)
    await cluster.wait_leader(other_than=leader)
    cluster.start_node(leader)
    await cluster.wait_ready()


async def test_each_request_of_many_clients_takes_effect_once(
    cluster: LocalCluster, client: Client, chance: random.Random
) -> None:
    await client.register(waiter)
    time_ms = await now_ms(client)
    started: list[str] = []

    async def simple_client(number: int) -> None:
        for n in range(EACH):
            request = RequestIdentity(request_id=ulid(time_ms, chance))
            fields: dict[str, Any] = {"correlation_id": f"{number}-{n}", "request": request, "timeout_s": 1}
            ask: Callable[[Pinned], Any] = partial(Pinned.start, name="waiter", **fields)
            answers = [await until_answered(cluster, ask) for _ in range(2)]
            assert [type(answer) for answer in answers] == [StartWorkflowResponse] * 2, answers
            assert answers[0].workflow_id == answers[1].workflow_id
            started.append(answers[0].workflow_id)

    clients = asyncio.gather(*map(simple_client, range(CLIENTS)))
    for _ in range(2):
        goal = len(started) + chance.randrange(5, 40)
        await eventually(lambda goal=goal: len(started) >= goal or clients.done(), "requests to be answered")
        await kill_leader(cluster)
    await clients
    found = [each async for each in client.search(name="waiter")]
    assert Counter(each.workflow_id for each in found) == Counter(started)
    assert Counter(each.correlation_id for each in found) == Counter(
        f"{number}-{n}" for number in range(CLIENTS) for n in range(EACH)
    )
    await check_same_content(cluster)


async def test_a_repeated_request_has_the_same_answer_after_a_failover(
    cluster: LocalCluster, client: Client, chance: random.Random
) -> None:
    await client.register(waiter, other)
    session = await until_session(cluster)
    identities = [
        RequestIdentity(request_id=ulid(await now_ms(client), chance)),
        RequestIdentity(session=ClientSession(id=session, sequence=1, lowest_unacknowledged=1)),
    ]

    async def ask(identity: RequestIdentity, **fields: Any) -> Any:
        return await until_answered(cluster, lambda node: node.start("waiter", request=identity, **fields))

    first = [await ask(identity, correlation_id="once") for identity in identities]
    assert len({answer.workflow_id for answer in first}) == 2
    refused = RequestIdentity(session=ClientSession(id=session, sequence=2, lowest_unacknowledged=1))
    assert (await ask(refused, workflow_id=first[0].workflow_id)).reason == "WORKFLOW_ALREADY_EXISTS"
    for _ in range(2):
        await kill_leader(cluster)
        again = [await ask(identity, correlation_id="once") for identity in identities]
        assert [answer.workflow_id for answer in again] == [answer.workflow_id for answer in first]
        # A refusal is an answer, too: it stays one, though the request would succeed by now if it were new.
        assert (await ask(refused, workflow_id=first[0].workflow_id)).reason == "WORKFLOW_ALREADY_EXISTS"
        # The request is known by its identity alone, so other content does not start anything.
        assert (await ask(identities[0], correlation_id="changed")).workflow_id == first[0].workflow_id
    assert len([each async for each in client.search(name="waiter")]) == 2


async def until_session(cluster: LocalCluster) -> str:
    async with pinned(cluster, await cluster.wait_leader()) as node:
        return await node.open_session()


async def test_an_id_that_is_taken_stays_taken_after_a_failover(cluster: LocalCluster, client: Client) -> None:
    await client.register(waiter, other)
    await client.start("waiter", id="taken")
    await kill_leader(cluster)
    answers = [
        await until_answered(cluster, lambda node, name=name, f=fields: node.start(name, workflow_id="taken", **f))
        for name, fields in (("waiter", {}), ("other", {}), ("waiter", {"if_exists": IF_EXISTS_RETURN}),
                             ("other", {"if_exists": IF_EXISTS_RETURN}))
    ]
    plain, plain_other, returned, returned_other = answers
    assert (plain.reason, plain_other.reason) == ("WORKFLOW_ALREADY_EXISTS", "WORKFLOW_ALREADY_EXISTS")
    assert (returned.workflow_id, returned.existing) == ("taken", True)
    assert returned_other.reason == "WORKFLOW_ID_OF_ANOTHER"


async def test_a_request_from_outside_its_window_is_refused_and_never_executed(
    cluster: LocalCluster, client: Client, chance: random.Random
) -> None:
    await client.register(waiter)
    old = RequestIdentity(request_id=ulid(await now_ms(client) - 11 * 60_000, chance))
    assert (await until_answered(cluster, lambda node: node.start("waiter", request=old))).reason == "REQUEST_EXPIRED"
    assert [each async for each in client.search(name="waiter")] == []
