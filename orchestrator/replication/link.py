"""One connection: the one this node dialled and speaks on (`Link`), or one it accepted and listens to (`Inbound`)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from typing import Protocol

from orchestrator.replication.frames import HELLO_BYTES_MAX, AnyMessage, BadFrame, FrameReader, Hello, encode_frame
from orchestrator.replication.identity import Identity
from orchestrator.replication.ports import Clock, Network
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.tls import certificate_of
from orchestrator.tls.certificate import Certificate

# Why a peer was refused that is of another epoch: it is told which one is in force.
EPOCH = "epoch"


class Owner(Protocol):
    """What a connection tells, and asks, the transport."""

    identity: Identity
    settings: RaftSettings
    network: Network
    clock: Clock
    counters: Counter[str]
    client_tls: ssl.SSLContext | None

    def hello(self) -> Hello: ...
    def jitter(self) -> float: ...
    def address_of(self, name: str) -> tuple[str, int] | None: ...
    def admit(self, hello: Hello, expected: str | None, certificate: Certificate | None) -> str | None: ...
    def inbound_opened(self, inbound: Inbound) -> None: ...
    def inbound_named(self, inbound: Inbound, hello: Hello) -> None: ...
    def inbound_closed(self, inbound: Inbound) -> None: ...
    def received(self, inbound: Inbound, message: AnyMessage) -> None: ...
    def link_opened(self, link: Link, hello: Hello) -> None: ...
    def link_closed(self, link: Link) -> None: ...
    def link_refused(self, name: str) -> None: ...
    def link_distrusted(self, name: str, error: ssl.SSLError) -> None: ...
    def link_failed(self, error: BaseException) -> None: ...


class Connection(asyncio.Protocol):
    """Reads frames, the first of which must be a Hello within the handshake's time."""

    def __init__(self, owner: Owner, expected: str | None) -> None:
        self.owner = owner
        self.hello: Hello | None = None
        self.transport: asyncio.Transport | None = None
        self._expected = expected
        self._reader = FrameReader(HELLO_BYTES_MAX)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are asyncio's only by shape
        timeout = self.owner.settings.handshake_timeout_ms / 1000
        self._deadline = asyncio.get_running_loop().call_later(timeout, self._handshake_expired)

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except Exception as error:  # noqa: BLE001 - an invariant does not hold; asyncio would only close the connection
            self.owner.link_failed(error)

    def _take(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except BadFrame as error:
            self.fail(error.reason)
            return
        for message in messages:
            if self.transport is None or self.transport.is_closing():
                return
            if self.hello is None:
                if not isinstance(message, Hello):
                    self.fail("malformed")
                    return
                shown = certificate_of(self.transport) if self.owner.client_tls is not None else None
                if (reason := self.owner.admit(message, self._expected, shown)) is not None:
                    self.refuse(reason)
                    return
                self.hello = message
                self._reader.limit_bytes = self.owner.settings.frame_bytes_max
                self._cancel_deadline()
                self.shook_hands(message)
            else:
                self.message_received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self.transport = None
        try:
            self.closed()
        except Exception as error:  # noqa: BLE001 - as above
            self.owner.link_failed(error)

    def fail(self, reason: str) -> None:
        self.owner.counters[reason] += 1
        self.abort()

    def refuse(self, reason: str) -> None:
        """The peer's hello is not that of one that may stay."""
        self.fail(reason)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def write(self, frame: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame)

    def _handshake_expired(self) -> None:
        if self.hello is None:
            self.fail("handshake_timeout")

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def shook_hands(self, hello: Hello) -> None:
        raise NotImplementedError

    def message_received(self, message: AnyMessage) -> None:
        raise NotImplementedError

    def closed(self) -> None:
        raise NotImplementedError


class Inbound(Connection):
    def __init__(self, owner: Owner) -> None:
        super().__init__(owner, None)

    @property
    def name(self) -> str | None:
        return self.hello.node if self.hello is not None else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.owner.inbound_opened(self)

    def shook_hands(self, hello: Hello) -> None:
        # Heard first: then the answer tells of a configuration taken over from this very hello.
        self.owner.inbound_named(self, hello)
        self.write(encode_frame(self.owner.hello()))

    def refuse(self, reason: str) -> None:
        if reason != EPOCH or self.transport is None:
            self.fail(reason)
            return
        self.owner.counters[reason] += 1
        self.write(encode_frame(self.owner.hello()))
        self.transport.close()

    def message_received(self, message: AnyMessage) -> None:
        self.owner.received(self, message)

    def closed(self) -> None:
        self.owner.inbound_closed(self)


class Outbound(Connection):
    """The dialled side of a `Link`; after the handshake the peer has nothing to say here."""

    def __init__(self, owner: Owner, link: Link) -> None:
        super().__init__(owner, link.name)
        self._link = link
        self._said: Hello | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _give_up_after(self.owner.settings.silence_limit_ms, transport)
        self._said = self.owner.hello()
        self.write(encode_frame(self._said))

    def shook_hands(self, hello: Hello) -> None:
        self._link.opened(self, hello)
        # While hands were shaken this link was not up, and so passed over when this node's standing was announced.
        if (current := self.owner.hello()) != self._said:
            self.write(encode_frame(current))

    def message_received(self, message: AnyMessage) -> None:
        self.fail("malformed")

    def closed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _give_up_after(limit_ms: int, transport: asyncio.BaseTransport) -> None:
    """Ends the connection when the peer's machine has taken nothing for so long of what is to be sent.

    Whoever is heard is not silent, and need not hear. Left alone TCP tries for minutes, at ever longer intervals, also
    when the peer has hung up long ago; meanwhile it is neither dialled anew nor counted as away.
    """
    kernel_side = transport.get_extra_info("socket")
    if kernel_side is not None and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        kernel_side.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)


