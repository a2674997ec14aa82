"""Disks that are full, read-only, or fail to sync: the node says so and stops, and the others go on."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from orchestrator_client import Client
from orchestrator_client.status import Failure
from tests.cluster.nodes import metric, pinned
from tests.cluster.test_replaced_node import votes
from tests.cluster.workload import eventually
from tests.cluster.wrong import (
    EXT4,
    FAILS_SYNCS,
    STOPPED_ITSELF,
    WrongCluster,
    ends,
    goes_on_without,
    loaded,
    run_once,
    serves_nothing,
)

STOPS = "this node stops itself"
DISK = "48m"
MIN_FREE_BYTES = 8 << 20

Make = Callable[..., Awaitable[WrongCluster]]


def obstacle(disk_size: str, directory: Path) -> str:
    """Why no node can have such a disk of its own here; empty if it can."""
    tools = ["unshare", "nsenter", "mount", *(["mkfs.ext4", "e2fsck", "findmnt"] if disk_size == EXT4 else [])]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    script = "mount -t tmpfs tmpfs /mnt"
    if disk_size == EXT4:
        image = directory / "tried"
        script = f"truncate -s 8M {image} && mkfs.ext4 -q {image} && mount -o loop {image} /mnt"
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no file system can be mounted: {tried.stderr.strip()}"


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[WrongCluster] = []

    async def start(disk_size: str = "", **settings: int | str) -> WrongCluster:
        if disk_size and (why := obstacle(disk_size, tmp_path)):
            if "CI" in os.environ:
                pytest.fail(why)
            pytest.skip(why)
        made.append(WrongCluster(tmp_path / "cluster", disk_size=disk_size, failing_syncs=not disk_size,
                                 node_settings={"journal_segment_bytes": 1 << 20, **settings}))
        await made[-1].start()
        await made[-1].wait_ready()
        return made[-1]

    yield start
    for cluster in made:
        await cluster.stop(timeout_s=0)
        for node in cluster.nodes.values():
            print(f"--- the last lines of node {node.name}\n{node.log_tail()}")


async def back(cluster: WrongCluster, name: str) -> None:
    """The same data, and a disk that works: it catches up and votes."""
    cluster.start_node(name)
    await votes(cluster, name)


async def test_syncs_that_fail(make: Make) -> None:
    """Of the journal, of a vote, and of the database; of followers and of leaders."""
    cluster = await make()
    async with loaded(cluster) as (_, load):
        for what, leads in ((".journal", False), (".journal", True), ("state.db-wal", False), ("state.db-wal", True)):
            leader = await cluster.wait_leader()
            wrong = leader if leads else next(name for name in cluster.nodes if name != leader)
            told = cluster.nodes[wrong].directory / FAILS_SYNCS
            told.write_text(what)
            await ends(cluster, wrong, STOPPED_ITSELF, STOPS, "nput/output error", "reports errors", "cluster rebuild")
            await serves_nothing(cluster, wrong, "load-0")
            await goes_on_without(cluster, wrong, load)
            told.unlink()
            await back(cluster, wrong)


async def test_what_nobody_reads_turns_over(make: Make) -> None:
    """A row of an execution that has long ended; of a follower, which is asked for nothing."""
    cluster = await make(scrub_interval_ms=1_000, flush_interval_ms=50)
    async with loaded(cluster) as (_, load):
        await load.progress()
        leader = await cluster.wait_leader()
        wrong = next(name for name in cluster.nodes if name != leader)
        # At the end of the database at least once, with everything sound.
        await eventually(lambda: scrubbed(cluster, wrong), f"{wrong} to have read its database")
        damaged = apsw.Connection(str(cluster.nodes[wrong].data_dir / "state.db"))
        damaged.set_busy_timeout(10_000)
        damaged.execute("UPDATE task SET body = CAST(body || x'00' AS BLOB) WHERE id = (SELECT min(id) FROM task)")
        assert damaged.changes() == 1
        damaged.close()
        await ends(cluster, wrong, STOPPED_ITSELF, STOPS, "is not what was written", "cluster rebuild")
        await goes_on_without(cluster, wrong, load)


async def scrubbed(cluster: WrongCluster, name: str) -> bool:
    return bool(await metric(cluster.nodes[name], "orchestrator_last_scrub_timestamp_seconds"))


async def test_one_disk_after_the_other_is_full(make: Make) -> None:
    cluster = await make(DISK, min_free_disk_bytes=0)
    async with loaded(cluster) as (_, load):
        for leads in (False, True):
            leader = await cluster.wait_leader()
            wrong = leader if leads else next(name for name in cluster.nodes if name != leader)
            ballast = cluster.fill_disk(wrong)
            await ends(cluster, wrong, STOPPED_ITSELF, STOPS, "o space left on device", "make room on the disk")
            await goes_on_without(cluster, wrong, load)
            # As long as there is no room it says so again.
            cluster.start_node(wrong)
            await eventually(lambda: cluster.nodes[wrong].exit_code is not None, f"{wrong} to end")  # noqa: B023 - in this turn
            assert cluster.nodes[wrong].exit_code == STOPPED_ITSELF
            assert "make room on the disk" in cluster.nodes[wrong].log_tail()
            ballast.unlink()
            await back(cluster, wrong)


async def test_one_disk_after_the_other_turns_read_only_while_its_node_runs(make: Make) -> None:
    """As the kernel makes it when it has found an error, with all files open; of a follower and of a leader."""
    cluster = await make(EXT4, min_free_disk_bytes=0)
    async with loaded(cluster) as (_, load):
        for leads in (False, True):
            leader = await cluster.wait_leader()
            wrong = leader if leads else next(name for name in cluster.nodes if name != leader)
            cluster.turn_read_only(wrong)
            # Of a write that was under way meanwhile the system says that it has failed, and of later ones why.
            await ends(cluster, wrong, STOPPED_ITSELF, STOPS, "see the system's log", "cluster rebuild")
            await goes_on_without(cluster, wrong, load)
            # As long as it is, it says so again.
            await run_once(cluster, wrong, STOPPED_ITSELF, "ead-only file system", "make data_dir writable")
            cluster.repair(wrong)
            await back(cluster, wrong)


async def test_all_disks_are_nearly_full_and_then_full(make: Make) -> None:
    """Starts are refused before anything else is; when all nodes have stopped nothing is lost."""
    cluster = await make(DISK, min_free_disk_bytes=MIN_FREE_BYTES)
    async with loaded(cluster, "before"):
        pass
    filled = {name: cluster.fill_disk(name, leave_bytes=MIN_FREE_BYTES // 2) for name in cluster.nodes}
    leader = await cluster.wait_leader()
    async with pinned(cluster, leader) as node:
        async def refused() -> bool:
            answer = await node.start("arithmetic", inline=b'{"x": 1}')
            return isinstance(answer, Failure) and "free_disk" in str(answer)

        await eventually(refused, "a start to be refused for want of room")
        assert not isinstance(await node.get("before-0"), Failure)
    assert await metric(cluster.nodes[leader], "orchestrator_refused_starts_total") >= 1
    assert await cluster.wait_leader() == leader
    for ballast in filled.values():
        ballast.unlink()
    async with loaded(cluster, "again"):
        pass
    filled = {name: cluster.fill_disk(name) for name in cluster.nodes}
    async with Client(cluster.endpoints) as client:
        # What makes entries although starts are refused.
        pushing = asyncio.create_task(push(client))
        stopped = 0
        for name in cluster.nodes:
            try:
                await eventually(lambda: cluster.nodes[name].exit_code is not None, f"{name} to stop", 20)  # noqa: B023 - in this turn
                stopped += 1
            except AssertionError:
                continue  # without a majority nothing is written any more, and it may live on
        assert stopped >= 2
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
    for name, ballast in filled.items():
        ballast.unlink()
        if not cluster.nodes[name].running:
            assert cluster.nodes[name].exit_code == STOPPED_ITSELF
            cluster.start_node(name)
    await cluster.wait_ready()
    async with loaded(cluster, "after") as (client, _):
        for prefix in ("before", "again"):
            assert (await client.get(f"{prefix}-0")).status == "COMPLETED"


async def test_the_disks_of_both_followers_are_nearly_full(make: Make) -> None:
    """With one of them that is, the other and the leader are a majority that can go on; with both there is none."""
    cluster = await make(DISK, min_free_disk_bytes=MIN_FREE_BYTES)
    async with loaded(cluster, "before"):
        pass
    leader = await cluster.wait_leader()
    first, second = sorted(set(cluster.nodes) - {leader})

    async def room(name: str) -> int:
        status = await cluster.status(leader)
        assert status is not None
        return next(int(node.disk_free_bytes) for node in status.nodes if node.name == name)

    async with pinned(cluster, leader) as node:
        async def answer() -> str:
            said = await node.start("arithmetic", inline=b'{"x": 1}')
            return str(said) if isinstance(said, Failure) else "taken"

        async def is_refused() -> bool:
            return "majority_free_disk" in await answer()

        async def is_taken() -> bool:
            return await answer() == "taken"

        cluster.fill_disk(first, leave_bytes=MIN_FREE_BYTES // 2)
        await eventually(lambda: known_short(room, first), f"{leader} to hear that {first} is short of room")
        assert await is_taken()
        ballast = cluster.fill_disk(second, leave_bytes=MIN_FREE_BYTES // 2)
        await eventually(is_refused, "a start to be refused for want of room on the followers")
        assert await room(leader) >= MIN_FREE_BYTES > await room(second)
        ballast.unlink()
        await eventually(is_taken, "a start to be taken again")


async def known_short(room: Callable[[str], Awaitable[int]], name: str) -> bool:
    return await room(name) < MIN_FREE_BYTES


async def push(client: Client) -> None:
    while True:
        try:
            await client.signal("again-0", "more", {"text": "x" * 50_000})
        except Exception:  # noqa: BLE001 - refused, or nobody is there: it is tried again
            await asyncio.sleep(0.05)
