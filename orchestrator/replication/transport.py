"""TCP between nodes: each node dials every other and speaks on its own connection; what it accepts, it only hears.

Promises: frames of one connection arrive in order; nothing is buffered without a bound; a peer that is malformed,
oversized, of another cluster or protocol version is dropped and counted; messages of a peer whose incarnation is
not in the configuration never reach raft, but for those of a leader or candidate that a newer one lists.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Callable

from pysyncobj.node import Node  # type: ignore[import-untyped]  # the package has no types
from pysyncobj.transport import Transport  # type: ignore[import-untyped]  # the package has no types

from orchestrator.replication.configuration import address_parts
from orchestrator.replication.frames import (
    AnyMessage,
    Append,
    CommitNotice,
    Heartbeat,
    Hello,
    Outgoing,
    PreVoteRequest,
    SnapshotBegin,
    SnapshotChunk,
    TimeoutNow,
    VoteRequest,
    encode_frame,
)
from orchestrator.replication.identity import Identity, superseded
from orchestrator.replication.link import EPOCH, Inbound, Link
from orchestrator.replication.membership import Membership
from orchestrator.replication.ports import Clock, Network
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.tls import Complaints, count_failures, why_another
from orchestrator.tls.certificate import Certificate

# Said by leaders and candidates; what they mean is checked by term and log, not by who is counted here.
FROM_ABOVE = (Append, Heartbeat, CommitNotice, SnapshotBegin, SnapshotChunk, TimeoutNow, PreVoteRequest, VoteRequest)
# Connections of nodes that no configuration lists, as those that wait to be admitted.
STRANGERS_MAX = 32
# Accepted connections that have not said who they are, or stand behind a member of the same name.
UNNAMED_MAX = 128


class Peer(Node):  # type: ignore[misc]  # the base class has no types
    """Raft keeps what it knows of each under it, so its hash is asked for all the time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = hash(name)

    def __hash__(self) -> int:
        return self._hash


