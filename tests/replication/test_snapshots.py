"""A follower too far behind gets the database, and goes on from there; nothing it holds is ever moved back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from orchestrator.replication.frames import SnapshotBegin, SnapshotChunk
from orchestrator.replication.ports import SnapshotCopy
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, Node, wait_until
from tests.replication.journals import Disk

SMALL = RaftSettings(
    journal_segment_bytes=4 << 10,
    journal_tail_entries=0,
    snapshot_chunk_bytes=1 << 10,
    snapshot_chunks_in_flight=2,
    journal_cache_bytes=4 << 10,
)


async def leave_behind(cluster: Cluster, count: int = 500) -> tuple[Node, Node]:
    """(leader, a killed follower whose next entry is in no journal any more)."""
    leader = await cluster.leader()
    await cluster.put(b"first")
    await cluster.converged()
    follower = cluster.others(leader)[0]
    await follower.kill()
    rest = [node for node in cluster.nodes.values() if node is not follower]
    for number in range(count):
        leader.log.append(b"%d " % number + b"x" * 50)
    await cluster.put(b"last", rest)
    await cluster.converged(rest)
    for node in rest:
        node.flush()
        assert node.log.status().first_index > 2
    return leader, follower


async def test_a_follower_far_behind_catches_up_by_snapshot(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster)
        await follower.start()
        await wait_until("the snapshot to be installed", lambda: follower.installs)
        await cluster.put(b"after")
        await cluster.converged()
        assert follower.applied == leader.applied
        await wait_until("the transfer to end", lambda: leader.copies_released == 1)
        assert leader.copies == 1
        home = tmp_path / follower.name
        await wait_until("what arrived to be removed", lambda: not list(home.glob("incoming*")))
        await follower.kill()
        await follower.start()
        await cluster.put(b"again")
        await cluster.converged()
        assert follower.installs == 1


async def test_the_journal_after_a_snapshot_is_pinned_while_it_is_sent(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster)
        held = asyncio.Event()
        install = follower.install

        async def slow_install(path: Path, index: int, term: int) -> None:
            await held.wait()
            await install(path, index, term)

        follower.install = slow_install  # type: ignore[method-assign]  # the sink waits for the test
        await follower.start()
        await wait_until("all chunks to arrive", lambda: follower.log._core.follower.installing)
        index = leader.log.status().transfers[0].index
        for number in range(300):
            leader.log.append(b"while sending %d" % number)
        rest = [node for node in cluster.nodes.values() if node is not follower]
        await cluster.put(b"tail", rest)
        leader.flush()
        assert leader.log.status().first_index <= index + 1
        assert leader.log.status().transfers[0].peer == follower.name
        held.set()
        await cluster.converged()
        assert leader.copies == 1
        await wait_until("the transfer to end", lambda: not leader.log.status().transfers)
        leader.flush()
        assert leader.log.status().first_index > index


async def test_a_transfer_goes_on_where_a_lost_connection_left_it(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster, 3000)
        await follower.start()
        await wait_until("some chunks", lambda: any(t.done_bytes > 20_000 for t in follower.log.status().transfers))
        cluster.network.cut(leader.name, follower.name)
        incoming = follower.log._core.receiver.incoming  # type: ignore[union-attr]  # it is receiving
        assert incoming is not None
        had = incoming.written
        cluster.network.heal()
        await cluster.converged()
        assert 0 < had < incoming.begin.size
        assert incoming.written == incoming.begin.size
        assert (leader.copies, follower.installs) == (1, 1)


async def test_a_damaged_snapshot_is_never_installed(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster)
        copy = leader.copy

        async def damaged_once(*, check: bool) -> SnapshotCopy:
            made = await copy()
            if leader.copies == 1:
                return SnapshotCopy(made.path, made.index, made.term, made.size, "0" * 64, b"", made.release)
            return made

        leader.copy = damaged_once  # type: ignore[method-assign]  # the first copy has a wrong checksum
        await follower.start()
        await cluster.converged()
        await wait_until("the transfer to end", lambda: leader.copies_released == 2)
        assert (leader.copies, follower.installs) == (2, 1)
        assert follower.applied == leader.applied


async def test_a_snapshot_not_beyond_the_commit_index_is_answered_but_not_installed(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        await cluster.converged()
        follower = cluster.others(leader)[0]
        commit = follower.log.commit_index
        core = follower.log._core
        core._handlers[SnapshotBegin](leader.name, SnapshotBegin(core.term, commit, core.term, 5, "a" * 64, b""))
        core._handlers[SnapshotChunk](leader.name, SnapshotChunk(core.term, "a" * 64, 0, b"12345"))
        assert follower.log._core.receiver.incoming is None  # type: ignore[union-attr]  # it has a receiver
        assert (follower.installs, follower.log.commit_index) == (0, commit)


async def test_a_snapshot_keeps_the_tail_that_the_journal_already_holds(tmp_path: Path) -> None:
    """The follower has entries beyond the snapshot, not yet known to be committed: they stay, they may be needed."""
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader = await cluster.leader()
        for number in range(5):
            await cluster.put(b"%d" % number)
        await cluster.converged()
        follower = cluster.others(leader)[0]
        core = follower.log._core
        cluster.network.isolate(follower.name)
        last = core.last_index
        core.journal.append(last + 1, core.term, 0, b"a")
        core.journal.append(last + 2, core.term, 0, b"b")
        data = follower._encode().replace(b"[%d," % last, b"[%d," % (last + 1), 1)
        await follower.log.stop()
        path = tmp_path / "snapshot"
        path.write_bytes(data)
        await follower._end()
        follower.applied, follower.applied_index, follower.applied_term = [], 0, 0
        await follower.start()
        core = follower.log._core
        await follower.install(path, last + 1, core.journal.term_at(last + 1) or 0)
        await follower.log._in_step.snapshot_installed(last + 1, core.journal.term_at(last + 1) or 0)
        assert (core.last_index, core.commit_index) == (last + 2, last + 1)
        # What the test wrote behind the cluster's back must not meet the others again.
        await follower.log.stop()


async def test_a_crash_between_install_and_journal_reset_is_repaired_at_start(tmp_path: Path) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster)
        made = await leader.copy()
        (tmp_path / f"{follower.name}.database").write_bytes(made.path.read_bytes())
        made.release()
        disk = Disk(follower.files, follower.directory / "raft")
        disk.hard_state.load()
        disk.hard_state.save(msgspec.structs.replace(disk.hard_state.current, installing=(made.index, made.term)))
        await disk.queue.drain()
        disk.close()
        await follower.start()
        status = follower.log.status()
        assert (status.first_index, status.last_index, status.commit_index) == (made.index + 1,) + (made.index,) * 2
        await cluster.put(b"after")
        await cluster.converged()
        assert (follower.installs, leader.copies) == (0, 1)


async def test_segments_go_only_when_the_database_has_what_is_in_them(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1, settings=SMALL) as cluster:
        node = await cluster.leader()
        for number in range(500):
            node.log.append(b"%d " % number + b"x" * 50)
        await cluster.put(b"half")
        half = node.applied_index
        assert node.log.status().first_index == 1
        node.flush()
        for number in range(500):
            node.log.append(b"%d " % number + b"x" * 50)
        await cluster.put(b"all")
        first = node.log.status().first_index
        assert 1 < first <= half + 1
        node.log.flushed(half)  # said again: nothing new
        assert node.log.status().first_index == first
        await node.kill()
        await node.start()
        await cluster.put(b"again")
        assert len(node.applied) == 1003
