"""Whose votes and acknowledgements count, and how that is first agreed.

The configuration maps each member's name to its incarnation. One node decides it, the first by name, once it hears
every initial member and all are blank; the others take it over from any peer that has it and lists them. With one
decider there cannot be two configurations. Until its configuration is durable a node neither votes nor acknowledges;
a blank node that a formed cluster does not list waits to be admitted, whatever its name says.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

import msgspec

from orchestrator.replication.frames import PROTOCOL_VERSION, Hello
from orchestrator.replication.hard_state import HardStateFile
from orchestrator.replication.identity import Identity

logger = logging.getLogger(__name__)


class Standing(enum.Enum):
    """Where this node stands with its cluster."""

    FORMING = "forming"
    FORMED = "formed"
    AWAITING_ADMISSION = "awaiting_admission"


class Membership:
    def __init__(
        self,
        identity: Identity,
        hard_state: HardStateFile,
        on_formed: Callable[[], None],
        on_announce: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._hard_state = hard_state
        self._on_formed = on_formed
        self._on_announce = on_announce
        self._hellos: dict[str, Hello] = {}
        # Peers whose hello was heard on a connection that is still up.
        self._present: set[str] = set()
        self._formed = hard_state.durable.configuration is not None
        self.awaiting_reason: str | None = None

    @property
    def standing(self) -> Standing:
        if self._formed:
            return Standing.FORMED
        return Standing.AWAITING_ADMISSION if self.awaiting_reason else Standing.FORMING

    @property
    def configuration(self) -> dict[str, str] | None:
        """The configuration in force; also while it is being recorded, since a crash may leave it on disk."""
        return self._hard_state.current.configuration

    def peers(self) -> list[str]:
        return sorted(name for name in self._identity.members if name != self._identity.node)

    def hello(self) -> Hello:
        identity = self._identity
        return Hello(
            PROTOCOL_VERSION,
            identity.cluster_id,
            identity.node,
            identity.incarnation,
            identity.members[identity.node],
            sorted(identity.members),
            self.configuration,
        )

    def counts(self, name: str, incarnation: str) -> bool:
        """Whether raft messages of this peer count."""
        configuration = self.configuration
        return self._formed and configuration is not None and configuration.get(name) == incarnation

    def heard(self, hello: Hello) -> None:
        """A peer said who it is, on a connection that is up."""
        self._hellos[hello.node] = hello
        self._present.add(hello.node)
        self.decide()

    def lost(self, name: str) -> None:
        self._present.discard(name)

    def decide(self) -> None:
        if self.configuration is not None:
            if not self._formed and self._hard_state.durable.configuration is not None:
                self._formed = True
                self.awaiting_reason = None
                logger.info("node %s: the cluster is formed: %s", self._identity.node, sorted(self._identity.members))
                self._on_formed()
            return
        formed = [hello for name in sorted(self._present) if (hello := self._hellos[name]).configuration is not None]
        for hello in formed:
            assert hello.configuration is not None
            if (
                hello.configuration.get(self._identity.node) == self._identity.incarnation
                and hello.configuration.get(hello.node) == hello.incarnation
            ):
                self._take_over(hello.configuration)
                return
        if formed:
            self._set_awaiting(
                "this node's data directory is blank but the cluster has data; use `cluster replace` "
                f"to admit it (heard from {', '.join(hello.node for hello in formed)})"
            )
            return
        self._set_awaiting(None)
        if self._identity.node == min(self._identity.members) and self._present >= set(self.peers()):
            incarnations = {name: self._hellos[name].incarnation for name in self.peers()}
            self._record({**incarnations, self._identity.node: self._identity.incarnation})

    def _take_over(self, configuration: dict[str, str]) -> None:
        if set(configuration) != set(self._identity.members):
            self._set_awaiting(
                f"this node was initialised with members {sorted(self._identity.members)}, but the cluster "
                f"has {sorted(configuration)}: run `orchestrator init` again with the right members"
            )
            return
        self._record(configuration)

    def _record(self, configuration: dict[str, str]) -> None:
        self.awaiting_reason = None
        self._hard_state.save(msgspec.structs.replace(self._hard_state.current, configuration=configuration))
        # From here on peers must not take this node for blank: a crash may leave the configuration on disk.
        self._on_announce()

    def _set_awaiting(self, reason: str | None) -> None:
        if reason is not None and reason != self.awaiting_reason:
            logger.error("node %s neither votes nor acknowledges: %s", self._identity.node, reason)
        self.awaiting_reason = reason
