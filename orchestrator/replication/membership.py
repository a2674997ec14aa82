"""Whose votes and acknowledgements count, how that is first agreed, and which configuration is in force.

In force is the newest configuration in the journal, committed or not; else the one stored with the database; else the
one this node was formed or admitted with. So it is known before the first vote, and rolled back with the log.

The first configuration is decided by one node, the first by name, once it hears every initial member and all are
blank; the others take it over from any peer that has it and lists them. With one decider there cannot be two. Until a
configuration is durable a node neither votes nor acknowledges; a blank node that a formed cluster does not list waits
to be admitted, whatever its name says, and is admitted by a configuration that lists its incarnation.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

import msgspec

from orchestrator.replication import configuration as configurations
from orchestrator.replication.configuration import Configuration, Member, Placed
from orchestrator.replication.frames import PROTOCOL_NEWEST, PROTOCOL_VERSION, Hello
from orchestrator.replication.hard_state import HardStateFile
from orchestrator.replication.identity import Identity
from orchestrator.replication.journal import Journal
from orchestrator.replication.release import THIS_RELEASE, Release, Releases

logger = logging.getLogger(__name__)


class Standing(enum.Enum):
    """Where this node stands with its cluster."""

    FORMING = "forming"
    FORMED = "formed"
    AWAITING_ADMISSION = "awaiting_admission"
    # A member once; the others go on without it.
    REMOVED = "removed"


class Membership:
    def __init__(
        self,
        identity: Identity,
        hard_state: HardStateFile,
        journal: Journal,
        *,
        stored: Placed | None = None,
        on_formed: Callable[[], None] = lambda: None,
        on_announce: Callable[[], None] = lambda: None,
        release: Release = THIS_RELEASE,
    ) -> None:
        self._identity = identity
        self._hard_state = hard_state
        self._journal = journal
        self._release = release
        self._on_formed = on_formed
        # Called when this node has to say hello again, and look anew at who counts.
        self._on_announce = on_announce
        self._hellos: dict[str, Hello] = {}
        # Peers whose hello was heard on a connection that is still up.
        self._present: set[str] = set()
        self._formed = hard_state.durable.configuration is not None
        self._awaiting_reason: str | None = None
        # What stands below the journal's own.
        self._stored = stored
        # The newest committed one that a trusted peer told of, and its index.
        self._told: Placed | None = None
        # The newest committed one that anybody told of: good for dialling, and for nothing else.
        self._rumoured: Placed | None = None
        self._committed = False
        self.configuration: Configuration | None = None
        self.index = 0
        self._find()

    # -- what is in force ----------------------------------------------------------------------------------------

    def _find(self) -> None:
        placed = self._placed(None)
        self.index, self.configuration = (0, None) if placed is None else placed

    def _placed(self, at: int | None) -> Placed | None:
        found = self._journal.configuration(at)
        return self._base() if found is None else (found[0], configurations.decode(found[1]))

    def _base(self) -> Placed | None:
        if self._stored is not None:
            return self._stored
        # Also while it is being recorded, since a crash may leave it on disk.
        state = self._hard_state.current
        if state.admitted:
            return configurations.decode_stored(state.admitted, {})
        if state.configuration is None:
            return None
        return 0, configurations.initial(state.configuration, self._identity.members)

    def at(self, index: int) -> Placed | None:
        """The one that stands with the entries up to `index`."""
        return self._placed(index)

    def refresh(self) -> None:
        """The journal's newest configuration became another one."""
        before = self.configuration
        self._find()
        if self.configuration != before and self.configuration is not None:
            self._committed = False
            members, learners = sorted(self.configuration.members), sorted(self.configuration.learners)
            logger.info("node %s: members are %s, learners %s", self._identity.node, members, learners)
            self._on_announce()

    def snapshot_installed(self, stored: Placed | None) -> None:
        """The database is another one, with this configuration."""
        self._stored = stored if stored is not None else self._base()
        self.refresh()

    def committed_up_to(self, index: int) -> None:
        """Others learn when a configuration became committed: those that it removed hear it no other way."""
        if not self._committed and self.configuration is not None and index >= self.index:
            self._committed = True
            self._on_announce()

    # -- who this node is in it ----------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        if self._formed:
            return Standing.REMOVED if self._removed() else Standing.FORMED
        return Standing.AWAITING_ADMISSION if self._awaiting_reason else Standing.FORMING

    @property
    def awaiting_reason(self) -> str | None:
        if self._formed and self._removed():
            return "this node was removed from the cluster: stop it, or admit it again with `cluster add`"
        return self._awaiting_reason

    def _lists_us(self, configuration: Configuration) -> bool:
        return configuration.lists(self._identity.node, self._identity.incarnation)

    def _removed(self) -> bool:
        """A committed configuration, not older than the one in force, does without this node."""
        return self._told is not None and self._told[0] >= self.index and not self._lists_us(self._told[1])

    @property
    def votes(self) -> bool:
        """Whether this node is a member that may campaign, and whose own copy and vote count."""
        own = self.configuration.members.get(self._identity.node) if self.configuration is not None else None
        return own is not None and own.incarnation == self._identity.incarnation and not self._removed()

    # -- who the others are --------------------------------------------------------------------------------------

    def peers(self) -> list[str]:
        """Whom this node dials: also, while it waits to be admitted, members that it was told of.

        Else the leader of a cluster whose members have changed would not find it among those that wait.
        """
        configuration = self.configuration
        names = set(self._identity.members if configuration is None else configuration.names())
        if self._rumoured is not None and (configuration is None or self._removed()):
            names.update(self._rumoured[1].names())
        return sorted(names - {self._identity.node})

    def address_of(self, name: str) -> tuple[str, int] | None:
        """Where a peer is dialled; what it says itself is asked only for one that is not listed."""
        member = self.configuration.find(name) if self.configuration is not None else None
        if member is not None:
            return configurations.address_parts(member.address)
        if self.configuration is None and name in self._identity.members:
            return self._identity.address_of(name)
        rumoured = self._rumoured[1].find(name) if self._rumoured is not None else None
        if rumoured is not None:
            return configurations.address_parts(rumoured.address)
        hello = self._hellos.get(name)
        return configurations.address_parts(hello.advertised) if hello is not None else None

    def hosts(self) -> dict[str, str]:
        """Where each member and learner is, or each first member while there is no configuration."""
        configuration = self.configuration
        if configuration is None:
            return {name: self._identity.address_of(name)[0] for name in self._identity.members}
        places = {name: self.address_of(name) for name in configuration.names()}
        return {name: place[0] for name, place in places.items() if place is not None}

    def place_of(self, hello: Hello) -> str:
        """The host whose certificate a peer must have: only for one that is not listed that which it says itself."""
        configuration = self.configuration
        listed = configuration is None or configuration.lists(hello.node, hello.incarnation)
        host = self.hosts().get(hello.node) if listed else None
        if host is not None:
            return host
        advertised = configurations.address_parts(hello.advertised)
        return advertised[0] if advertised is not None else ""

    def known(self, name: str) -> bool:
        return name in self._identity.members or (
            self.configuration is not None and self.configuration.find(name) is not None
        )

    def counts(self, name: str, incarnation: str) -> bool:
        """Whether raft messages of this peer count, its votes and acknowledgements among them."""
        return self._formed and self.configuration is not None and self.configuration.lists(name, incarnation)

    def hears(self, name: str, incarnation: str) -> bool:
        """Whether it may lead or campaign: also by a configuration that this node's own log has yet to reach."""
        if self.counts(name, incarnation):
            return True
        return self._formed and self._told is not None and self._told[1].lists(name, incarnation)

    def candidates(self) -> dict[str, Member]:
        """Blank or removed nodes that are there and not listed: name -> what it says of itself."""
        hellos = [self._hellos[name] for name in sorted(self._present)]
        return {
            hello.node: Member(hello.incarnation, hello.advertised)
            for hello in hellos
            if self.configuration is not None and not self.configuration.lists(hello.node, hello.incarnation)
        }

    def hello(self) -> Hello:
        identity = self._identity
        configuration = self.configuration
        own = configuration.find(identity.node) if configuration is not None else None
        listed = own is not None and own.incarnation == identity.incarnation and own.address
        return Hello(
            PROTOCOL_VERSION,
            identity.cluster_id,
            identity.node,
            identity.incarnation,
            own.address if own is not None and listed else identity.members[identity.node],
            sorted(identity.members),
            configuration,
            self.index,
            self._committed,
            identity.recovery_epoch,
            self._release.version,
            self._release.lowest_level,
            self._release.highest_level,
            PROTOCOL_NEWEST,
        )

    def releases(self) -> Releases:
        """What each member and learner runs; None of one that is away, or whose name another disk has now."""
        configuration = self.configuration
        found: dict[str, Release | None] = {}
        for name in configuration.names() if configuration is not None else ():
            hello = self._hellos.get(name) if name in self._present else None
            is_it = hello is not None and configuration is not None and configuration.lists(name, hello.incarnation)
            found[name] = hello.release if hello is not None and is_it else None
        if self._identity.node in found:
            found[self._identity.node] = self._release
        return found

    def releases_said(self) -> dict[str, Release]:
        """By everybody who is there, member or not."""
        said = {name: self._hellos[name].release for name in sorted(self._present)}
        return {name: release for name, release in said.items() if release is not None}

    # -- hearing of others ---------------------------------------------------------------------------------------

    def heard(self, hello: Hello) -> None:
        """A peer said who it is, on a connection that is up."""
        self._hellos[hello.node] = hello
        self._present.add(hello.node)
        self._hear_of_members(hello)
        self._take_note(hello)
        self.decide()

    def _hear_of_members(self, hello: Hello) -> None:
        told = hello.configuration
        if told is None or not hello.configuration_committed:
            return
        if self._rumoured is None or hello.configuration_index > self._rumoured[0]:
            self._rumoured = (hello.configuration_index, told)
            if self.configuration is None or self._removed():
                self._on_announce()

    def _take_note(self, hello: Hello) -> None:
        told = hello.configuration
        if told is None or not hello.configuration_committed or hello.configuration_index == 0:
            return
        if self._told is not None and self._told[0] >= hello.configuration_index:
            return
        # One that lists both of us was made by this cluster: nobody else knows this node's incarnation.
        ours = self._lists_us(told) and told.lists(hello.node, hello.incarnation)
        if self.counts(hello.node, hello.incarnation) or ours:
            before = self.standing
            self._told = (hello.configuration_index, told)
            if self.standing is not before and self.standing is Standing.REMOVED:
                logger.error("node %s: %s", self._identity.node, self.awaiting_reason)
            self._on_announce()

    def lost(self, name: str) -> None:
        self._present.discard(name)
        if not self.known(name):
            self._hellos.pop(name, None)

    # -- formation and admission -----------------------------------------------------------------------------------

    def decide(self) -> None:
        if self._hard_state.current.configuration is not None:
            if not self._formed and self._hard_state.durable.configuration is not None:
                self._formed = True
                self._awaiting_reason = None
                self._find()
                logger.info("node %s: is part of the cluster of %s", self._identity.node, self.peers())
                self._on_formed()
            return
        formed = [hello for name in sorted(self._present) if (hello := self._hellos[name]).configuration is not None]
        for hello in formed:
            told = hello.configuration
            if told is not None and self._lists_us(told) and told.lists(hello.node, hello.incarnation):
                self._take_over(told, hello.configuration_index)
                return
        if formed:
            self._set_awaiting(self._why_not(formed))
            return
        self._set_awaiting(None)
        if self._identity.node == min(self._identity.members) and self._all_expect_us():
            incarnations = {name: self._hellos[name].incarnation for name in self.peers()}
            self._record({**incarnations, self._identity.node: self._identity.incarnation}, b"")

    def _all_expect_us(self) -> bool:
        """Every initial member is there, and means to form a cluster that has this node in it."""
        return all(
            name in self._present and self._identity.node in self._hellos[name].members for name in self.peers()
        )

    def _why_not(self, formed: list[Hello]) -> str:
        own = self._identity.node
        listed = any(hello.configuration is not None and hello.configuration.find(own) for hello in formed)
        command = "replace" if listed else "add"
        return (
            f"this node's data directory is blank but the cluster has data; use `cluster {command} {own}` "
            f"to admit it (heard from {', '.join(hello.node for hello in formed)})"
        )

    def _take_over(self, told: Configuration, index: int) -> None:
        incarnations = {name: member.incarnation for name, member in told.members.items()}
        if index > 0:
            self._record(incarnations, configurations.encode_stored((index, told)))
        elif set(told.members) != set(self._identity.members):
            self._set_awaiting(
                f"this node was initialised with members {sorted(self._identity.members)}, but the cluster "
                f"has {sorted(told.members)}: run `orchestrator init` again with the right members"
            )
        else:
            self._record(incarnations, b"")

    def _record(self, incarnations: dict[str, str], admitted: bytes) -> None:
        self._awaiting_reason = None
        current = self._hard_state.current
        self._hard_state.save(msgspec.structs.replace(current, configuration=incarnations, admitted=admitted))
        self._find()
        # From here on peers must not take this node for blank: a crash may leave the configuration on disk.
        self._on_announce()

    def _set_awaiting(self, reason: str | None) -> None:
        if reason is not None and reason != self._awaiting_reason:
            logger.error("node %s neither votes nor acknowledges: %s", self._identity.node, reason)
        self._awaiting_reason = reason
