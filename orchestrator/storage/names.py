"""Which executions the database may have, so that nobody has to look for one that it certainly has not.

Most workflow ids are new when they are started. A filter in memory says so: what it does not know is not there; of what
is not there it takes a few per cent for known. It is filled from the database in the background, some names at a time,
and anew when it is full; names that are staged meanwhile are added as they come.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import apsw

from orchestrator.engine.model import ExecutionKey
from orchestrator.storage.schema import corruption_named

NAMES_PER_PAGE = 500
NAMES_MIN = 100_000
_BITS_PER_NAME = 12
_PROBES = struct.Struct("<4I")


class Filter:
    """A Bloom filter; no bigger than 2^32 bits, for a probe has no more."""

    def __init__(self, capacity: int) -> None:
        self._mask = min((1 << (capacity * _BITS_PER_NAME - 1).bit_length()) - 1, 0xFFFF_FFFF)
        self._bits = bytearray((self._mask >> 3) + 1)

    def add(self, key: ExecutionKey) -> bool:
        """False if it was in it, or seemed to be."""
        bits, mask = self._bits, self._mask
        is_new = False
        for probe in _probes(key):
            byte, bit = (probe & mask) >> 3, 1 << (probe & 7)
            if not bits[byte] & bit:
                bits[byte] |= bit
                is_new = True
        return is_new

    def __contains__(self, key: ExecutionKey) -> bool:
        bits, mask = self._bits, self._mask
        for probe in _probes(key):  # noqa: SIM110 - a generator costs more than what it looks at
            if not bits[(probe & mask) >> 3] & 1 << (probe & 7):
                return False
        return True


class Names:
    """Used in the loop only. Until it is filled, anything may be there."""

    def __init__(self) -> None:
        # Set when it has to be filled.
        self.wanted = asyncio.Event()
        self.wanted.set()
        self._filter: Filter | None = None
        self._room = 0
        self._next: Filter | None = None

    def may_have(self, key: ExecutionKey) -> bool:
        """False is certain."""
        return self._filter is None or key in self._filter

    def add(self, keys: Sequence[ExecutionKey]) -> None:
        """Names that are on their way to the database."""
        if self._filter is not None:
            for key in keys:
                self._room -= self._filter.add(key)
            if self._room <= 0:
                self.wanted.set()
        if self._next is not None:
            for key in keys:
                self._next.add(key)

    def forget(self) -> None:
        """Another database is in the place of this one."""
        self._filter = self._next = None
        self.wanted.set()

    def begin(self, count: int, staged: Iterable[ExecutionKey]) -> Filter:
        """A filter to which everything must be added that the database has from now on."""
        self._room = max(count, NAMES_MIN)
        self._next = Filter(count + self._room)
        for key in staged:
            self._next.add(key)
        return self._next

    def is_filling(self, filling: Filter) -> bool:
        """It was not given up meanwhile."""
        return self._next is filling

    def filled(self) -> None:
        """All that the database had was added."""
        self._filter, self._next = self._next, None
        self.wanted.clear()


def read_names(connection: apsw.Connection, after: ExecutionKey) -> list[ExecutionKey]:
    """The next ones in their order; empty at the end."""
    with corruption_named():
        return list(
            connection.execute(
                "SELECT namespace, workflow_id FROM execution WHERE (namespace, workflow_id) > (?, ?) "
                "ORDER BY namespace, workflow_id LIMIT ?",
                (*after, NAMES_PER_PAGE),
            )
        )


def count_names(connection: apsw.Connection) -> int:
    """How many there are."""
    with corruption_named():
        return int(connection.execute("SELECT count(*) FROM execution").get)


def _probes(key: ExecutionKey) -> tuple[int, ...]:
    # No namespace has the character that divides them.
    name = f"{key[0]}\0{key[1]}".encode("utf-8", "surrogatepass")
    return _PROBES.unpack(blake2b(name, digest_size=16).digest())
