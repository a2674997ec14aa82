"""Faults of disks: never of so many that a majority could lose what it promised to keep."""

from __future__ import annotations

import asyncio

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


async def _damage(it: Occasion) -> None:
    """Bits of one disk turn over while nobody looks: the node must notice, or do as if nothing had happened."""
    member = it.one_of_minority()
    if member is None or any(other.is_damaged for other in it.cluster.members.values()):
        return
    member.is_damaged = True
    member.machine.kill()
    paths = [path for ending in (".journal", "state.db", "-wal") for path in member.machine.disk.files(ending)]
    for path in it.dice.sample(paths, min(len(paths), it.dice.randint(1, 2))):
        member.machine.disk.flip_bit(path, it.dice)
        it.does(f"a bit of {path} of {member.name} turns over")


KINDS: dict[str, Kind] = {
    "sync_error": _sync_error,
    "slow_disk": _slow_disk,
    "full_disk": _full_disk,
    "bit_flip": _damage,
}
