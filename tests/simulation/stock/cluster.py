"""Members of one kind, the network between them, and the virtual time that they live in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.testing.loop import VirtualLoop
from orchestrator.testing.network import SimulatedNetwork
from tests.simulation.stock import profile as profiles
from tests.simulation.stock.library import Library, StockMachine
from tests.simulation.stock.members import StockMember
from tests.simulation.stock.ours import OurMember
from tests.simulation.stock.watcher import LogWatcher

Member = StockMember | OurMember


class LogCluster:
    """As `SimulatedCluster` to the faults, with replicated logs alone."""

    def __init__(self, seed: int, *, ours: bool, verbose: bool = False) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        profile = self.profile = profiles.draw(self.dice("profile"))
        self.watcher = LogWatcher(lambda: self.loop.now, verbose)
        self.network = SimulatedNetwork(self.loop, self.dice("network"), (0.0001, profile.latency_seconds))
        self.library = Library()
        names = [f"n{number + 1}" for number in range(profile.size)]
        stock: dict[str, StockMember] = {}
        self.members: dict[str, Member] = {}
        for name in names:
            machine = StockMachine(name, self.loop, self.network, self.dice(name), None)
            machine.has_power_losses = profile.power_fails
            if ours:
                self.members[name] = OurMember(machine, profile, self.watcher, names, self.dice(f"{name}/identity"))
            else:
                stock[name] = StockMember(machine, self.library, profile, self.watcher, stock)
                self.members[name] = stock[name]

    def dice(self, purpose: str) -> random.Random:
        """Randomness of its own for each purpose, so that one does not shift another."""
        return random.Random(f"{self.seed}/log/{purpose}")

    @property
    def majority(self) -> int:
        return len(self.members) // 2 + 1

    def leaders(self) -> list[Member]:
        return [member for member in self.members.values() if member.leads]

    def leader(self) -> Member | None:
        """The one that everybody will follow, if it is there."""
        return max(self.leaders(), key=lambda member: member.term, default=None)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """For what needs a running loop, in nobody's process."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
