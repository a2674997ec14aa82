"""A network between machines: connections keep their bytes in order, and everything else may happen to them.

As with TCP, what is sent into a blocked direction is held and arrives after it was opened again; who sends to a
connection that the other side does not know any more is reset; and the end of a process is told at once, that of a
machine is not.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.testing.loop import Process, VirtualLoop

Direction = tuple[str, str]
"""From machine, to machine."""

_SYN_AGAIN_SECONDS = 0.5
_RESEND_SECONDS_MAX = 0.3


class Endpoint(asyncio.Transport):
    """One side of a connection."""

    def __init__(self, network: SimulatedNetwork, process: Process, here: str, there: str, latency: float) -> None:
        super().__init__()
        self._network = network
        self._process = process
        self.direction: Direction = (here, there)
        self.there = there
        self._latency = latency
        self.peer: Endpoint = self
        self._protocol: asyncio.Protocol | None = None
        self.closed = False
        # What was sent and has not arrived: bytes, or None for the end.
        self._on_its_way: deque[tuple[float, bytes | None]] = deque()
        self._buffered = 0
        self._timer: asyncio.TimerHandle | None = None

    # -- asyncio's side --------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if not self.closed and self._process.alive:
            self._buffered += len(data)
            self._send(bytes(data))

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.there, 0) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def _end(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._send(None)
            self._call(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error)

    # -- the network's side ----------------------------------------------------------------------------------------

    @property
    def process(self) -> Process:
        return self._process

    def cut(self, *, silent: bool, lost: float = 0.0) -> None:
        """The process or machine is gone, or the connection broke, and with it a share of what was on its way."""
        if not self.closed:
            self.closed = True
            for _ in range(int(lost * len(self._on_its_way) + 0.5)):
                self._on_its_way.pop()
            if not silent:
                self._send(None)
            else:
                self._on_its_way.clear()
            if self._process.alive:
                self._call(self._lost, ConnectionResetError("the connection broke"))

    def forget(self) -> None:
        """Nobody is at the other side, nor at this one."""
        self.peer, self._protocol = self, None

    def pump(self) -> None:
        """The first of what is on its way arrives now, unless nothing passes."""
        self._timer = None
        if not self._on_its_way:
            return
        network = self._network
        if not network.passes(self.direction):
            network.stalled.append(self)
            return
        _, data = self._on_its_way.popleft()
        if self._on_its_way:
            self._timer = network.loop.schedule(self._on_its_way[0][0], self.pump)
        self._arrive(data)

    def hurry(self, at: float) -> None:
        """Sent again: the first of what is held arrives then."""
        if self._on_its_way and self._timer is None:
            self._timer = self._network.loop.schedule(at, self.pump)

    def _arrive(self, data: bytes | None) -> None:
        peer = self.peer
        if data is not None:
            self._buffered -= len(data)
        if peer.closed:
            if data is not None:
                # Nobody is there any more: the answer is a reset, which travels like everything else.
                peer._send(None)
        elif data is None:
            peer.closed = True
            peer._call(peer._lost, None)
        else:
            self._network.loop.deliver(peer._process, peer._feed, data)

    def _feed(self, data: bytes) -> None:
        if self._protocol is not None and not self.closed:
            self._protocol.data_received(data)

    def _send(self, data: bytes | None) -> None:
        network = self._network
        at = network.loop.now + network.delay(self.direction, self._latency)
        on_its_way = self._on_its_way
        if on_its_way:
            at = max(at, on_its_way[-1][0])
        on_its_way.append((at, data))
        if self._timer is None and len(on_its_way) == 1:
            self._timer = network.loop.schedule(at, self.pump)

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        self._network.loop.call_soon(callback, *args, context=self._process.context)


class Listener(asyncio.AbstractServer):
    """Accepts connections until it is closed."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._network.loop

    def is_serving(self) -> bool:
        return self._network.listeners.get(self._place) is self

    async def start_serving(self) -> None:
        """It serves from the beginning."""

    async def serve_forever(self) -> None:
        raise NotImplementedError("nobody asks for it")

    def __init__(self, network: SimulatedNetwork, place: tuple[str, int], process: Process) -> None:
        self._network = network
        self._place = place
        self.process = process
        self.factory: Callable[[], asyncio.Protocol] = asyncio.Protocol

    def close(self) -> None:
        if self._network.listeners.get(self._place) is self:
            del self._network.listeners[self._place]

    async def wait_closed(self) -> None:
        return


