"""Calls that hand over the lead, and take a node out of service: who is asked, and who refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Any

import pytest

from orchestrator.replication.errors import NoSuccessor, NotLeader
from orchestrator.replication.log import Role
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.cluster import ClusterServicer
from orchestrator.rpc.draining import give_lead_away, leader_known, service_of
from orchestrator.rpc.errors import RpcFailure
from tests.rpc.bench import Bench
from tests.rpc.test_cluster import peer, says, status


class Log:
    """Hands over to whoever is first by name, if anybody may have it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.asked: list[Container[str] | None] = []
        self.refuses = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bench, name)

    async def transfer_leadership(self, among: Container[str] | None = None) -> bool:
        self.asked.append(among)
        if self.refuses:
            return False
        self._bench.lose_leadership()
        return True


@pytest.fixture
def log(bench: Bench) -> Log:
    bench.status_answer = status(Role.LEADER, peer("n2", match=100), peer("n3", match=98))
    bench.peer_facts = {"n2": says("follower"), "n3": says("follower")}
    return Log(bench)


@pytest.fixture
def backend(bench: Bench, log: Log) -> Backend:
    return dataclasses.replace(bench.backend(), log=log)


async def test_the_lead_goes_to_who_is_named_or_to_anybody_in_service(
    bench: Bench, log: Log, backend: Backend
) -> None:
    await give_lead_away(backend, "n3")
    bench.peer_facts["n2"]["drained"] = 1
    await give_lead_away(backend, "")
    assert log.asked == [{"n3"}, {"n3"}]
    assert await leader_known(backend) == "n2"


async def test_who_leads_already_is_asked_nothing(log: Log, backend: Backend) -> None:
    await give_lead_away(backend, "n1")
    assert log.asked == []


async def test_who_can_not_have_it(bench: Bench, log: Log, backend: Backend) -> None:
    with pytest.raises(RpcFailure) as raised:
        await give_lead_away(backend, "n9")
    assert raised.value.reason == "MEMBER_NOT_FOUND"
    bench.peer_facts["n2"]["drained"] = 1
    with pytest.raises(RpcFailure) as raised:
        await give_lead_away(backend, "n2")
    assert raised.value.reason == "NODE_DRAINED"
    log.refuses = True
    with pytest.raises(NoSuccessor, match="n3 can't take over"):
        await give_lead_away(backend, "n3")
    assert log.asked == [{"n3"}]


async def test_a_node_that_does_not_lead_sends_to_the_leader(bench: Bench, backend: Backend) -> None:
    bench.lose_leadership()
    with pytest.raises(NotLeader):
        ClusterServicer(backend).backend.require_leading()


async def test_only_the_node_itself_is_drained(backend: Backend) -> None:
    with pytest.raises(RpcFailure, match="this is node 'n1'") as raised:
        service_of(backend, "n2")
    assert raised.value.reason == "ANOTHER_NODE"
    with pytest.raises(RpcFailure) as raised:
        service_of(backend, "n1")
    assert raised.value.reason == "UNIMPLEMENTED"
