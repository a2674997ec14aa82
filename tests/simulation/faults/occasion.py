"""One occurrence of a fault: its dice, whom it strikes, and what it says that it did."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from tests.simulation.cluster import Member
from tests.simulation.faults.plan import Planned
from tests.simulation.faults.service import Service

if TYPE_CHECKING:
    from tests.simulation.administrator import Administrator


class Occasion:
    """Draws from dice of its own, so what others do or leave undone does not change it."""

    def __init__(self, service: Service, administrator: Administrator | None, planned: Planned) -> None:
        self.service, self.cluster = service, service.cluster
        self._administrator = administrator
        self.planned = planned
        self.number, self.kind = planned.number, planned.kind
        self.at = self.cluster.loop.now
        self.dice = self.cluster.dice(f"faults/{planned.number}")
        # Empty as long as it has done nothing.
        self.what = ""

    def __str__(self) -> str:
        return f"{self.number:4} {self.at:8.3f} s  {self.kind}: {self.what or 'nothing, as nobody fits'}"

    def does(self, what: str) -> None:
        """Tells what it does: whom, and with which parameters."""
        self.what = f"{self.what}; {what}" if self.what else what
        self.cluster.watcher.trace("FAULT", f"{self.number} {self.kind}: {what}")

    # -- whom ------------------------------------------------------------------------------------------------------

    def shuffled(self, members: Iterable[Member] | None = None) -> list[Member]:
        """In an order in which those that come or go do not change the places of the others."""
        found = self.cluster.members.values() if members is None else members
        return sorted(found, key=lambda member: self._rank(member.name))

    def one(self) -> Member:
        return self.shuffled()[0]

    def some(self) -> list[Member]:
        """One, the leader, some or all."""
        members = self.shuffled()
        roll, share = self.dice.random(), self.dice.random()
        if roll < 0.35:
            return members[:1]
        if roll < 0.6:
            return self.cluster.leaders() or members[:1]
        if roll < 0.8:
            return members[: 1 + int(share * len(members))]
        return members

    def one_of_minority(self) -> Member | None:
        """Somebody whose disk may fail while those of a majority do not."""
        if not self.cluster.may_lose_one():
            return None
        return next((member for member in self.shuffled(self.cluster.voters()) if not member.is_failing), None)

    def _rank(self, name: str) -> float:
        return random.Random(f"{self.cluster.seed}/faults/{self.number}/{name}").random()

    # -- who helps -------------------------------------------------------------------------------------------------

    async def hold(self, members: list[Member], wait: Awaitable[object]) -> None:
        """Nobody starts them until that is over."""
        await self.service.hold(members, wait)

    @property
    def administrator(self) -> Administrator:
        assert self._administrator is not None
        return self._administrator


Kind = Callable[[Occasion], Awaitable[None]]


def names(members: Iterable[Member]) -> str:
    return " ".join(sorted(member.name for member in members)) or "nobody"
