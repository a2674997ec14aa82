"""What happens to the cluster: each run draws which kinds of faults it has, and when."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.simulation.cluster import Member, SimulatedCluster

RESTART_SECONDS = 0.4
# Parts of paths: whatever is written next of these is what the power fails in.
OFTEN = ("", ".journal", "-wal")
STRUCK = (*OFTEN, "hard_state", "state.db", "incoming-", "copy-")


class Faults:
    """Runs in nobody's process. `heal` ends everything."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.dice = cluster.dice("faults")
        self.counts: Counter[str] = Counter()
        self.stopped = False
        # Who is being kept down or paused; the supervisor leaves them alone.
        self.held: Counter[str] = Counter()
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "power_loss": self._power_loss,
            "strike": self._strike,
            "pause": self._pause,
            "partition": self._partition,
            "one_way": self._one_way,
            "slow_network": self._slow_network,
            "lost_connections": self._lost_connections,
            "clock_jump": self._clock_jump,
            "clock_strobe": self._clock_strobe,
            "sync_error": self._sync_error,
            "slow_disk": self._slow_disk,
            "full_disk": self._full_disk,
            "transfer": self._transfer,
            "graceful_stop": self._graceful_stop,
            "damage": self._damage,
        }
        chosen = self.dice.sample(sorted(kinds), self.dice.randint(2, 7))
        self.kinds = {name: kinds[name] for name in sorted(chosen)}
        self.pause_seconds = self.dice.choice((0.3, 0.7, 1.5, 4.0))
        self._tasks = [cluster.loop.create_task(self._supervise(member)) for member in cluster.members.values()]
        self._tasks += [cluster.loop.create_task(self._disturb()) for _ in range(self.dice.randint(1, 2))]

    async def _disturb(self) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(1 / self.pause_seconds))
            if self.stopped:
                return
            name = self.dice.choice(list(self.kinds))
            self.counts[name] += 1
            self.cluster.watcher.trace("FAULT", name)
            await self.kinds[name]()

    async def _supervise(self, member: Member) -> None:
        """Starts whatever has ended, as a service manager does."""
        while True:
            await asyncio.sleep(RESTART_SECONDS * (0.5 + self.dice.random()))
            if not member.machine.running and not member.is_out and self.held[member.name] <= 0:
                if member.machine.disk.failing_syncs or member.may_fail:
                    member.machine.lose_power()
                    member.may_fail = False
                member.start()

    def heal(self) -> None:
        """No more faults, and none left."""
        self.stopped = True
        self.cluster.network.heal()
        self.held.clear()
        for member in self.cluster.members.values():
            machine = member.machine
            machine.resume()
            machine.stall_seconds = 0.0
            machine.disk.strikes_in = 0
            machine.disk.full = False
            machine.disk.failing_syncs = 0
            machine.wall_offset_ms = 0

    # -- whom ------------------------------------------------------------------------------------------------------

    def _some(self) -> list[Member]:
        """One, the leader, some or all."""
        members = list(self.cluster.members.values())
        roll = self.dice.random()
        if roll < 0.35:
            return [self.dice.choice(members)]
        if roll < 0.6:
            return self.cluster.leaders() or [self.dice.choice(members)]
        if roll < 0.8:
            return self.dice.sample(members, self.dice.randint(1, len(members)))
        return members

    def _one_of_minority(self) -> Member | None:
        """Somebody whose disk may fail while those of a majority do not."""
        members = list(self.cluster.members.values())
        failing = [member for member in members if member.may_fail or member.is_damaged]
        if len(failing) + 1 >= self.cluster.majority:
            return None
        return self.dice.choice([member for member in members if member not in failing])

    def _damaged(self) -> bool:
        return any(member.is_damaged for member in self.cluster.members.values())

    async def _while_held(self, members: list[Member], seconds: float) -> None:
        for member in members:
            self.held[member.name] += 1
        await asyncio.sleep(seconds)
        for member in members:
            self.held[member.name] -= 1

    # -- processes and machines ------------------------------------------------------------------------------------

    async def _kill(self) -> None:
        members = self._some()
        for member in members:
            self.cluster.watcher.trace(member.name, "killed")
            member.machine.kill()
        await self._while_held(members, self.dice.expovariate(2))

    async def _power_loss(self) -> None:
        members = self._some()
        for member in members:
            self.cluster.watcher.trace(member.name, "loses power")
            member.machine.lose_power()
        await self._while_held(members, self.dice.expovariate(2))

    async def _strike(self) -> None:
        """In the middle of a write to the journal, a snapshot or the database."""
        members = self._some()
        for member in members:
            machine = member.machine
            strike = machine.lose_power if self.dice.random() < 0.5 else machine.kill
            part = self.dice.choice(STRUCK)
            machine.disk.strike_after(self.dice.randint(1, 60 if part in OFTEN else 6), part, strike)
        await asyncio.sleep(self.dice.random())

    async def _pause(self) -> None:
        members = [member for member in self._some() if member.machine.running]
        for member in members:
            member.machine.pause()
        await self._while_held(members, self.dice.expovariate(1.5))
        for member in members:
            member.machine.resume()

    async def _graceful_stop(self) -> None:
        member = self.dice.choice(list(self.cluster.members.values()))
        if member.serving:
            self.held[member.name] += 1
            stopping = member.machine.spawn(member.stop(), "stop")
            await asyncio.wait([stopping], timeout=5.0)
            member.machine.kill()
            self.held[member.name] -= 1

    async def _transfer(self) -> None:
        for member in self.cluster.leaders():
            assert member.node is not None
            member.machine.spawn(member.node.log.transfer_leadership(), "transfer")
        await asyncio.sleep(self.dice.random())

    # -- the network -----------------------------------------------------------------------------------------------

    async def _partition(self) -> None:
        names = list(self.cluster.members)
        self.dice.shuffle(names)
        cut = self.dice.randint(1, len(names) - 1)
        pairs = [*itertools.product(names[:cut], names[cut:])]
        if self.dice.random() < 0.3 and len(names) > 2:
            # A bridge: the last of one side still reaches everybody.
            pairs = [pair for pair in pairs if names[cut - 1] not in pair]
        await self._blocked([*pairs, *((there, here) for here, there in pairs)])

    async def _one_way(self) -> None:
        names = list(self.cluster.members)
        one = self.dice.choice(names)
        others = [name for name in names if name != one and self.dice.random() < 0.7]
        pairs = [(one, other) for other in others]
        await self._blocked(pairs if self.dice.random() < 0.5 else [(there, here) for here, there in pairs])

    async def _blocked(self, directions: list[tuple[str, str]]) -> None:
        self.cluster.watcher.trace("FAULT", f"nothing passes {directions}")
        people = [f"c{number}" for number in range(4)] + ["w0", "w1"]
        if self.dice.random() < 0.3:
            directions += [(self.dice.choice(people), name) for name in self.cluster.members]
        self.cluster.network.block(directions)
        await asyncio.sleep(self.dice.expovariate(0.7))
        self.cluster.network.heal()

    async def _slow_network(self) -> None:
        names = list(self.cluster.members)
        pairs = [pair for pair in itertools.permutations(names, 2) if self.dice.random() < 0.5]
        self.cluster.network.slow_down(pairs, self.dice.choice((0.05, 0.3, 1.0)))
        await asyncio.sleep(self.dice.expovariate(0.7))
        self.cluster.network.heal()

    async def _lost_connections(self) -> None:
        self.cluster.network.lose_connections(self.dice.choice((0.1, 0.5, 1.0)))

    # -- clocks and disks --------------------------------------------------------------------------------------------

    async def _clock_jump(self) -> None:
        for member in self._some():
            member.machine.wall_offset_ms += self.dice.choice((-3_600_000, -5_000, -500, 500, 5_000, 3_600_000))

    async def _clock_strobe(self) -> None:
        """A clock that is set to and fro."""
        member = self.dice.choice(list(self.cluster.members.values()))
        offset_ms = self.dice.choice((300, 2_000, 60_000))
        for _ in range(self.dice.randint(5, 30)):
            member.machine.wall_offset_ms += offset_ms
            offset_ms = -offset_ms
            await asyncio.sleep(self.dice.random() * 0.2)

    async def _sync_error(self) -> None:
        member = self._one_of_minority()
        if member is not None:
            member.may_fail = True
            member.machine.disk.failing_syncs = 1
            await asyncio.sleep(self.dice.random())

    async def _slow_disk(self) -> None:
        for member in self._some():
            member.machine.stall_seconds = self.dice.choice((0.01, 0.1, 0.5))
        await asyncio.sleep(self.dice.expovariate(0.5))
        for member in self.cluster.members.values():
            member.machine.stall_seconds = 0.0

    async def _full_disk(self) -> None:
        member = self._one_of_minority()
        if member is not None:
            member.may_fail = True
            member.machine.disk.full = True
            await asyncio.sleep(self.dice.expovariate(1))
            member.machine.disk.full = False

    async def _damage(self) -> None:
        """Bits of one disk turn over while nobody looks: the node must notice, or do as if nothing had happened."""
        member = self._one_of_minority()
        if member is None or self._damaged():
            return
        member.is_damaged = True
        member.machine.kill()
        paths = [path for ending in (".journal", "state.db", "-wal") for path in member.machine.disk.files(ending)]
        for path in self.dice.sample(paths, min(len(paths), self.dice.randint(1, 2))):
            member.machine.disk.flip_bit(path)
            self.cluster.watcher.trace(member.name, f"a bit of {path} turns over")