class SimulatedNetwork:
    """All machines, the directions between them, and the connections that are open."""

    def __init__(self, loop: VirtualLoop, dice: random.Random, latency_seconds: tuple[float, float]) -> None:
        self.loop = loop
        self._dice = dice
        self._latency_seconds = latency_seconds
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.stalled: list[Endpoint] = []
        self._endpoints: list[Endpoint] = []
        # How often a direction is blocked, and by how much it is slower; without those that are not.
        self._blocked: Counter[Direction] = Counter()
        self._slow_ms: Counter[Direction] = Counter()
        self._down: dict[str, None] = {}

    # -- faults ----------------------------------------------------------------------------------------------------

    def block(self, directions: Iterable[Direction]) -> None:
        """Nothing passes in these directions until they are unblocked as often."""
        for direction in directions:
            self._blocked[direction] += 1

    def unblock(self, directions: Iterable[Direction]) -> None:
        for direction in directions:
            self._blocked[direction] -= 1
        self._blocked = +self._blocked
        self._release()

    def slow_down(self, directions: Iterable[Direction], by_ms: int) -> None:
        """What is sent takes up to so much longer; and less again with a negative number."""
        for direction in directions:
            self._slow_ms[direction] += by_ms
        self._slow_ms = +self._slow_ms

    def heal(self) -> None:
        """All directions are open and as fast as ever."""
        self._blocked.clear()
        self._slow_ms.clear()
        self._release()

    def lose_connections(self, chance: float, dice: random.Random) -> None:
        """Some of all connections break, and both sides are told; of what was on its way some arrives."""
        for endpoint in self._open_endpoints():
            if not endpoint.closed and not endpoint.peer.closed and dice.random() < chance / 2:
                endpoint.cut(silent=False, lost=dice.random())

    def process_ended(self, process: Process, *, silent: bool, lost: float = 0.0) -> None:
        """Its connections end; the other sides are told unless the machine went with it.

        `lost` is the share of what it had sent, and is on its way, that goes with it.
        """
        for place in [place for place, listener in self.listeners.items() if listener.process is process]:
            del self.listeners[place]
        for endpoint in self._open_endpoints():
            if endpoint.process is process:
                endpoint.cut(silent=silent, lost=lost)

    def set_up(self, machine: str, *, up: bool) -> None:
        if up:
            self._down.pop(machine, None)
            self._release()
        else:
            self._down[machine] = None

    def forget(self) -> None:
        """At the very end: whoever still holds one side of a connection does not hold the other by it."""
        for endpoint in self._endpoints:
            endpoint.forget()
        self._endpoints.clear()
        self.stalled.clear()
        self.listeners.clear()

    # -- what connections ask --------------------------------------------------------------------------------------

    def passes(self, direction: Direction) -> bool:
        return direction not in self._blocked and direction[1] not in self._down

    def delay(self, direction: Direction, base: float) -> float:
        dice = self._dice
        delay = base * (1 + dice.random())
        slow_ms = self._slow_ms
        return delay + slow_ms[direction] / 1000 * dice.random() if direction in slow_ms else delay

    def _release(self) -> None:
        stalled, self.stalled = self.stalled, []
        for endpoint in stalled:
            endpoint.hurry(self.loop.now + self._dice.random() * _RESEND_SECONDS_MAX)

    def _open_endpoints(self) -> list[Endpoint]:
        self._endpoints = [endpoint for endpoint in self._endpoints if not endpoint.closed]
        return list(self._endpoints)

    # -- connecting ------------------------------------------------------------------------------------------------

    def listen(self, process: Process, machine: str, port: int, factory: Callable[[], asyncio.Protocol]) -> Listener:
        place = (machine, port)
        if place in self.listeners:
            raise OSError(98, f"port {port} is taken")
        listener = self.listeners[place] = Listener(self, place, process)
        listener.factory = factory
        return listener

    async def connect(
        self, process: Process, here: str, place: tuple[str, int], factory: Callable[[], asyncio.Protocol]
    ) -> asyncio.Protocol:
        """Waits while nothing passes; raises ConnectionRefusedError where nobody listens."""
        there = place[0]
        low, high = self._latency_seconds
        latency = self._dice.uniform(low, high)
        way, back = (here, there), (there, here)
        await asyncio.sleep(self.delay(way, latency))
        while not self.passes(way) or back in self._blocked:  # noqa: ASYNC110 - as packets do
            await asyncio.sleep(_SYN_AGAIN_SECONDS * (0.5 + self._dice.random()))
        listener = self.listeners.get(place)
        if listener is None or not listener.process.alive:
            await asyncio.sleep(self.delay(back, latency))
            raise ConnectionRefusedError(111, f"nobody listens on {there}:{place[1]}")
        near = Endpoint(self, process, here, there, latency)
        far = Endpoint(self, listener.process, there, here, latency)
        near.peer, far.peer = far, near
        self._endpoints += (near, far)
        self.loop.call_soon(self._accept, listener, far, context=listener.process.context)
        protocol = factory()
        near.set_protocol(protocol)
        protocol.connection_made(near)
        return protocol

    def _accept(self, listener: Listener, far: Endpoint) -> None:
        if far.closed:
            return
        protocol = listener.factory()
        far.set_protocol(protocol)
        protocol.connection_made(far)


class NodeNetwork:
    """The network as one process sees it: what the replicated log is given."""

    def __init__(self, network: SimulatedNetwork, process: Process, machine: str) -> None:
        self._network = network
        self._process = process
        self._machine = machine

    async def listen(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> asyncio.AbstractServer:
        return self._network.listen(self._process, self._machine, port, factory)

    async def dial(
        self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None
    ) -> None:
        await self._network.connect(self._process, self._machine, (host, port), factory)