class PeerTransport(Transport):  # type: ignore[misc]  # the base class has no types
    def __init__(
        self,
        *,
        identity: Identity,
        membership: Membership,
        settings: RaftSettings,
        network: Network,
        clock: Clock,
        rng: random.Random,
        listen: tuple[str, int],
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        on_refused: Callable[[str], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        names = {identity.node, *membership.peers()}
        # Every peer that was ever known; who counts is for the configuration to say.
        self.nodes: dict[str, Node] = {name: Peer(name) for name in sorted(names)}
        own = self.nodes[identity.node]
        super().__init__(None, own, [node for node in self.nodes.values() if node != own])
        self.identity = identity
        self.settings = settings
        self.network = network
        self.clock = clock
        self.rng = rng
        self.client_tls = client_tls
        self.counters: Counter[str] = Counter()
        self._complaints = Complaints(clock.monotonic)
        if server_tls is not None and client_tls is not None:
            count_failures(server_tls, self.counters, self._accepted_nobody)
            count_failures(client_tls, self.counters, lambda error: None)  # whoever dialled says whom
        self._membership = membership
        self._listen = listen
        self._server_tls = server_tls
        self._on_refused = on_refused
        self._on_error = on_error
        self._server: asyncio.AbstractServer | None = None
        self._inbound: dict[str, Inbound] = {}
        # In the order in which they came.
        self._unnamed: dict[Inbound, None] = {}
        self._links: dict[str, Link] = {name: Link(self, name) for name in membership.peers()}
        self._closing: set[Link] = set()
        self._connected: set[str] = set()
        self._heard_at: dict[str, float] = {}
        self._silence_limit_s = settings.silence_limit_ms / 1000
        self._aborted = False
        # Before this nobody can have been silent for so long.
        self._silent_from = float("-inf")

    # -- what PySyncObj asks of a transport ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return True

    def send(self, node: Node, message: Outgoing) -> bool:
        return self.send_frame(node.id, encode_frame(message))

    def addNode(self, node: Node) -> None:
        raise NotImplementedError("members come from the configuration in force")

    def dropNode(self, node: Node) -> None:
        raise NotImplementedError("members come from the configuration in force")

    def destroy(self) -> None:
        self.abort()

    # -- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        host, port = self._listen
        self._server = await self.network.listen(host, port, lambda: Inbound(self), self._server_tls)
        for link in self._links.values():
            link.start()

    def abort(self) -> None:
        """Closes everything at once, as a killed process would."""
        self._aborted = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in self._links.values():
            link.abort()
        for inbound in [*self._inbound.values(), *self._unnamed]:
            inbound.abort()

    async def stop(self) -> None:
        server = self._server
        self.abort()
        for link in [*self._links.values(), *self._closing]:
            await link.join()
        if server is not None:
            await server.wait_closed()

    # -- sending -----------------------------------------------------------------------------------------------

    def send_frame(self, name: str, frame: bytes) -> bool:
        link = self._links.get(name)
        if link is None or not link.write(frame):
            self.counters["unsent"] += 1
            return False
        self.counters["frames_sent"] += 1
        self.counters["bytes_sent"] += len(frame)
        return True

    def broadcast(self, message: Outgoing) -> None:
        frame = encode_frame(message)
        for name, link in self._links.items():
            if link.up:
                self.send_frame(name, frame)

    def announce(self) -> None:
        """Tells all peers that this node's standing changed, and looks anew at who they are and who counts."""
        self.broadcast(self._membership.hello())
        self._reconcile()
        self._recall()
        self.review()

    def _reconcile(self) -> None:
        """Dials whom the configuration lists, where it says; and, to be heard, strangers while they are there."""
        wanted = {*self._membership.peers(), *self._inbound}
        for name in sorted(wanted - self._links.keys()):
            self.nodes.setdefault(name, Peer(name))
            self._links[name] = Link(self, name)
            if self._server is not None:
                self._links[name].start()
        for name in sorted(self._links.keys() - wanted):
            link = self._links.pop(name)
            self._heard_at.pop(name, None)
            link.abort()
            self._closing = {closing for closing in {*self._closing, link} if not closing.ended}
            self._membership.lost(name)
            if name in self._connected:
                self._connected.discard(name)
                self._onNodeDisconnected(self.nodes[name])
        for name, link in self._links.items():
            if link.dialled is not None and link.dialled != self.address_of(name):
                link.drop()

    def drop_silent(self) -> None:
        """Connections to a peer that says nothing, not even gossip, are made anew: TCP alone would take minutes."""
        now = self.clock.monotonic()
        if now < self._silent_from:
            return
        limit = now - self._silence_limit_s
        for name, heard_at in list(self._heard_at.items()):
            if heard_at >= limit:
                continue
            link, inbound = self._links.get(name), self._inbound.get(name)
            if link is not None and link.up:
                self.counters["silent"] += 1
                del self._heard_at[name]
                self._inbound.pop(name, None)
                link.drop()
            elif inbound is not None:
                self.counters["silent"] += 1
                del self._heard_at[name]
            if inbound is not None:
                inbound.abort()
                self._recall()
        self._silent_from = min(self._heard_at.values(), default=now) + self._silence_limit_s

    # -- told by connections -------------------------------------------------------------------------------------

    def jitter(self) -> float:
        return self.rng.random()

    def address_of(self, name: str) -> tuple[str, int] | None:
        return self._membership.address_of(name)

    def hello(self) -> Hello:
        return self._membership.hello()

    def admit(self, hello: Hello, expected: str | None, certificate: Certificate | None) -> str | None:
        """None when the peer may stay, else the counter's name. The certificate is what it has shown, with TLS."""
        if not hello.is_understood:
            return "version"
        if hello.cluster_id != self.identity.cluster_id:
            return "foreign"
        if address_parts(hello.advertised) is None:
            return "malformed"
        if self.client_tls is not None:
            host, hosts = self._membership.place_of(hello), self._membership.hosts()
            if (why := why_another(certificate, hello.node, host, hosts)) is not None:
                self._complaints.say(f"a connection that claims to be node {hello.node} is refused", why)
                return "identity"
        if hello.recovery_epoch != self.identity.recovery_epoch:
            # Anybody can say so who reaches this port: believed is who was dialled where a member is, or has shown who
            # it is. Whoever else it is true of is dialled, too.
            is_known = expected is not None or self.client_tls is not None
            if is_known and hello.recovery_epoch > self.identity.recovery_epoch:
                # Whatever this node would go on to promise, the others know nothing of it.
                self.link_failed(superseded(self.identity, hello.recovery_epoch))
            return EPOCH
        if hello.node == self.identity.node or expected not in (None, hello.node):
            return "unknown"
        if not self._membership.known(hello.node) and hello.node not in self._inbound:
            strangers = sum(not self._membership.known(name) for name in self._inbound)
            return "unknown" if strangers >= STRANGERS_MAX else None
        return None

    def inbound_opened(self, inbound: Inbound) -> None:
        if self._aborted:
            # It had been accepted before, and TLS took until now: whoever dialled would think it heard.
            inbound.abort()
            return
        self._unnamed[inbound] = None
        if len(self._unnamed) > UNNAMED_MAX:
            # The oldest goes: whoever means it says hello at once, and dials again.
            oldest = next(iter(self._unnamed))
            del self._unnamed[oldest]
            oldest.fail("flood")

    def inbound_named(self, inbound: Inbound, hello: Hello) -> None:
        previous = self._inbound.get(hello.node)
        if previous is not None and previous.hello is not None and self._outranks(previous.hello, hello):
            # Two disks claim one name: the one that is a member is not cut off by the other.
            self.counters["unlisted"] += 1
            return
        self._unnamed.pop(inbound, None)
        self._inbound[hello.node] = inbound
        if previous is not None and previous is not inbound:
            # A newer connection means that the older one's process or path is gone: it must not be heard any more.
            previous.abort()
        self._heard_at[hello.node] = self.clock.monotonic()
        self._membership.heard(hello)
        self._reconcile()
        self._links[hello.node].hurry()
        self.review()

    def _outranks(self, old: Hello, new: Hello) -> bool:
        counts = self._membership.counts
        return counts(old.node, old.incarnation) and not counts(new.node, new.incarnation)

    def _recall(self) -> None:
        """Whoever was passed over for a connection that is gone, or does not count any more, is to dial again."""
        for passed_over in [other for other in self._unnamed if other.hello is not None]:
            assert passed_over.hello is not None
            heard = self._inbound.get(passed_over.hello.node)
            if heard is None or heard.hello is None or not self._outranks(heard.hello, passed_over.hello):
                passed_over.abort()

    def inbound_closed(self, inbound: Inbound) -> None:
        self._unnamed.pop(inbound, None)
        name = inbound.name
        if name is not None and self._inbound.get(name) is inbound:
            del self._inbound[name]
            if name not in self._links or not self._links[name].up:
                self._membership.lost(name)
            self._recall()
            self._reconcile()

    def received(self, inbound: Inbound, message: AnyMessage) -> None:
        name, hello = inbound.name, inbound.hello
        if name is None or hello is None or self._inbound.get(name) is not inbound:
            return
        self.counters["frames_received"] += 1
        self._heard_at[name] = self.clock.monotonic()
        if isinstance(message, Hello):
            if message.node != name or message.incarnation != hello.incarnation:
                self.counters["malformed"] += 1
                inbound.abort()
                return
            inbound.hello = message
            self._membership.heard(message)
            self.review()
        elif not self._membership.counts(name, hello.incarnation) and not (
            isinstance(message, FROM_ABOVE) and self._membership.hears(name, hello.incarnation)
        ):
            self.counters["unlisted"] += 1
        else:
            self._onMessageReceived(self.nodes[name], message)

    def link_opened(self, link: Link, hello: Hello) -> None:
        self._heard_at.setdefault(hello.node, self.clock.monotonic())
        self._membership.heard(hello)
        self.review()

    def link_closed(self, link: Link) -> None:
        if self._links.get(link.name) is not link:
            return  # it was given up
        if (name := link.name) not in self._inbound:
            self._membership.lost(name)
        self.review()

    def strangers(self) -> frozenset[str]:
        """Peers that answer under a member's name and are not that member: their disks are others."""
        configuration = self._membership.configuration
        if configuration is None:
            return frozenset()  # nobody is known yet
        counts = self._membership.counts
        heard = {name: link.hello for name, link in self._links.items() if link.up and configuration.find(name)}
        return frozenset(
            name for name, hello in heard.items() if hello is not None and not counts(name, hello.incarnation)
        )

    def link_refused(self, name: str) -> None:
        self._on_refused(name)

    def link_distrusted(self, name: str, error: ssl.SSLError) -> None:
        host, port = self.address_of(name) or ("", 0)
        self._complaints.say(f"no connection to node {name} at {host}:{port}", error)

    def _accepted_nobody(self, error: ssl.SSLError) -> None:
        self._complaints.say("a connection to peer_listen is refused", error)

    def link_failed(self, error: BaseException) -> None:
        self._on_error(error)

    def review(self) -> None:
        """Tells raft which peers can be sent to and count; changes only."""
        for name, link in self._links.items():
            counts = link.up and link.hello is not None and self._membership.counts(name, link.hello.incarnation)
            if counts and name not in self._connected:
                self._connected.add(name)
                self._onNodeConnected(self.nodes[name])
            elif not counts and name in self._connected:
                self._connected.discard(name)
                self._onNodeDisconnected(self.nodes[name])
