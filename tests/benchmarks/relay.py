"""Carries the connections between nodes, each piece half a round trip late: what a network between machines costs.

The kernel can't always delay packets, so this is a process, and made to cost little: a buffer and a timer for each
direction, no tasks. It has a port in front of each node; opening a connection is not delayed, bytes are.

python -m tests.benchmarks.relay PARENT ONE_WAY_MS TARGET_PORT...    prints its ports, in the order of the targets
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections import deque

from orchestrator.cli.die_with_parent import die_with_parent

HOST = "127.0.0.1"
# What is due so soon goes at once: waking up again would take as long.
EARLY_S = 0.00005


class End(asyncio.Protocol):
    """One of the two ends of a connection: what comes in here goes out at the other, later."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        # None is the end of what comes in.
        self._pieces: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self.other: End | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # It can take now what waits for it.
        if self.other is not None:
            self.other.send_due()

    def data_received(self, data: bytes) -> None:
        self._put(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._ended:
            self._ended = True
            self._put(None)

    def pause_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other._transport is not None:
            self.other._transport.resume_reading()

    def refuse(self) -> None:
        """There is nobody at the other end."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def send_due(self) -> None:
        """Hands over what is old enough, and comes back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.other is None or not self.other.connected:
            return  # it will call
        now = self._loop.time()
        while self._pieces and self._pieces[0][0] <= now + EARLY_S:
            self.other.send(self._pieces.popleft()[1])
        if self._pieces:
            self._timer = self._loop.call_at(self._pieces[0][0], self.send_due)

    @property
    def connected(self) -> bool:
        """It is now, or it was."""
        return self._transport is not None or self._ended

    def send(self, data: bytes | None) -> None:
        if self._transport is None:
            return
        if data is None:
            self._transport.close()
        else:
            self._transport.write(data)

    def _put(self, data: bytes | None) -> None:
        self._pieces.append((self._loop.time() + self._delay_s, data))
        if self._timer is None:
            self._timer = self._loop.call_at(self._pieces[0][0], self.send_due)


class Relay:
    """A port in front of each target."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self, target_port: int) -> int:
        """Answers its own port."""
        def accept() -> End:
            near = End(self._delay_s)
            task = asyncio.get_running_loop().create_task(self._connect(near, target_port))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return near

        server = await asyncio.get_running_loop().create_server(accept, HOST, 0)
        return int(server.sockets[0].getsockname()[1])

    async def _connect(self, near: End, port: int) -> None:
        far = End(self._delay_s)
        near.other, far.other = far, near
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, HOST, port)
        except OSError:
            near.refuse()


async def main(one_way_ms: float, targets: list[int]) -> None:
    relay = Relay(one_way_ms / 1000)
    ports = [await relay.listen(port) for port in targets]
    print(*ports, flush=True)
    await asyncio.get_running_loop().create_future()


def precise_loop() -> asyncio.AbstractEventLoop:
    """Others wake up on whole milliseconds only."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(main(float(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