class Link:
    """Keeps one connection to a peer up, redialling with a short, jittered back-off."""

    def __init__(self, owner: Owner, name: str) -> None:
        self.name = name
        self._owner = owner
        self._connection: Outbound | None = None
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        # Where the connection that is up, or being made, leads.
        self.dialled: tuple[str, int] | None = None
        # `wait_for` may swallow a cancellation that comes together with what it waits for.
        self._given_up = False

    @property
    def up(self) -> bool:
        return self._connection is not None

    @property
    def hello(self) -> Hello | None:
        return self._connection.hello if self._connection is not None else None

    @property
    def ended(self) -> bool:
        return self._task is None or self._task.done()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"link to {self.name}")
        self._task.add_done_callback(self._ended)

    def abort(self) -> None:
        self._given_up = True
        if self._task is not None:
            self._task.cancel()
        self.drop()

    async def join(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # A link that silently stays down would look like a dead peer for ever.
            self._owner.link_failed(error)

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def hurry(self) -> None:
        """The peer has just dialled us, so it is there: do not wait for the back-off."""
        self._hurry.set()

    def write(self, frame: bytes) -> bool:
        connection = self._connection
        if connection is None or connection.transport is None or connection.transport.is_closing():
            return False
        if connection.transport.get_write_buffer_size() + len(frame) > self._owner.settings.outgoing_buffer_bytes_max:
            # Raft sends again what is lost with the connection; a buffer that only grows would be worse.
            connection.fail("overflow")
            return False
        connection.write(frame)
        return True

    def opened(self, connection: Outbound, hello: Hello) -> None:
        self._connection = connection
        self._owner.link_opened(self, hello)

    async def _run(self) -> None:
        settings = self._owner.settings
        delay_ms: float = settings.redial_min_ms
        while not self._given_up:
            if await self._dial():
                # At once: whether that is refused tells a dead process from a lost connection.
                delay_ms = settings.redial_min_ms
                await self._dial()
            self._hurry.clear()
            pause = delay_ms * (0.5 + self._owner.jitter()) / 1000
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), pause)
            delay_ms = min(delay_ms * 2, settings.redial_max_ms)

    async def _dial(self) -> bool:
        """One connection from dialling to its end; whether it ever was up."""
        self.dialled = self._owner.address_of(self.name)
        if self.dialled is None:
            return False
        host, port = self.dialled
        connections: list[Outbound] = []

        def make() -> Outbound:
            connections.append(Outbound(self._owner, self))
            return connections[-1]

        try:
            async with asyncio.timeout(self._owner.settings.handshake_timeout_ms / 1000):
                await self._owner.network.dial(host, port, make, self._owner.client_tls)
        except ConnectionRefusedError:
            self._owner.link_refused(self.name)
            return False
        except ssl.SSLError as error:
            self._owner.link_distrusted(self.name, error)
            return False
        except (OSError, TimeoutError, UnicodeError):  # the last from a name that cannot be looked up
            return False
        connection = connections[-1]
        try:
            await connection.done
        finally:
            connection.abort()
            was_up = self._connection is connection
            self._connection = None
            if was_up:
                self._owner.link_closed(self)
        return was_up
