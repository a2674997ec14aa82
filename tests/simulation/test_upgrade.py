"""A cluster is upgraded node by node, in virtual time and under callers: nodes of two releases compute the same until
all know a higher behaviour level, and it is raised once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.replication.errors import LevelUnsupported
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_client import errors
from tests.simulation.failover import Drive, QuietCluster
from tests.simulation.run import repeatable, simulating
from tests.simulation.upgrade import NEW, OLD, PRIORITY, Upgrade, levels, of_two_releases, start_without_asking

SOAK_MS = 5_000


def told(story: Callable[[QuietCluster], None], seed: int, **settings: int) -> None:
    """By a call of its own, so that nothing of it is held when it is over."""
    with simulating(verbose=False) as scratch:
        _told(story, of_two_releases(seed, scratch, **settings))


def _told(story: Callable[[QuietCluster], None], cluster: QuietCluster) -> None:
    with repeatable(cluster):
        story(cluster)


def sound(cluster: QuietCluster) -> None:
    assert not cluster.watcher.violations, cluster.watcher.violations[:3]


@pytest.mark.parametrize("seed", range(3))
def test_up_back_up_and_raised(seed: int) -> None:
    told(lambda cluster: _upgrade(Upgrade(cluster)), seed)


def _upgrade(upgrade: Upgrade) -> None:
    first, second, third = upgrade.in_order()
    upgrade.exchange(first, NEW)
    upgrade.lead(NEW)
    _cannot_be_raised(upgrade, "not all members know level")
    upgrade.exchange(second, NEW)
    upgrade.lead(OLD)
    upgrade.exchange(first, OLD)
    upgrade.exchange(first, NEW)
    upgrade.exchange(third, NEW)
    assert levels(upgrade.cluster) == {1}
    # Nobody can tell what one will run that is away.
    upgrade.do(third.machine.kill)
    upgrade.until(lambda: _missed(upgrade, third.name), f"the leader misses {third.name}")
    _cannot_be_raised(upgrade, third.name)
    upgrade.do(third.start)
    upgrade.until(lambda: upgrade.cluster.ready, "all nodes serve")
    before = len(upgrade.callers.acknowledged)
    answer = upgrade.raise_level()
    assert isinstance(answer, pb.RaiseBehaviourResponse) and (answer.previous, answer.level) == (1, 2)
    again = upgrade.raise_level()
    assert isinstance(again, pb.RaiseBehaviourResponse) and (again.previous, again.level) == (2, 2)
    upgrade.advance(1.0)
    upgrade.lead(NEW)
    _refuses_to_go_back(upgrade)
    upgrade.advance(2.0)
    upgrade.settled()
    assert levels(upgrade.cluster) == {2} and len(upgrade.raised_at) == 1
    priorities = list(upgrade.priorities().values())
    assert priorities[0] == priorities[1] == priorities[2]
    acknowledged = [priorities[0][workflow_id] for workflow_id in upgrade.callers.acknowledged]
    assert set(acknowledged[: before - 3]) == {0} and acknowledged[-1] == PRIORITY
    sound(upgrade.cluster)


def _cannot_be_raised(upgrade: Upgrade, why: str) -> None:
    answer = upgrade.raise_level()
    assert isinstance(answer, errors.OrchestratorError) and why in str(answer), answer
    assert levels(upgrade.cluster) == {1}


def _refuses_to_go_back(upgrade: Upgrade) -> None:
    """Its data say so, or its log does before anything of it is applied."""
    member = upgrade.in_order()[0]
    refused: list[BaseException] = []
    failed = member.failed
    member.failed = refused.append  # type: ignore[method-assign]  # this is no fault
    upgrade.do(member.machine.kill)
    upgrade.gets(member, OLD)
    upgrade.do(member.start)
    upgrade.until(lambda: bool(refused), f"{member.name} refuses to start")
    cause = refused[0].__cause__ or refused[0]
    assert isinstance(cause, LevelUnsupported) and "behaviour level 2" in str(cause) and "1.0.0" in str(cause)
    member.failed = failed  # type: ignore[method-assign]  # as it was
    upgrade.until(lambda: not member.machine.running, f"{member.name} has ended")
    upgrade.gets(member, NEW)
    upgrade.do(member.start)
    upgrade.until(lambda: upgrade.cluster.ready, "all nodes serve")


def test_raised_by_itself_when_all_have_known_it_for_long_enough() -> None:
    def story(cluster: QuietCluster) -> None:
        upgrade = Upgrade(cluster)
        *some, last = upgrade.in_order()
        for member in some:
            upgrade.exchange(member, NEW)
        upgrade.advance(2 * SOAK_MS / 1000)
        assert levels(cluster) == {1}
        upgrade.exchange(last, NEW)
        assert levels(cluster) == {1}
        upgrade.until(lambda: levels(cluster) == {2}, "the level is raised")
        upgrade.settled()
        assert len(upgrade.raised_at) == 1
        sound(cluster)

    told(story, 11, behaviour_raise_after_ms=SOAK_MS)


def test_what_does_not_ask_the_level_makes_nodes_differ() -> None:
    """So the test above would notice."""
    def story(cluster: QuietCluster) -> None:
        upgrade = Upgrade(cluster, start_without_asking)
        upgrade.exchange(upgrade.in_order()[0], NEW)
        upgrade.advance(10.0)
        assert any("the majority's another" in found for found in cluster.watcher.violations)

    told(story, 5)


def test_a_new_cluster_begins_at_the_highest_level() -> None:
    def story(cluster: QuietCluster) -> None:
        for member in cluster.members.values():
            member.release = NEW
        drive = Drive(cluster)
        drive.do(lambda: [member.start() for member in cluster.members.values()])
        drive.until(lambda: levels(cluster) == {2}, "the level is raised")
        sound(cluster)

    told(story, 6)


def test_a_new_node_of_an_older_release_is_not_admitted() -> None:
    def story(cluster: QuietCluster) -> None:
        upgrade = Upgrade(cluster)
        for member in upgrade.in_order():
            upgrade.exchange(member, NEW)
        assert isinstance(upgrade.raise_level(), pb.RaiseBehaviourResponse)
        added = upgrade.do(cluster.add_machine)
        upgrade.gets(added, OLD)
        upgrade.do(added.start)
        upgrade.until(lambda: added.name in _said(upgrade), "the leader hears of the new node")
        answer = upgrade.asked(lambda node: node.cluster.AddMember, pb.AddMemberRequest(name=added.name))
        assert isinstance(answer, errors.OrchestratorError) and "knows level 1" in str(answer), answer
        sound(cluster)

    told(story, 7)


def _missed(upgrade: Upgrade, name: str) -> bool:
    leader = upgrade.cluster.leading(other_than=upgrade.cluster.members[name])
    return leader is not None and leader.node is not None and leader.node.log.status().releases[name] is None


def _said(upgrade: Upgrade) -> set[str]:
    leader = upgrade.cluster.leading()
    return set(leader.node.log.status().said) if leader is not None and leader.node is not None else set()
