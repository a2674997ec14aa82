"""Which behaviour levels the members know, and when that is enough to raise the cluster's."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.replication.errors import LevelUnsupported, RaiseRefused
from orchestrator.replication.release import THIS_RELEASE, Release, check_raise, level_of_all
from tests.replication.cluster import Cluster, wait_until

OLD, NEW, LATE = Release("1.0", 1, 1), Release("1.1", 1, 2), Release("3.0", 2, 3)


def test_all_members_have_to_know_a_level() -> None:
    assert level_of_all({"a": NEW, "b": NEW}) == 2
    assert level_of_all({"a": NEW, "b": OLD}) == 1
    assert level_of_all({"a": NEW, "b": LATE}) == 2
    assert level_of_all({"a": NEW, "b": None}) == 0
    assert level_of_all({}) == 0
    check_raise({"a": NEW, "b": LATE}, 2)
    with pytest.raises(RaiseRefused, match=r"not all members know level 2: b \(1\.0\) knows 1$"):
        check_raise({"a": NEW, "b": OLD}, 2)
    with pytest.raises(RaiseRefused, match="what b, c runs is not known"):
        check_raise({"a": NEW, "b": None, "c": None}, 2)


@pytest.mark.parametrize(("release", "level", "run"), [(OLD, 2, "a newer"), (LATE, 1, "an older")])
def test_a_release_says_which_level_it_does_not_know(release: Release, level: int, run: str) -> None:
    release.require(2 if release is LATE else 1, "it is")
    with pytest.raises(LevelUnsupported) as raised:
        release.require(level, "/data is")
    said = str(raised.value)
    assert said.startswith(f"/data is at behaviour level {level}, and this is orchestrator {release.version}")
    assert f"knows level {release.levels}: run {run} release here" in said


async def test_nodes_tell_each_other_what_they_run(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        everyone = dict.fromkeys(cluster.nodes, THIS_RELEASE)
        await wait_until("the leader to hear of all", lambda: leader.log.status().releases == everyone)
        follower = next(name for name in cluster.nodes if cluster[name] is not leader)
        await cluster[follower].stop()
        await wait_until("who is away to be missed", lambda: leader.log.status().releases[follower] is None)
        assert level_of_all(leader.log.status().releases) == 0
