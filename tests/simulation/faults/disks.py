"""Faults of disks: never of so many that a majority could lose what it promised to keep."""

from __future__ import annotations

import asyncio

from orchestrator.testing.disk import SimulatedDisk
from tests.simulation.cluster import Member
from tests.simulation.faults.occasion import Kind, Occasion, names


async def _sync_error(it: Occasion) -> None:
    member = it.one_of_minority()
    if member is not None:
        it.does(member.name)
        member.may_fail = True
        member.machine.disk.failing_syncs += 1


async def _slow_disk(it: Occasion) -> None:
    members = it.some()
    stall_seconds, seconds = it.dice.choice((0.01, 0.1, 0.5)), it.dice.expovariate(0.5)
    it.does(f"{names(members)}: each job takes up to {stall_seconds} s more, for {seconds:.2f} s")
    for member in members:
        member.machine.stall_seconds += stall_seconds
    await asyncio.sleep(seconds)
    for member in members:
        member.machine.stall_seconds = max(0.0, round(member.machine.stall_seconds - stall_seconds, 6))


async def _full_disk(it: Occasion) -> None:
    member, seconds = it.one_of_minority(), it.dice.expovariate(1)
    if member is not None:
        it.does(f"{member.name} for {seconds:.2f} s")
        member.may_fail = True
        member.machine.disk.full = True
        await asyncio.sleep(seconds)
        member.machine.disk.full = False


async def _bit_flip(it: Occasion) -> None:
    """Bits of one disk turn over while nobody looks: the node must notice, or do as if nothing had happened."""
    member = _damaged(it)
    if member is None:
        return
    disk = member.machine.disk
    paths = [path for ending in (".journal", "state.db", "-wal") for path in disk.files(ending)]
    for path in it.dice.sample(paths, min(len(paths), it.dice.randint(1, 2))):
        disk.flip_bit(path, it.dice)
        it.does(f"a bit of {path} of {member.name} turns over")


async def _cut_file(it: Occasion) -> None:
    """A file loses its end, or all, or is gone."""
    member = it.one_of_minority()
    if member is None or not (groups := _groups(member.machine.disk)):
        return
    paths = it.dice.choice(groups)
    roll, share = it.dice.random(), it.dice.random()
    if len(paths) > 1 and roll < 0.6:
        return
    member = _damaged(it)
    if member is None:
        return
    disk = member.machine.disk
    for path in paths:
        data = disk.contents(path) or b""
        left = None if roll > 0.8 else b"" if roll > 0.6 else data[: int(share * len(data))]
        disk.put(path, left)
        what = "is gone" if left is None else f"has {len(left)} bytes of {len(data)} left"
        it.does(f"{path} of {member.name} {what}")


async def _stale_file(it: Occasion) -> None:
    """A file is again what it was a while ago."""
    member, seconds = it.one_of_minority(), it.dice.expovariate(0.5)
    if member is None:
        return
    disk = member.machine.disk
    paths = it.dice.choice(STALE)
    before = {path: disk.contents(path) for path in paths}
    await asyncio.sleep(seconds)
    if None in before.values() or it.one_of_minority() is None or member.is_failing:
        return
    changed = [path for path in paths if disk.contents(path) != before[path]]
    if changed and _damaged(it, member) is not None:
        it.does(f"{' '.join(paths)} of {member.name} as {seconds:.2f} s before")
        for path in paths:
            disk.put(path, before[path])


# Files that become older together, since nothing tells when only one of them does.
STALE = (("/data/node.json",), ("/data/state.db", "/data/state.db-wal"))


def _groups(disk: SimulatedDisk) -> list[list[str]]:
    """Files that are damaged together."""
    journal = disk.files(".journal")
    alone = ["/data/raft/hard_state", "/data/node.json", *journal[:-1]]
    groups = [[path] for path in alone if disk.contents(path) is not None]
    return [*groups, ["/data/state.db", "/data/state.db-wal"]]


def _damaged(it: Occasion, wanted: Member | None = None) -> Member | None:
    """It is down now, and its disk is no longer what it was. At most one at a time."""
    member = wanted or it.one_of_minority()
    if member is None or any(other.is_damaged for other in it.cluster.members.values()):
        return None
    member.is_damaged = True
    member.machine.kill()
    return member


KINDS: dict[str, Kind] = {
    "sync_error": _sync_error,
    "slow_disk": _slow_disk,
    "full_disk": _full_disk,
    "bit_flip": _bit_flip,
    "cut_file": _cut_file,
    "stale_file": _stale_file,
}
