"""Who counts: first formation, wiped disks, foreign clusters, and directories that lost a part."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from orchestrator.replication import identity as identities
from orchestrator.replication.errors import JournalCorrupt
from orchestrator.replication.hard_state import HardState
from orchestrator.replication.log import Role
from tests.replication.cluster import Cluster, wait_until


async def test_no_cluster_is_formed_before_all_initial_members_are_there(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for name in ("n1", "n2"):
        await cluster[name].start()
    await wait_until(
        "two nodes to hear each other", lambda: all("n2" in cluster["n1"].log._membership._present for _ in (1,))
    )
    assert [cluster[name].log.role for name in ("n1", "n2")] == [Role.FORMING] * 2
    assert cluster["n1"].log.term == cluster["n2"].log.term == 0
    await cluster["n3"].start()
    await cluster.put(b"x")
    await cluster.converged()
    configuration = {name: identities.load(cluster.files, tmp_path / name).incarnation for name in cluster.members}
    for node in cluster.nodes.values():
        found = node.log.status().configuration
        assert found is not None
        assert {name: member.incarnation for name, member in found.members.items()} == configuration
    assert identities.load(cluster.files, tmp_path / "n3").formed
    await cluster.__aexit__()


async def test_a_crash_in_the_middle_of_formation_is_no_obstacle(tmp_path: Path) -> None:
    """The first node recorded the configuration and died before the others did; they take it over when it is back."""
    cluster = Cluster(tmp_path)
    configuration = {name: identities.load(cluster.files, tmp_path / name).incarnation for name in cluster.members}
    await cluster["n1"].start()
    cluster["n1"].log._durable.hard_state.save(HardState(0, None, configuration))
    await cluster["n1"].stop()
    for name in ("n2", "n3"):
        await cluster[name].start()
    await cluster["n1"].start()
    await cluster.put(b"x")
    await cluster.converged()
    await cluster.__aexit__()


@pytest.mark.parametrize("name", ["n1", "n3"])
async def test_a_wiped_node_neither_votes_nor_acknowledges(tmp_path: Path, name: str) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"kept")
        await cluster.converged()
        wiped = cluster[name]
        await wiped.kill()
        shutil.rmtree(tmp_path / name)
        cluster.nodes[name] = wiped = cluster.make(name)
        await wiped.start()
        await wait_until("the blank node to notice", lambda: wiped.log.role is Role.AWAITING_ADMISSION)
        assert "cluster replace" in str(wiped.log.status().awaiting_reason)
        others = cluster.others(wiped)
        await cluster.put(b"by the rest", others)
        for other in others:
            seen = {peer.name: (peer.connected, peer.stranger) for peer in other.log.status().peers}
            assert seen.pop(name) == (False, True) and set(seen.values()) == {(True, False)}
        # With one of the two left, the wiped one must not make a majority.
        await others[1].kill()
        await wait_until("the last one to stop leading", lambda: others[0].log.role is not Role.LEADER)
        term = others[0].log.term
        await wait_until("some pre-votes", lambda: others[0].log._core.elections._round >= 4)
        assert others[0].log.term == term
        assert (wiped.log.last_index, wiped.log.term) == (0, 0)
        await others[1].start()
        await cluster.put(b"and again", others)


async def test_all_wiped_but_one_cannot_form_without_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"kept")
        await cluster.converged()
        for name in ("n1", "n2"):
            await cluster[name].kill()
            shutil.rmtree(tmp_path / name)
            cluster.nodes[name] = cluster.make(name)
            await cluster[name].start()
        await wait_until(
            "both to await admission",
            lambda: all(cluster[name].log.role is Role.AWAITING_ADMISSION for name in ("n1", "n2")),
        )
        assert cluster["n3"].applied == [b"kept"]


async def test_a_foreign_cluster_is_dropped_and_counted(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        await cluster["n3"].kill()
        shutil.rmtree(tmp_path / "n3")
        cluster.nodes["n3"] = foreigner = cluster.make("n3", cluster_id=identities.generate_cluster_id())
        await foreigner.start()
        await wait_until("n1 to count it", lambda: cluster["n1"].log.status().counters.get("foreign", 0) > 0)
        assert foreigner.log.role is Role.FORMING
        await cluster.put(b"y", cluster.others(foreigner))
        assert not cluster["n1"].log._core.connected("n3")


@pytest.mark.parametrize("lost", ["raft", "raft/hard_state", "journal"])
async def test_a_member_that_lost_a_part_of_its_directory_does_not_start(tmp_path: Path, lost: str) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        node = cluster["n2"]
        await node.kill()
        if lost == "journal":
            for path in (tmp_path / "n2" / "raft").glob("*.journal"):
                path.unlink()
        elif lost == "raft":
            shutil.rmtree(tmp_path / "n2" / "raft")
        else:
            (tmp_path / "n2" / lost).unlink()
        with pytest.raises(JournalCorrupt, match="must not start"):
            await node.start()
        node._task = None
        del cluster.nodes["n2"]
        await cluster.put(b"y")


async def test_members_that_differ_are_reported(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    path = tmp_path / "n3"
    identity = identities.load(cluster.files, path)
    more = {**identity.members, "n4": "127.0.0.1:1"}
    identities.save(cluster.files, path, msgspec.structs.replace(identity, members=more))
    await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
    await wait_until("n3 to see it", lambda: cluster["n3"].log.status().awaiting_reason)
    assert "right members" in str(cluster["n3"].log.status().awaiting_reason)
    await cluster.put(b"x", [cluster["n1"], cluster["n2"]])
    await cluster.__aexit__()
