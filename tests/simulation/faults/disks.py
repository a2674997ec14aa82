"""Faults of disks: never of so many that a majority could lose what it promised to keep."""

from __future__ import annotations

import asyncio

from orchestrator.replication.segment import HEADER, decode_record
from orchestrator.testing.disk import Inode
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


async def _damaged_copy(it: Occasion) -> None:
    """A bit of the next snapshot turns over, where it is read to be sent or where it arrives."""
    arrives, last = it.dice.random() < 0.5, it.cluster.loop.now + it.dice.uniform(1, 6)
    part = "/incoming-" if arrives else "/copy-"
    while it.cluster.loop.now < last:
        await asyncio.sleep(0.01)
        for member in it.shuffled():
            disk = member.machine.disk
            path = next((path for path in disk.files("") if part in path and len(disk.contents(path) or b"") > 0), None)
            # Who finds damage in what it received, or in a copy that it reads again as the one before was unsound,
            # stops. The first copy is sent as it is.
            stops = path is not None and not path.endswith("/copy-1.db")
            if path is None or (stops and member not in _may_fail(it)):
                continue
            member.may_fail = member.may_fail or stops
            disk.flip_bit(path, it.dice)
            it.does(f"a bit of {path} of {member.name} turns over")
            if arrives:
                it.cluster.loop.create_task(_becomes_the_database(it, member, path, disk.inode(path)))
            return


async def _becomes_the_database(it: Occasion, member: Member, path: str, received: Inode) -> None:
    """If what arrived had been found sound before the bit turned over. Goes on in peace, too."""
    disk = member.machine.disk
    while disk.exists(path):  # noqa: ASYNC110 - whoever removes it has no signal for that
        await asyncio.sleep(0.01)
    if disk.exists(_DATABASE[0]) and disk.inode(_DATABASE[0]) is received:
        member.is_damaged = True
        it.does(f"it is in the database of {member.name}, as it came after the check")


def _may_fail(it: Occasion) -> list[Member]:
    """Who may stop itself, or become a member with what is damaged: those of a minority."""
    counted = it.cluster.failing()
    return [member for member in it.cluster.members.values() if member.name in counted or it.cluster.may_lose_one()]


async def _cut_file(it: Occasion) -> None:
    """A file loses its end, or all, or is gone."""
    member = it.one_of_minority()
    if member is None:
        return
    disk = member.machine.disk
    paths = it.dice.choice([*([path] for path in (*_ALONE, *disk.files(".journal"))), list(_DATABASE)])
    roll, share = it.dice.random(), it.dice.random()
    # Nothing tells when SQLite's files are cut in their midst.
    left = None if roll > 0.8 else 0.0 if roll > 0.6 or len(paths) > 1 else share
    changes = {path: None if left is None else _begin_of(disk.contents(path), left) for path in paths}
    if _is_noticeable(member, changes) and _damaged(it, member) is not None:
        for path, data in changes.items():
            what = "is gone" if data is None else f"ends after {len(data)} bytes"
            it.does(f"{path} of {member.name} {what}")
            disk.put(path, data)


async def _stale_file(it: Occasion) -> None:
    """A file is again what it was a while ago."""
    member, seconds = it.one_of_minority(), it.dice.expovariate(0.5)
    if member is None:
        return
    disk = member.machine.disk
    paths = it.dice.choice([*([path] for path in (*_ALONE, *disk.files(".journal"))), list(_DATABASE)])
    before = {path: disk.contents(path) for path in paths}
    await asyncio.sleep(seconds)
    changed = any(disk.contents(path) not in (data, None) for path, data in before.items())
    if not changed or member.is_failing or not it.cluster.may_lose_one() or not _is_noticeable(member, before):
        return
    if _damaged(it, member) is not None:
        it.does(f"{' '.join(paths)} of {member.name} as {seconds:.2f} s before")
        for path in paths:
            disk.put(path, before[path])


_ALONE = ("/data/node.json", "/data/raft/hard_state", "/data/raft/hard_state.copy")
# They become older together, since nothing tells when only one of them does.
_DATABASE = ("/data/state.db", "/data/state.db-wal")


def _begin_of(data: bytes | None, share: float) -> bytes:
    return (data or b"")[: int(share * len(data or b""))]


def _is_noticeable(member: Member, changes: dict[str, bytes | None]) -> bool:
    """Whether anything else on the disk tells of it: entries that the database does not hold yet are told by none."""
    disk = member.machine.disk
    if _ALONE[1] in changes and disk.contents(_ALONE[1]) != disk.contents(_ALONE[2]):
        # The copy is being made.
        return False
    journal = disk.files(".journal")
    if not journal or journal[-1] not in changes:
        return True
    now = disk.contents(journal[-1]) or b""
    left = changes[journal[-1]] or b""
    base, lost_from = _ends(now, left)
    return member.node is not None and member.node.log._in_step.flushed_index > max(base, lost_from)


def _ends(now: bytes, left: bytes) -> tuple[int, int]:
    """The index after which a segment begins, and that at which it ends when only so much is left of it."""
    if len(now) < HEADER.size:
        return 0, 0
    base = index = HEADER.unpack_from(now, 0)[3]
    at = HEADER.size
    while (decoded := decode_record(left, at)) is not None:
        index, at = decoded[0].index, decoded[2]
    return base, index


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
    "damaged_copy": _damaged_copy,
    "cut_file": _cut_file,
    "stale_file": _stale_file,
}
