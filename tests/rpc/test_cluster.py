"""What a node says of the cluster, from its own knowledge."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import pytest

from orchestrator import __version__
from orchestrator.engine.commands import RaiseBehaviour
from orchestrator.replication.configuration import Configuration, Member
from orchestrator.replication.errors import (
    ChangeInProgress,
    InvalidMember,
    MemberExists,
    NotLeader,
    UnknownMember,
    WouldLoseQuorum,
)
from orchestrator.replication.log import Role
from orchestrator.replication.release import THIS_RELEASE, Release
from orchestrator.replication.status import PeerStatus, Status, TransferStatus
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_client.connection import failure_of
from tests.rpc.bench import Bench, Stubs


def peer(name: str, *, connected: bool = True, match: int | None = None, stranger: bool = False) -> PeerStatus:
    return PeerStatus(name, connected, match, None, None, None, None, None if match is None else 12, stranger)


def status(role: Role, *peers: PeerStatus) -> Status:
    return Status(
        node="n1", role=role, awaiting_reason=None, term=7, leader="n1", ready_to_lead=True, first_index=1,
        last_index=110, durable_index=110, commit_index=100, flushed_index=90, journal_bytes=5, configuration=None,
        configuration_index=0, peers=peers, transfers=(), counters={},
    )


def says(role: str, **facts: Any) -> dict[str, Any]:
    return {"role": role, "grpc_address": "127.0.0.1:7402", "term": 7, "commit_index": 99, "applied_index": 95} | facts


async def nodes(stubs: Stubs) -> dict[str, pb.NodeStatus]:
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    return {node.name: node for node in reply.nodes}


async def test_the_leader_says_what_each_member_holds(bench: Bench, stubs: Stubs) -> None:
    bench.status_answer = status(Role.LEADER, peer("n3", match=98), peer("n2", match=100))
    bench.peer_facts = {"n2": says("follower"), "n3": says("follower")}
    bench.driver.index = 100
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    assert (reply.cluster_id, reply.node, reply.term, reply.leader, reply.version) == ("c", "n1", 7, "n1", __version__)
    assert [node.name for node in reply.nodes] == ["n1", "n2", "n3"]
    own, _, third = reply.nodes
    assert (own.role, own.grpc_address, own.peer_address) == (pb.NODE_ROLE_LEADER, "127.0.0.1:7401", "127.0.0.1:7501")
    assert (own.last_index, own.commit_index, own.applied_index, own.lag_entries) == (110, 100, 100, 0)
    assert (third.role, third.last_index, third.lag_entries, third.last_contact_ms) == (
        pb.NODE_ROLE_FOLLOWER, 98, 2, 12
    )
    assert (third.grpc_address, third.peer_address, third.commit_index) == ("127.0.0.1:7402", "127.0.0.1:7503", 99)


async def test_one_that_was_not_admitted_is_told_from_one_that_is_away(bench: Bench, stubs: Stubs) -> None:
    peers = [peer("n2", connected=False), peer("n3", connected=False, stranger=True)]
    bench.status_answer = status(Role.LEADER, *peers)
    # What the node said that had the name before does not count any more.
    bench.peer_facts = {"n2": says("follower"), "n3": says("follower")}
    found = await nodes(stubs)
    assert found["n2"].role == pb.NODE_ROLE_UNREACHABLE
    assert found["n3"].role == pb.NODE_ROLE_AWAITING_ADMISSION


async def test_a_follower_goes_by_what_the_others_say_of_themselves(bench: Bench, stubs: Stubs) -> None:
    bench.status_answer = status(Role.FOLLOWER, peer("n2"), peer("n3"))
    bench.peer_facts = {"n2": says("leader")}
    found = await nodes(stubs)
    assert found["n2"].role == pb.NODE_ROLE_LEADER and found["n2"].lag_entries == 5
    assert found["n3"].role == pb.NODE_ROLE_UNSPECIFIED and found["n3"].grpc_address == ""


@pytest.mark.parametrize(
    ("peers", "facts", "tolerable"),
    [
        ([peer("n2"), peer("n3")], {"n2": says("follower"), "n3": says("follower")}, 1),
        ([peer("n2"), peer("n3", connected=False)], {"n2": says("follower"), "n3": says("follower")}, 0),
        ([peer("n2"), peer("n3")], {"n2": says("follower"), "n3": says("awaiting_admission")}, 0),
        ([peer("n2", connected=False), peer("n3", connected=False)], {}, 0),
    ],
    ids=["all there", "one gone", "one without a vote", "alone"],
)
async def test_how_many_more_may_fail(
    bench: Bench, stubs: Stubs, peers: list[PeerStatus], facts: dict[str, Any], tolerable: int
) -> None:
    bench.status_answer = status(Role.LEADER, *peers)
    bench.peer_facts = facts
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    assert reply.faults_tolerable == tolerable
    gone = {each.name for each in peers if not each.connected}
    assert {node.name for node in reply.nodes if node.role == pb.NODE_ROLE_UNREACHABLE} == gone


async def test_what_is_under_way_is_counted(bench: Bench, stubs: Stubs) -> None:
    bench.status_answer = status(Role.LEADER)
    bench.order("pay")
    bench.driver.worker("s", "pay")
    for number in range(3):
        bench.start(f"w{number}")
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    assert (reply.live_workflows, reply.worker_sessions, reply.leased_tasks, reply.ready_tasks) == (3, 1, 1, 2)
    assert reply.log_time_ms == bench.driver.now_ms


async def test_any_node_says_who_leads_as_far_as_it_knows(bench: Bench, stubs: Stubs) -> None:
    bench.lose_leadership()
    reply = await stubs.cluster.GetLeader(pb.GetLeaderRequest())
    assert (reply.leader, reply.grpc_address, reply.term) == ("n2", "127.0.0.1:7402", 8)
    bench.leader = None
    reply = await stubs.cluster.GetLeader(pb.GetLeaderRequest())
    assert (reply.leader, reply.grpc_address) == ("", "")


def test_every_role_has_its_number() -> None:
    from orchestrator.rpc.cluster import _ROLES

    assert set(_ROLES) == set(Role)


MEMBERS = Configuration(
    members={"n1": Member("i1", "127.0.0.1:7501"), "n2": Member("i2", "127.0.0.1:7777")},
    learners={"n3": Member("i3", "127.0.0.1:7503")},
)


def with_members(bench: Bench) -> None:
    answer = status(Role.LEADER, peer("n2", match=100), dataclasses.replace(peer("n3", match=1), learner=True))
    bench.status_answer = dataclasses.replace(answer, configuration=MEMBERS)
    bench.peer_facts = {"n2": says("follower"), "n3": says("learner")}


async def test_a_learner_is_shown_as_one_and_counted_nowhere(bench: Bench, stubs: Stubs) -> None:
    with_members(bench)
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    assert [node.role for node in reply.nodes][2] == pb.NODE_ROLE_LEARNER
    assert reply.faults_tolerable == 0
    # Where the configuration says, not where this node was once told.
    assert reply.nodes[1].peer_address == "127.0.0.1:7777"


async def test_what_a_change_leaves_out_is_what_the_waiting_node_says_itself(bench: Bench, stubs: Stubs) -> None:
    with_members(bench)
    bench.waiting = {"n2": Member("new", "127.0.0.1:1"), "n4": Member("i4", "127.0.0.1:4")}
    reply = await stubs.cluster.AddMember(pb.AddMemberRequest(name="n4"))
    assert (reply.incarnation, reply.peer_address) == ("i4", "127.0.0.1:4")
    await stubs.cluster.AddMember(pb.AddMemberRequest(name="n5", incarnation="i5", peer_address="h:5"))
    await stubs.cluster.ReplaceMember(pb.ReplaceMemberRequest(name="n2"))
    await stubs.cluster.ReplaceMember(pb.ReplaceMemberRequest(name="n2", incarnation="other"))
    await stubs.cluster.RemoveMember(pb.RemoveMemberRequest(name="n2"))
    assert bench.changed_members == [
        ("add", "n4", "i4", "127.0.0.1:4"),
        ("add", "n5", "i5", "h:5"),
        ("replace", "n2", "new", "127.0.0.1:1"),
        ("replace", "n2", "other", "127.0.0.1:7777"),
        ("remove", "n2"),
    ]


async def test_nobody_waits(bench: Bench, stubs: Stubs) -> None:
    with_members(bench)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.cluster.AddMember(pb.AddMemberRequest(name="n4"))
    assert failure_of(raised.value).reason == "NODE_NOT_WAITING"
    # Asked again: it is being admitted already.
    await stubs.cluster.AddMember(pb.AddMemberRequest(name="n3"))
    assert bench.changed_members == [("add", "n3", "i3", "127.0.0.1:7503")]


async def test_asked_again_to_add_a_member_it_is_done_and_a_replacement_by_nobody_is_not(
    bench: Bench, stubs: Stubs
) -> None:
    with_members(bench)
    reply = await stubs.cluster.AddMember(pb.AddMemberRequest(name="n2"))
    assert (reply.incarnation, reply.peer_address) == ("i2", "127.0.0.1:7777")
    assert bench.changed_members == [("add", "n2", "i2", "127.0.0.1:7777")]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.cluster.ReplaceMember(pb.ReplaceMemberRequest(name="n2"))
    assert failure_of(raised.value).reason == "NODE_NOT_WAITING"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (NotLeader("n2"), grpc.StatusCode.UNAVAILABLE, "NOT_LEADER"),
        (ChangeInProgress("x"), grpc.StatusCode.FAILED_PRECONDITION, "MEMBERSHIP_CHANGE_IN_PROGRESS"),
        (WouldLoseQuorum("x"), grpc.StatusCode.FAILED_PRECONDITION, "QUORUM_WOULD_BE_LOST"),
        (UnknownMember("x"), grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND"),
        (MemberExists("x"), grpc.StatusCode.ALREADY_EXISTS, "MEMBER_EXISTS"),
        (InvalidMember("x"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"),
    ],
)
async def test_why_a_change_was_refused(
    bench: Bench, stubs: Stubs, error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    with_members(bench)
    bench.change_error = error
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.cluster.RemoveMember(pb.RemoveMemberRequest(name="n2"))
    assert (raised.value.code(), failure_of(raised.value).reason) == (code, reason)


async def test_how_far_a_learner_is_and_who_is_drained(bench: Bench, stubs: Stubs) -> None:
    with_members(bench)
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    assert reply.membership_changing and not any(node.snapshot_bytes for node in reply.nodes)
    transfers = (TransferStatus("n3", False, 90, 1000, 250),)
    bench.status_answer = dataclasses.replace(bench.status_answer, transfers=transfers)
    bench.peer_facts["n2"]["drained"] = 1
    own, second, third = (await stubs.cluster.GetStatus(pb.GetStatusRequest())).nodes
    assert (third.snapshot_bytes, third.snapshot_bytes_done) == (1000, 250)
    assert (own.drained, second.drained, third.drained) == (False, True, False)
    # As the learner itself says.
    transfers = (TransferStatus("n2", True, 90, 1000, 100),)
    bench.status_answer = dataclasses.replace(bench.status_answer, transfers=transfers)
    own, *others = (await stubs.cluster.GetStatus(pb.GetStatusRequest())).nodes
    assert own.snapshot_bytes_done == 100 and not any(node.snapshot_bytes for node in others)


async def test_a_change_is_over_when_it_is_committed_and_nobody_learns(bench: Bench, stubs: Stubs) -> None:
    settled = Configuration(members=MEMBERS.members)
    bench.status_answer = dataclasses.replace(status(Role.LEADER, peer("n2")), configuration=settled)
    assert not (await stubs.cluster.GetStatus(pb.GetStatusRequest())).membership_changing
    bench.status_answer = dataclasses.replace(bench.status_answer, configuration_index=101)
    assert (await stubs.cluster.GetStatus(pb.GetStatusRequest())).membership_changing


OLD, NEXT = Release("0.1.0", 1, 1), Release("9.9.0", 1, 2)


def running(bench: Bench, *releases: Release | None) -> None:
    answer = status(Role.LEADER, *(peer(f"n{number}") for number in range(2, len(releases) + 1)))
    known = {f"n{number}": release for number, release in enumerate(releases, 1)}
    said = {name: release for name, release in known.items() if release is not None}
    bench.status_answer = dataclasses.replace(answer, releases=known, said=said)


async def test_what_each_node_runs_is_shown(bench: Bench, stubs: Stubs) -> None:
    running(bench, THIS_RELEASE, NEXT, None)
    reply = await stubs.cluster.GetStatus(pb.GetStatusRequest())
    own, second, third = reply.nodes
    assert (own.version, own.behaviour_lowest, own.behaviour_highest) == (__version__, 1, THIS_RELEASE.highest_level)
    assert (second.version, second.behaviour_lowest, second.behaviour_highest) == ("9.9.0", 1, 2)
    assert (third.version, third.behaviour_lowest, third.behaviour_highest) == ("", 0, 0)
    assert (reply.behaviour_level, reply.behaviour_level_known) == (1, 0)
    running(bench, NEXT, NEXT, NEXT)
    assert (await stubs.cluster.GetStatus(pb.GetStatusRequest())).behaviour_level_known == 2


async def test_the_level_is_raised_once_and_never_back(bench: Bench, stubs: Stubs) -> None:
    running(bench, NEXT, NEXT, NEXT)
    reply = await stubs.cluster.RaiseBehaviour(pb.RaiseBehaviourRequest())
    assert (reply.previous, reply.level) == (1, 2)
    for level in (0, 2):
        reply = await stubs.cluster.RaiseBehaviour(pb.RaiseBehaviourRequest(level=level))
        assert (reply.previous, reply.level) == (2, 2)
    assert bench.submitted == [RaiseBehaviour(2)]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.cluster.RaiseBehaviour(pb.RaiseBehaviourRequest(level=1))
    assert failure_of(raised.value).reason == "BEHAVIOUR_LEVEL_LOWER"


@pytest.mark.parametrize(
    ("others", "level", "why"),
    [((NEXT, None), 0, "n3 runs is not known"), ((NEXT, OLD), 0, "n3 .* knows 1"), ((NEXT, NEXT), 3, "n1 .*")],
)
async def test_the_level_is_not_raised_before_all_know_it(
    bench: Bench, stubs: Stubs, others: tuple[Release | None, ...], level: int, why: str
) -> None:
    running(bench, NEXT, *others)
    with pytest.raises(grpc.aio.AioRpcError, match=why) as raised:
        await stubs.cluster.RaiseBehaviour(pb.RaiseBehaviourRequest(level=level))
    assert failure_of(raised.value).reason == "BEHAVIOUR_LEVEL_UNSUPPORTED"
    assert not bench.submitted


async def test_a_node_that_does_not_know_the_level_is_not_admitted(bench: Bench, stubs: Stubs) -> None:
    running(bench, NEXT, NEXT, NEXT)
    await stubs.cluster.RaiseBehaviour(pb.RaiseBehaviourRequest())
    bench.status_answer = dataclasses.replace(bench.status_answer, said={"n5": Release("0.1.0", 1, 1)})
    for request in (pb.AddMemberRequest(name="n4", incarnation="i", peer_address="h:4", behaviour_lowest=1,
                                        behaviour_highest=1),
                    pb.AddMemberRequest(name="n5", incarnation="i", peer_address="h:5")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stubs.cluster.AddMember(request)
        assert failure_of(raised.value).reason == "BEHAVIOUR_LEVEL_UNSUPPORTED"
    with pytest.raises(grpc.aio.AioRpcError):
        await stubs.cluster.ReplaceMember(pb.ReplaceMemberRequest(name="n5", incarnation="i"))
    assert not bench.changed_members
    await stubs.cluster.AddMember(pb.AddMemberRequest(
        name="n4", incarnation="i", peer_address="h:4", behaviour_lowest=2, behaviour_highest=3))
    assert len(bench.changed_members) == 1
