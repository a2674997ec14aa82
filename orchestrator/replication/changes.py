"""Changes of the members, one at a time, through the log.

A change is an entry, in force from the moment it is in a node's journal. Each adds or removes one vote, so that any
majority before it and any majority after it have a node in common; the next one waits until it is committed, and the
first of a term until the leader's own no-op is. New and replaced nodes are learners first, and are promoted by a
second entry, by whoever leads then, once they lag by no more than `learner_lag_entries_max`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from orchestrator.replication import configuration as configurations
from orchestrator.replication.configuration import Configuration, Member
from orchestrator.replication.core import SyncObj
from orchestrator.replication.errors import (
    ChangeInProgress,
    InvalidMember,
    MemberExists,
    NotLeader,
    OutcomeUnknown,
    Stopped,
    UnknownMember,
    WouldLoseQuorum,
)
from orchestrator.replication.gossip import Gossiper
from orchestrator.replication.membership import Membership
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.state import Role

logger = logging.getLogger(__name__)

NAME_CHARACTERS_MAX = 128


class MembershipChanges:
    def __init__(
        self,
        raft: SyncObj,
        membership: Membership,
        gossiper: Gossiper,
        *,
        may_append: Callable[[], bool],
        is_stopped: Callable[[], bool],
        wait: Callable[[], Awaitable[None]],
        hand_over: Callable[[], Awaitable[bool]],
    ) -> None:
        self._raft = raft
        self._membership = membership
        self._gossiper = gossiper
        self._may_append = may_append
        self._is_stopped = is_stopped
        self._wait = wait
        self._hand_over = hand_over
        self._followed: tuple[Configuration | None, bool] = (None, False)

    # -- what is in force, told to raft --------------------------------------------------------------------------

    def follow(self) -> None:
        """Has raft count by the configuration in force."""
        configuration, votes = self._membership.configuration, self._membership.votes
        if configuration is None or (configuration, votes) == self._followed:
            return
        before, _ = self._followed
        self._followed = (configuration, votes)
        old = {} if before is None else {name: before.find(name) for name in before.names()}
        renewed = {
            name
            for name, member in old.items()
            if member is not None and not configuration.lists(name, member.incarnation)
        }
        self._gossiper.forget(renewed)
        self._raft.reconfigure(
            frozenset(configuration.members), frozenset(configuration.learners), renewed, is_voter=votes
        )

    # -- the leader's part ---------------------------------------------------------------------------------------

    async def add(self, name: str, member: Member) -> None:
        configuration = await self._begin()
        if configuration.lists(name, member.incarnation):
            await self._committed(self._membership.index, self._raft.term)  # asked again
            return
        if configuration.find(name) is not None:
            raise MemberExists(f"{name!r} is a member already, with another data directory: replace it")
        self._check_member(configuration, name, member)
        await self._change(configuration, configuration.admitting(name, member), name)

    async def replace(self, name: str, incarnation: str, address: str | None) -> None:
        configuration = await self._begin()
        current = configuration.find(name)
        if current is None:
            raise UnknownMember(f"{name!r} is not a member of this cluster: add it")
        if current.incarnation == incarnation:
            await self._committed(self._membership.index, self._raft.term)  # asked again
            return
        member = Member(incarnation, address or current.address)
        self._check_member(configuration.without(name), name, member)
        changed = configuration.admitting(name, member)
        if name == self._raft.name:
            await self._leave(changed)
        await self._change(configuration, changed, name)

    async def remove(self, name: str) -> None:
        configuration = await self._begin()
        if configuration.find(name) is None:
            raise UnknownMember(f"{name!r} is not a member of this cluster")
        changed = configuration.without(name)
        if name == self._raft.name:
            await self._leave(changed)
        await self._change(configuration, changed, name)

    async def _begin(self) -> Configuration:
        """The configuration to change; everything after this call runs without a pause up to the append."""
        if self._is_stopped():
            raise Stopped("the replicated log has stopped")
        await self._raft.barrier.wait()
        self._check_leads()
        configuration = self._membership.configuration
        assert configuration is not None
        return configuration

    def _check_leads(self) -> None:
        if self._is_stopped():
            raise Stopped("the replicated log has stopped")
        raft = self._raft
        if raft.role is not Role.LEADER or not self._may_append() or not raft.barrier.ready():
            raise NotLeader(raft.leader if raft.role is not Role.LEADER else None)

    @staticmethod
    def _check_member(others: Configuration, name: str, member: Member) -> None:
        if not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise InvalidMember(f"{name!r} can't be the name of a node")
        if not member.incarnation:
            raise InvalidMember(f"the incarnation of {name!r} is missing")
        if configurations.address_parts(member.address) is None:
            raise InvalidMember(f"the peer address of {name!r} must be host:port, not {member.address!r}")
        for other in others.names():
            found = others.find(other)
            if found is not None and found.incarnation == member.incarnation:
                raise InvalidMember(f"the data directory of {name!r} is that of {other!r}")
            if found is not None and found.address == member.address:
                raise InvalidMember(f"{other!r} has the peer address {member.address} already")

    async def _change(self, before: Configuration, after: Configuration, name: str) -> None:
        self._check_alone(before, name)
        self._check_quorum(after)
        await self._committed(*self._append(after))

    def _check_alone(self, before: Configuration, name: str) -> None:
        if self._membership.index > self._raft.commit_index:
            raise ChangeInProgress("another change of the members is not committed yet: try again when it is")
        pending = sorted(before.learners.keys() - {name})
        if pending:
            raise ChangeInProgress(
                f"{', '.join(pending)} was admitted and has not caught up yet: wait until it votes, or remove it first"
            )

    def _check_quorum(self, after: Configuration) -> None:
        reachable = self._raft.replicator.reachable(self._raft.clock.monotonic()) & after.members.keys()
        if len(reachable) < len(after.members) // 2 + 1:
            raise WouldLoseQuorum(
                f"of the members then, {', '.join(sorted(after.members)) or 'none'}, only "
                f"{', '.join(sorted(reachable)) or 'none'} can be reached now: they would be no majority"
            )

    async def _leave(self, after: Configuration) -> None:
        """A leader does not count itself out: another one has to lead first, and is asked then. Never returns."""
        self._check_alone(after, self._raft.name)
        self._check_quorum(after)
        await self._hand_over()
        raise NotLeader(self._raft.leader if self._raft.role is not Role.LEADER else None)

    def _append(self, configuration: Configuration) -> tuple[int, int]:
        raft = self._raft
        data = configurations.encode(configuration)
        record = raft.journal.append(raft.last_index + 1, raft.term, EntryKind.CONFIGURATION, data)
        raft.wake()
        return record.index, record.term

    async def _committed(self, index: int, term: int) -> None:
        raft = self._raft
        while True:
            if self._is_stopped() or raft.term != term:
                raise OutcomeUnknown
            if raft.handed_out_index >= index:
                return
            if raft.role is not Role.LEADER:
                raise OutcomeUnknown
            await self._wait()

    def promote(self) -> None:
        """Makes the first learner that has caught up a member; called in every turn."""
        raft, configuration = self._raft, self._membership.configuration
        if raft.role is not Role.LEADER or configuration is None or not configuration.learners:
            return
        index = self._membership.index
        if index > raft.commit_index or not self._may_append() or not raft.barrier.ready():
            return
        reachable = raft.replicator.reachable(raft.clock.monotonic())
        for name in sorted(reachable & configuration.learners.keys()):
            after = configuration.promoting(name)
            majority = len(after.members) // 2 + 1
            if raft.replicator.caught_up(name, index) and len(reachable & after.members.keys()) >= majority:
                logger.info("node %s: %s has caught up and becomes a member", raft.name, name)
                self._append(after)
                return
