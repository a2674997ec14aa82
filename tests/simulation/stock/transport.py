"""A transport of PySyncObj's over the simulated network: who dials whom, when again, and when a silent peer is given up
is as in its own one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node
from pysyncobj.pickle import dumps, loads
from pysyncobj.transport import Transport

from orchestrator.testing.network import SimulatedNetwork
from tests.simulation.stock.library import Place

PORT = 7500
# What it takes to pickle and send a message.
SEND_SECONDS = 0.0003
CONNECTION_TIMEOUT_SECONDS = 3.5


class PeerNode(Node):  # type: ignore[misc]  # the library has no types
    """Sets of nodes are iterated in the same order in every process."""

    def __hash__(self) -> int:
        return int(self.id[1:])


class Connection(asyncio.Protocol):
    """Each write of one side arrives as one piece at the other."""

    def __init__(self, owner: SimulatedTransport, node: Node | None) -> None:
        self._owner = owner
        # None until the other side has said who it is.
        self.node = node
        self.transport: asyncio.Transport | None = None
        self.heard_at = owner.place.now()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._owner.event(self._owner.made, self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._owner.place.now()
        self._owner.event(self._owner.received, self, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.event(self._owner.lost, self)


class SimulatedTransport(Transport):  # type: ignore[misc]  # as above
    """What happens on connections is told in the node's poll, as if sockets were asked there."""

    def __init__(
        self, place: Place, network: SimulatedNetwork, node: Node, others: list[Node], retry_seconds: float
    ) -> None:
        super().__init__(None, node, others)
        self.place = place
        self._network = network
        self._node = node
        self._others = {other.id: other for other in others}
        self._retry_seconds = retry_seconds
        self._connections: dict[Node, Connection] = {}
        self._dialled_at: dict[Node, float] = {}
        self._dialling: dict[Node, asyncio.Task[None]] = {}
        self._events: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        # Told of every message before it is handled, and after.
        self.before: Callable[[Node, Any], None] = lambda node, message: None
        self.after: Callable[[Node, Any], None] = lambda node, message: None
        network.listen(place.process, place.machine.name, PORT, lambda: Connection(self, None))

    # -- the library's side ----------------------------------------------------------------------------------------

    def send(self, node: Node, message: Any) -> bool:
        connection = self._connections.get(node)
        if connection is None or connection.transport is None:
            return False
        self.place.spent_seconds += SEND_SECONDS
        if self.place.now() - connection.heard_at > CONNECTION_TIMEOUT_SECONDS:
            self.lost(connection)
            return False
        connection.transport.write(dumps(message))
        return True

    def tick(self) -> None:
        now = self.place.now()
        for node in self._others.values():
            if node in self._connections or node in self._dialling or self._node.id < node.id:
                continue
            if now - self._dialled_at.get(node, -1e9) >= self._retry_seconds:
                self._dialled_at[node] = now
                self._dialling[node] = asyncio.get_running_loop().create_task(self._dial(node))

    async def _dial(self, node: Node) -> None:
        place = self.place
        connecting = self._network.connect(
            place.process, place.machine.name, (node.id, PORT), lambda: Connection(self, node)
        )
        try:
            await asyncio.wait_for(connecting, CONNECTION_TIMEOUT_SECONDS)
        except (OSError, TimeoutError):
            pass
        del self._dialling[node]

    # -- the network's side ----------------------------------------------------------------------------------------

    def event(self, handle: Callable[..., None], *args: Any) -> None:
        self._events.append((handle, args))
        self.place.wake()

    def poll(self) -> None:
        for _ in range(len(self._events)):
            handle, args = self._events.popleft()
            handle(*args)

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def made(self, connection: Connection) -> None:
        if connection.node is not None:
            assert connection.transport is not None
            connection.transport.write(dumps(self._node.id))
            self._stands(connection.node, connection)

    def received(self, connection: Connection, data: bytes) -> None:
        message = loads(data)
        if connection.node is None:
            connection.node = self._others[message]
            self._stands(connection.node, connection)
        elif self._connections.get(connection.node) is connection:
            self.before(connection.node, message)
            self._onMessageReceived(connection.node, message)
            self.after(connection.node, message)

    def lost(self, connection: Connection) -> None:
        if connection.transport is not None:
            connection.transport.abort()
        if connection.node is not None and self._connections.get(connection.node) is connection:
            del self._connections[connection.node]
            self._onNodeDisconnected(connection.node)

    def _stands(self, node: Node, connection: Connection) -> None:
        old = self._connections.pop(node, None)
        if old is not None and old.transport is not None:
            old.transport.abort()
            self._onNodeDisconnected(node)
        self._connections[node] = connection
        self._onNodeConnected(node)
