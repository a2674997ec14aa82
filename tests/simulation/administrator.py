"""Who adds, removes and replaces members: asks the cluster by RPC, again and again, until it is done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from orchestrator.testing.member import PEER_PORT
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import errors
from tests.simulation.cluster import Member, SimulatedCluster
from tests.simulation.people import Person, Space

# What the cluster may say while it can't do what is asked, or has done it already but not committed it.
LATER = ("MEMBERSHIP_CHANGE_IN_PROGRESS", "QUORUM_WOULD_BE_LOST", "NODE_NOT_WAITING", "MEMBER_NOT_FOUND")
RETIREMENT_SECONDS = 3.0


class Administrator(Person):
    """Several changes may be under way at once; that they do not mix is the cluster's concern."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.counts: Counter[str] = Counter()
        # Names of the members that a change is under way for.
        self.busy: Counter[str] = Counter()
        # How many members there are when all that was asked for is done.
        self.size_wanted = len(cluster.members)
        super().__init__(cluster, "admin", Space("default", [], []))

    async def live(self) -> None:
        await self.client

    def is_idle(self, member: Member) -> bool:
        return not self.busy[member.name]

    # -- what is asked for -------------------------------------------------------------------------------------------

    def add(self, member: Member, *, by_name: bool) -> None:
        self.size_wanted += 1
        request = cluster_pb2.AddMemberRequest(name=member.name)
        if not by_name:
            request.incarnation, request.peer_address = member.incarnation, f"{member.name}:{PEER_PORT}"
        self._begin(member, "added", self._admitted(member, lambda node: node.cluster.AddMember, request))

    def replace(self, member: Member, *, by_name: bool) -> None:
        """Its disk is lost now."""
        self._lose_disk(member)
        request = cluster_pb2.ReplaceMemberRequest(name=member.name)
        if not by_name:
            request.incarnation = member.incarnation
        self._begin(member, "replaced", self._admitted(member, lambda node: node.cluster.ReplaceMember, request))

    def remove(self, member: Member, *, retires: bool) -> None:
        """It goes on running, as one that was not told, for a while or for good."""
        self.size_wanted -= 1
        self._begin(member, "removed", self._removed(member, retires=retires))

    def mend(self) -> None:
        """Whatever stays away, as its disk was damaged, is replaced."""
        for member in self.cluster.voters():
            if member.is_out and self.is_idle(member):
                self.replace(member, by_name=False)

    # -- how it is done ----------------------------------------------------------------------------------------------

    def _begin(self, member: Member, what: str, change: Any) -> None:
        self.busy[member.name] += 1

        def ended(task: asyncio.Task[None]) -> None:
            self._ended(task)
            self.busy -= Counter([member.name])
            self.counts[what] += 1
            self.cluster.watcher.trace(self.name, f"{member.holder} is {what}")

        self.machine.spawn(change, f"{what} {member.name}").add_done_callback(ended)

    async def _admitted(self, member: Member, method: Callable[[Any], Any], request: Any) -> None:
        # By name it may not be asked again: who has a vote already waits no more.
        await self._ask(method, request, is_done=lambda: not member.is_lost)
        while member.is_lost:
            if member.is_out:
                await self._begin_anew(member)
            await asyncio.sleep(0.1)

    async def _begin_anew(self, member: Member) -> None:
        """Its disk was damaged while it caught up: it stays away, and is in the way of every other change."""
        configurations = self.cluster.watcher.configurations
        remove = cluster_pb2.RemoveMemberRequest(name=member.name)
        await self._ask(
            lambda node: node.cluster.RemoveMember,
            remove,
            is_done=lambda: member.name not in {**configurations.newest.members, **configurations.newest.learners},
        )
        self._lose_disk(member)
        address = f"{member.name}:{PEER_PORT}"
        add = cluster_pb2.AddMemberRequest(name=member.name, incarnation=member.incarnation, peer_address=address)
        await self._ask(lambda node: node.cluster.AddMember, add, is_done=lambda: not member.is_lost)

    def _lose_disk(self, member: Member) -> None:
        member.lose_disk({**self.cluster.addresses, member.name: f"{member.name}:{PEER_PORT}"}, self.dice)

    async def _removed(self, member: Member, *, retires: bool) -> None:
        request = cluster_pb2.RemoveMemberRequest(name=member.name)
        await self._ask(lambda node: node.cluster.RemoveMember, request, is_done=lambda: member.is_lost)
        while not member.is_lost:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)
        await asyncio.sleep(self.dice.random() * RETIREMENT_SECONDS)
        if retires:
            self.cluster.retire(member)

    async def _ask(self, method: Callable[[Any], Any], request: Any, *, is_done: Callable[[], bool]) -> None:
        # The addresses of today, which who has changed the members knows.
        client = await self.open_client(self.space)
        while True:
            try:
                await client.connection.call(method, request)
            except errors.ReplyError as error:
                self.cluster.watcher.trace(self.name, f"{type(request).__name__} of {request.name}: {error!r}")
                # The answer that said so was lost.
                if is_done():
                    return
                if isinstance(error, errors.RequestError):
                    self.counts[error.reason.lower()] += 1
                    if error.reason not in LATER:
                        raise
            else:
                return
            await asyncio.sleep(self.dice.random() * 0.5)
