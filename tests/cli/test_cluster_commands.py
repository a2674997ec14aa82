"""The state of the cluster is shown even if only one node answers; the leader's word counts most."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import cluster_commands
from orchestrator.cli.app import cli
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_client import TLS


def answer(node: str, *, leader: str = "b", term: int = 7, lag: int = 0, stuck: int = 0) -> pb.GetStatusResponse:
    nodes = [pb.NodeStatus(name=name, grpc_address=f"{name}:1", term=term, lag_entries=lag if name == "c" else 0,
                           role=pb.NODE_ROLE_LEADER if name == leader else pb.NODE_ROLE_FOLLOWER) for name in "abc"]
    return pb.GetStatusResponse(cluster_id="C", node=node, leader=leader, term=term, nodes=nodes, faults_tolerable=1,
                                live_workflows=12, stuck_compensations=stuck, version="0.1.0")


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, pb.GetStatusResponse]:
    """Address -> what the node there says."""
    said: dict[str, pb.GetStatusResponse] = {}

    async def ask_status(address: str, timeout_s: float, tls: TLS | None = None) -> pb.GetStatusResponse | None:
        return said.get(address)

    async def ask_leader(address: str, timeout_s: float, tls: TLS | None = None) -> pb.GetLeaderResponse | None:
        found = said.get(address)
        return found and pb.GetLeaderResponse(leader=found.leader, grpc_address=f"{found.leader}:1", term=found.term)

    monkeypatch.setattr(cluster_commands, "ask_status", ask_status)
    monkeypatch.setattr(cluster_commands, "ask_leader", ask_leader)
    return said


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["-e", "a:1,b:1,c:1", *arguments])


def test_the_leader_is_believed_first(nodes: dict[str, pb.GetStatusResponse]) -> None:
    nodes |= {"a:1": answer("a"), "b:1": answer("b", lag=5), "c:1": answer("c", leader="c", term=6)}
    document = json.loads(run("cluster", "status", "--json").stdout)
    assert document["node"] == "b" and document["live_workflows"] == 12
    assert document["nodes"][2]["lag_entries"] == 5 and document["nodes"][1]["role"] == "LEADER"


def test_a_leader_that_was_not_named_is_asked_too(nodes: dict[str, pb.GetStatusResponse]) -> None:
    nodes |= {"a:1": answer("a"), "b:1": answer("b", lag=5)}
    result = CliRunner().invoke(cli, ["cluster", "status", "-e", "a:1", "--json"])
    assert json.loads(result.stdout)["node"] == "b"


def test_for_people(nodes: dict[str, pb.GetStatusResponse]) -> None:
    nodes["b:1"] = answer("b", lag=5_000, stuck=2)
    result = run("cluster", "status")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert rows["b"][1:3] == ["LEADER", "7"] and rows["c"][4] == "5000"
    assert rows["can"][2:] == ["1", "more", "fault"] and rows["stuck"][1] == "2"


def test_what_each_node_runs_and_whether_the_level_can_be_raised(nodes: dict[str, pb.GetStatusResponse]) -> None:
    found = nodes["b:1"] = answer("b")
    for node, (version, highest) in zip(found.nodes, [("1.1", 2), ("1.0", 1), ("", 0)], strict=True):
        node.version, node.behaviour_lowest, node.behaviour_highest = version, min(1, highest), highest
    found.behaviour_level = 1
    rows = {line.split()[0]: line.split() for line in run("cluster", "status").stdout.splitlines() if line.strip()}
    assert rows["version"] == ["version", "1.0", "and", "1.1"] and rows["behaviour"] == ["behaviour", "level", "1"]
    assert rows["a"][-3:] == ["1.1", "1-2", "a:1"] and rows["b"][-3:] == ["1.0", "1", "b:1"]
    found.behaviour_level_known = 2
    assert "level 1, all members know 2: `cluster raise-behaviour`" in run("cluster", "status").stdout


def test_the_level_is_raised_by_who_says_so(nodes: dict[str, pb.GetStatusResponse]) -> None:
    result = CliRunner().invoke(cli, ["-e", "a:1", "cluster", "raise-behaviour"], input="n\n")
    assert result.exit_code != 0 and "never lowered" in result.stderr


def test_without_a_leader_what_is_known_is_shown_and_the_exit_code_says_it(
        nodes: dict[str, pb.GetStatusResponse]) -> None:
    nodes["a:1"] = answer("a", leader="")
    for command in ("status", "leader"):
        result = run("cluster", command)
        assert result.exit_code == 5 and result.stderr == "error: the cluster has no leader now\n"
        assert ("writes wait" in result.stdout) == (command == "status")


def test_nobody_answers(nodes: dict[str, pb.GetStatusResponse]) -> None:
    assert nodes == {}
    for command in ("status", "leader"):
        result = run("cluster", command)
        assert (result.exit_code, result.stderr) == (5, "error: no node answers at a:1, b:1, c:1\n")


def test_the_leader(nodes: dict[str, pb.GetStatusResponse]) -> None:
    nodes |= {"a:1": answer("a", leader="c", term=9), "b:1": answer("b")}
    assert run("cluster", "leader").stdout == "c c:1\n"
    assert json.loads(run("cluster", "leader", "--json").stdout) == {"leader": "c", "grpc_address": "c:1", "term": 9}
