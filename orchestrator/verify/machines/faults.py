"""Faults of a cluster of our own: processes, networks, disks and clocks. Each is undone by `heal`, by nothing else."""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable

from orchestrator.cli.exits import NODE_STOPPED_ITSELF
from orchestrator.cli.local_cluster import LocalClusterError
from orchestrator.verify.machines.cluster import NetworkedCluster

READY_S = 120.0
STOP_S = 60.0
SLOW_SYNCS_MS = (50, 150, 400)
OFFSETS_MS = (-3_600_000, -20_000, 5_000, 3_600_000)
DELAYS_MS = (10, 40, 120)

KINDS = (
    "kill the leader", "kill a follower", "kill all", "pause the leader", "pause a follower", "pause all", "partition",
    "one way", "bridge", "slow network", "slow disk", "full disk", "wrong clock", "restart a node", "restart all",
)

Strike = Callable[[random.Random], Awaitable[str]]


class NodeFailed(Exception):
    """A node ended by itself, or did not come back."""


class OwnFaults:
    """All that can be done to these machines. `strike` answers whom it has hit."""

    def __init__(self, cluster: NetworkedCluster) -> None:
        self._cluster = cluster
        # Nodes that may have stopped themselves.
        self._filled: set[str] = set()
        self._strikes: dict[str, Strike] = dict(zip(KINDS, (
            self._kill_leader, self._kill_follower, self._kill_all, self._pause_leader, self._pause_follower,
            self._pause_all, self._partition, self._one_way, self._bridge, self._slow_network, self._slow_disk,
            self._full_disk, self._wrong_clock, self._restart_one, self._restart_all,
        ), strict=True))

    @property
    def kinds(self) -> list[str]:
        return list(self._strikes)

    async def strike(self, kind: str, dice: random.Random) -> str:
        return await self._strikes[kind](dice)

    async def heal(self) -> None:
        """All nodes run, are sound, and agree on a leader. Raises NodeFailed."""
        cluster = self._cluster
        assert cluster.namespaces is not None
        cluster.relay.delay({})
        await cluster.namespaces.heal()
        for node in cluster.nodes.values():
            cluster.slow_disk(node.name, 0)
            cluster.make_room(node.name)
            if node.running and node.paused:
                cluster.resume(node.name)
        self.check()
        try:
            for name in self._filled:
                if cluster.nodes[name].running:
                    await cluster.kill_node(name)  # it may be about to stop itself, or not have noticed
            for name in list(cluster.own_settings):
                if cluster.nodes[name].running:
                    await cluster.stop_node(name, STOP_S)
                del cluster.own_settings[name]
            cluster.prepare()
            for node in cluster.nodes.values():
                if not node.running:
                    cluster.start_node(node.name)
            self._filled.clear()
            await cluster.wait_ready(READY_S)
        except LocalClusterError as error:
            raise NodeFailed(f"the cluster did not come back: {error}") from error

    def check(self) -> None:
        """Raises NodeFailed if a node has ended that nothing was done to."""
        for node in self._cluster.nodes.values():
            allowed = {None, 0, -signal.SIGKILL, *([NODE_STOPPED_ITSELF] if node.name in self._filled else [])}
            if node.exit_code not in allowed:
                raise NodeFailed(f"node {node.name} ended with exit code {node.exit_code}\n{node.log_tail()}")

    # -- whom ------------------------------------------------------------------------------------------------------

    @property
    def _names(self) -> list[str]:
        return list(self._cluster.nodes)

    async def _leader(self) -> str:
        return await self._cluster.wait_leader(timeout_s=READY_S)

    async def _follower(self, dice: random.Random) -> str:
        leader = await self._leader()
        return dice.choice([name for name in self._names if name != leader])

    async def _any(self, dice: random.Random) -> str:
        """The leader as often as not."""
        return await self._leader() if dice.randrange(2) else await self._follower(dice)

    # -- processes -------------------------------------------------------------------------------------------------

    async def _kill_leader(self, dice: random.Random) -> str:
        leader = await self._leader()
        await self._cluster.kill_node(leader)
        return leader

    async def _kill_follower(self, dice: random.Random) -> str:
        follower = await self._follower(dice)
        await self._cluster.kill_node(follower)
        return follower

    async def _kill_all(self, dice: random.Random) -> str:
        """As when the power fails: at one moment, and what no disk has synced is gone."""
        for name in self._names:
            self._cluster.pause(name)
        for name in self._names:
            await self._cluster.kill_node(name)
        return " ".join(self._names)

    async def _pause_leader(self, dice: random.Random) -> str:
        leader = await self._leader()
        self._cluster.pause(leader)
        return leader

    async def _pause_follower(self, dice: random.Random) -> str:
        follower = await self._follower(dice)
        self._cluster.pause(follower)
        return follower

    async def _pause_all(self, dice: random.Random) -> str:
        for name in self._names:
            self._cluster.pause(name)
        return " ".join(self._names)

    async def _restart_one(self, dice: random.Random) -> str:
        """SIGTERM: it hands over."""
        name = await self._any(dice)
        await self._stop(name)
        return name

    async def _restart_all(self, dice: random.Random) -> str:
        """One after the other, as an upgrade does it."""
        for name in dice.sample(self._names, len(self._names)):
            await self._stop(name)
            self._cluster.start_node(name)
            await self._cluster.wait_ready(READY_S)
        return " ".join(self._names)

    async def _stop(self, name: str) -> None:
        code = await self._cluster.stop_node(name, STOP_S)
        if code != 0:
            raise NodeFailed(f"node {name} was told to stop, and did with exit code {code}\n"
                             f"{self._cluster.nodes[name].log_tail()}")

    # -- networks --------------------------------------------------------------------------------------------------

    async def _cut(self, *directions: tuple[str, str]) -> None:
        assert self._cluster.namespaces is not None
        await self._cluster.namespaces.cut(*directions)

    async def _partition(self, dice: random.Random) -> str:
        """One is alone, in both directions."""
        name = await self._any(dice)
        await self._cut(*_between([name], [other for other in self._names if other != name]))
        return name

    async def _one_way(self, dice: random.Random) -> str:
        """The leader hears the others, and is not heard; or is heard, and hears nobody."""
        leader = await self._leader()
        cut = [(leader, other) for other in self._names if other != leader]
        unheard = bool(dice.randrange(2))
        await self._cut(*(cut if unheard else [(target, source) for source, target in cut]))
        return f"{leader} {'unheard' if unheard else 'deaf'}"

    async def _bridge(self, dice: random.Random) -> str:
        """One sees all; the others are in two groups that do not see each other."""
        names = dice.sample(self._names, len(self._names))
        half = (len(names) - 1) // 2
        await self._cut(*_between(names[1 : 1 + half], names[1 + half :]))
        return f"over {names[0]}"

    async def _slow_network(self, dice: random.Random) -> str:
        """What one sends, and what it is sent, is late."""
        name, delay_ms = await self._any(dice), dice.choice(DELAYS_MS)
        slow = _between([name], [other for other in self._names if other != name])
        self._cluster.relay.delay(dict.fromkeys(slow, float(delay_ms)), jitter_ms=delay_ms / 2)
        return f"{name} {delay_ms} ms"

    # -- disks and clocks ------------------------------------------------------------------------------------------

    async def _slow_disk(self, dice: random.Random) -> str:
        name, sync_ms = await self._any(dice), dice.choice(SLOW_SYNCS_MS)
        self._cluster.slow_disk(name, sync_ms)
        return f"{name} {sync_ms} ms"

    async def _full_disk(self, dice: random.Random) -> str:
        name = await self._any(dice)
        self._filled.add(name)
        self._cluster.fill_disk(name)
        return name

    async def _wrong_clock(self, dice: random.Random) -> str:
        """A node comes back with a clock that is off."""
        name, offset_ms = await self._any(dice), dice.choice(OFFSETS_MS)
        await self._stop(name)
        self._cluster.own_settings[name] = {"clock_offset_ms": offset_ms}
        self._cluster.prepare()
        self._cluster.start_node(name)
        return f"{name} {offset_ms / 1000:+.0f} s"


def _between(some: list[str], others: list[str]) -> list[tuple[str, str]]:
    return [pair for one in some for other in others for pair in ((one, other), (other, one))]
