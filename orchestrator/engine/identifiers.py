"""Ids that every replica makes alike: sortable by log time, never used twice, not even after a restored backup.

26 characters of Crockford base 32: 48 bits of log time, 16 bits of partition, 64 bits of a keyed hash over the
cluster's id, its recovery epoch, the log index and an ordinal within the entry.
"""

from __future__ import annotations

from hashlib import blake2b

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ID_CHARS = 26
_TIME_CHARS = 10
_PARTITION = 0

_pairs = tuple(high + low for high in ALPHABET for low in ALPHABET)
_values = {letter: value for value, letter in enumerate(ALPHABET)}


class Identifiers:
    """Makes ids for one entry after the other."""

    def __init__(self, cluster_id: str, recovery_epoch: int) -> None:
        self._key = blake2b(f"{len(cluster_id)}:{cluster_id}{recovery_epoch}".encode(), digest_size=32).digest()
        self.index = 0  # of the entry being applied
        self._seed = b""
        self._prefix = ""
        self._ordinal = 0

    def begin(self, index: int, time_ms: int) -> None:
        """Everything made until the next call belongs to this entry."""
        self.index = index
        self._seed = index.to_bytes(8, "big")
        self._ordinal = 0
        self._prefix = "".join(_pairs[time_ms >> shift & 1023] for shift in (40, 30, 20, 10, 0))

    def make(self) -> str:
        self._ordinal += 1
        digest = blake2b(
            self._seed + self._ordinal.to_bytes(4, "big"), digest_size=8, key=self._key, person=b"id"
        ).digest()
        bits = _PARTITION << 64 | int.from_bytes(digest, "big")
        return self._prefix + "".join([_pairs[bits >> shift & 1023] for shift in (70, 60, 50, 40, 30, 20, 10, 0)])

    def key(self, *parts: str | int) -> str:
        """A stable name for `parts`: 32 hexadecimal digits."""
        return self._hash(b"key", parts, 16).hex()

    def number(self, below: int, *parts: str | int) -> int:
        """A number that looks random, the same for the same parts."""
        return int.from_bytes(self._hash(b"number", parts, 8), "big") % below

    def _hash(self, purpose: bytes, parts: tuple[str | int, ...], size: int) -> bytes:
        # The lengths keep ("ab", "c") and ("a", "bc") apart.
        text = "".join([f"{len(word)}:{word}" for word in map(str, parts)])
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size, key=self._key, person=purpose).digest()


def ulid_time_ms(text: str) -> int | None:
    """The time a ULID was made at; None if it is no ULID."""
    if len(text) != ID_CHARS or text[0] > "7":
        return None
    value = 0
    for position, letter in enumerate(text):
        digit = _values.get(letter)
        if digit is None:
            return None
        if position < _TIME_CHARS:
            value = value << 5 | digit
    return value
