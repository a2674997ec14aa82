"""The network between nodes and Redis: one port, which can be closed, or hold back what comes until it heals."""

from __future__ import annotations

import asyncio
from enum import Enum

HOST = "127.0.0.1"


class State(Enum):
    OPEN = "open"
    # Connections end, and so do those that come.
    CUT = "cut"
    # Nothing arrives, nobody is told. Connections are taken up as the kernel does it.
    HELD = "held"


class _End(asyncio.Protocol):
    """One of the two ends of a connection."""

    def __init__(self, gate: Gate, near: _End | None = None) -> None:
        self._gate = gate
        self.is_near = near is None
        self.other = near
        self.transport: asyncio.Transport | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._gate.made(self)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None and self.other.transport is not None
        self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._gate.lost(self)
        if self.other is not None and self.other.transport is not None:
            # After what is still to be written to it.
            self.other.transport.close()


class Gate:
    """In front of `target_port`; open at first."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._state = State.OPEN
        self._ends: set[_End] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.port}"

    async def listen(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(lambda: _End(self), HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def cut(self) -> None:
        self._state = State.CUT
        self._abort()

    def hold(self) -> None:
        """What is under way stays so, in both directions, until the gate opens again."""
        self._state = State.HELD
        for end in self._ends:
            _of(end).pause_reading()

    def heal(self, *, late: bool = True) -> None:
        """`late`: what was held back arrives now, also from those who have given up meanwhile, or died."""
        self._state = State.OPEN
        if not late:
            self._abort()
        for end in list(self._ends):
            if end.other is not None:
                _of(end).resume_reading()
            elif end.is_near:
                self._connect(end)

    # --- what the ends tell

    def made(self, end: _End) -> None:
        if self._state is State.CUT:
            _of(end).abort()
            return
        self._ends.add(end)
        if end.is_near:
            _of(end).pause_reading()
            if self._state is State.OPEN:
                self._connect(end)
        elif self._state is State.HELD:
            _of(end).pause_reading()

    def lost(self, end: _End) -> None:
        self._ends.discard(end)

    # --- inside

    def _connect(self, near: _End) -> None:
        task = asyncio.get_running_loop().create_task(self._connected(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self, near: _End) -> None:
        far = _End(self, near)
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, HOST, self._target_port)
        except OSError:
            _of(near).abort()
            return
        near.other = far
        if near.is_lost or far.is_lost:
            _of(near).abort()
            _of(far).abort()
        elif self._state is State.OPEN:
            _of(near).resume_reading()

    def _abort(self) -> None:
        for end in list(self._ends):
            _of(end).abort()


def _of(end: _End) -> asyncio.Transport:
    assert end.transport is not None
    return end.transport
