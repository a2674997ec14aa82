"""How many connections the gRPC port has, and from where; of an address that has too many the newest are ended.

gRPC for Python tells of calls, never of connections, and knows one limit, of all together: what comes above it is
closed at once, and not counted. So this looks at the process' own sockets from time to time, as the kernel names them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

# A look costs some ten microseconds for each connection, in a thread.
LOOK_SECONDS = 2.0
_MAPPED = "::ffff:"  # an IPv4 address, to a socket that listens on both

Place = tuple[str, int]


class Connections:
    """To this port; 0 is no limit. `count` is how many there were at the last look; `on_cut` is told of each ended."""

    def __init__(self, port: int, per_address_max: int, on_cut: Callable[[], None] = lambda: None,
                 descriptors: Path = Path("/proc/self/fd")) -> None:
        self._port = port
        self._per_address_max = per_address_max
        self._on_cut = on_cut
        self._descriptors = descriptors
        # In the order in which they were seen first.
        self._seen: dict[Place, int] = {}
        self._complained: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._seen)

    async def run(self) -> None:
        """Looks from time to time, until it is cancelled."""
        if not self._descriptors.is_dir():
            logger.warning("connections are not counted: this system has no %s", self._descriptors)
            return
        while True:
            self.cut(await asyncio.to_thread(self.look))
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> dict[str, list[Place]]:
        """By address, those that are too many."""
        found = self._found()
        seen = {place: found[place] for place in self._seen if place in found}
        self._seen = seen | found
        if not self._per_address_max:
            return {}
        by_address: dict[str, list[Place]] = defaultdict(list)
        for place in self._seen:
            by_address[place[0]].append(place)
        return {address: places[self._per_address_max:] for address, places in by_address.items()
                if len(places) > self._per_address_max}

    def cut(self, too_many: dict[str, list[Place]]) -> None:
        """gRPC finds them closed, as if the client had done it."""
        for address, places in too_many.items():
            if address not in self._complained:
                logger.warning("connections are ended: %s has %d, and client_connections_max is %d",
                               address, self._per_address_max + len(places), self._per_address_max)
            for place in places:
                if self._shut(self._seen[place], place):
                    self._on_cut()
        self._complained = set(too_many)

    def _found(self) -> dict[Place, int]:
        """Whose connection is behind which descriptor."""
        found: dict[Place, int] = {}
        for entry in self._descriptors.iterdir():
            if (place := self._peer_of(descriptor := int(entry.name))) is not None:
                found[place] = descriptor
        return found

    def _peer_of(self, descriptor: int) -> Place | None:
        """None for what is no connection to this port, or nothing any more."""
        try:
            opened = _socket(descriptor)
        except OSError:
            return None
        try:
            own = opened.getsockname()
            # Those of other families, as of a pipe, are no pairs.
            if not isinstance(own, tuple) or own[1] != self._port:
                return None
            peer = opened.getpeername()
        except OSError:
            return None
        finally:
            opened.detach()  # it is gRPC's
        return peer[0].removeprefix(_MAPPED), peer[1]

    def _shut(self, descriptor: int, place: Place) -> bool:
        """Whether it was still there: another thread may have closed it, and opened something else."""
        try:
            own = os.dup(descriptor)
        except OSError:
            return False
        if self._peer_of(own) != place:
            os.close(own)
            return False
        with _socket(own) as duplicate, suppress(OSError):  # the client may be faster
            duplicate.shutdown(socket.SHUT_RDWR)
        return True


def _socket(descriptor: int) -> socket.socket:
    """OSError for what is none. Of whatever family: this one's addresses are the longest."""
    return socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
