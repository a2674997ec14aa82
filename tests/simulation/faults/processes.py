"""Faults of processes and machines, and of their clocks."""

from __future__ import annotations

import asyncio

from tests.simulation.faults.occasion import Kind, Occasion, names

# Parts of paths: whatever is written next of these is what the power fails in.
OFTEN = ("", ".journal", "-wal")
STRUCK = (*OFTEN, "hard_state", "state.db", "incoming-", "copy-")


async def _kill(it: Occasion) -> None:
    members, seconds = it.some(), it.dice.expovariate(2)
    it.does(f"{names(members)}, down for {seconds:.2f} s")
    for member in members:
        member.machine.kill()
    await it.hold(members, asyncio.sleep(seconds))


async def _power_loss(it: Occasion) -> None:
    members, seconds = it.some(), it.dice.expovariate(2)
    it.does(f"{names(members)}, down for {seconds:.2f} s")
    for member in members:
        member.machine.lose_power()
    await it.hold(members, asyncio.sleep(seconds))


async def _strike(it: Occasion) -> None:
    """In the middle of a write to the journal, a snapshot or the database."""
    for member in it.some():
        machine = member.machine
        loses_power = it.dice.random() < 0.5
        part = it.dice.choice(STRUCK)
        writes = it.dice.randint(1, 60 if part in OFTEN else 6)
        what = "loses power" if loses_power else "is killed"
        it.does(f"{member.name} {what} in operation {writes} from now on {part or 'any file'}")
        machine.disk.strike_after(writes, part, machine.lose_power if loses_power else machine.kill)


async def _pause(it: Occasion) -> None:
    members, seconds = [member for member in it.some() if member.machine.running], it.dice.expovariate(1.5)
    if not members:
        return
    it.does(f"{names(members)} for {seconds:.2f} s")
    for member in members:
        member.machine.pause()
    await it.hold(members, asyncio.sleep(seconds))
    for member in members:
        member.machine.resume()


async def _graceful_stop(it: Occasion) -> None:
    member = it.one()
    if not member.serving:
        return
    it.does(member.name)
    stopping = member.machine.spawn(member.stop(), "stop")
    await it.hold([member], asyncio.wait([stopping], timeout=5.0))
    member.machine.kill()


async def _transfer(it: Occasion) -> None:
    for member in it.cluster.leaders():
        assert member.node is not None
        it.does(f"{member.name} hands over")
        member.machine.spawn(member.node.log.transfer_leadership(), "transfer")


async def _clock_jump(it: Occasion) -> None:
    for member in it.some():
        jump_ms = it.dice.choice((-3_600_000, -5_000, -500, 500, 5_000, 3_600_000))
        it.does(f"{member.name} by {jump_ms} ms")
        member.machine.wall_offset_ms += jump_ms


async def _clock_strobe(it: Occasion) -> None:
    """A clock that is set to and fro."""
    member = it.one()
    offset_ms, times = it.dice.choice((300, 2_000, 60_000)), it.dice.randint(5, 30)
    it.does(f"{member.name} by {offset_ms} ms to and fro, {times} times")
    for _ in range(times):
        member.machine.wall_offset_ms += offset_ms
        offset_ms = -offset_ms
        await asyncio.sleep(it.dice.random() * 0.2)


KINDS: dict[str, Kind] = {
    "kill": _kill,
    "power_loss": _power_loss,
    "strike": _strike,
    "pause": _pause,
    "graceful_stop": _graceful_stop,
    "transfer": _transfer,
    "clock_jump": _clock_jump,
    "clock_strobe": _clock_strobe,
}
