"""Ids that every replica makes alike: sortable by log time, never used twice, not even after a restored backup.

26 characters of Crockford base 32: 48 bits of log time, 16 bits of partition, 64 bits of a keyed hash over the
cluster's id, its recovery epoch, the log index and an ordinal within the entry. One hash gives the bits of eight
ordinals.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ID_CHARS = 26
_TIME_CHARS = 10
_PARTITION: Final = 0
_HASH_BYTES: Final = 8  # of an id
_BLOCK_BYTES: Final = 64  # the most that the hash gives at once

_pairs: Final = tuple(high + low for high in ALPHABET for low in ALPHABET)
_values = {letter: value for value, letter in enumerate(ALPHABET)}


class Identifiers:
    """Makes ids for one entry after the other."""

    def __init__(self, cluster_id: str, recovery_epoch: int) -> None:
        self._key = blake2b(f"{len(cluster_id)}:{cluster_id}{recovery_epoch}".encode(), digest_size=32).digest()
        self.index = 0  # of the entry being applied
        self._seed = b""
        self._prefix = ""
        self._blocks = 0
        self._block = b""
        self._position = 0  # in the block, of the hash of the next id

    def begin(self, index: int, time_ms: int) -> None:
        """Everything made until the next call belongs to this entry."""
        self.index = index
        self._seed = index.to_bytes(8, "big")
        self._blocks = 0
        self._position = _BLOCK_BYTES
        self._prefix = "".join([_pairs[time_ms >> shift & 1023] for shift in (40, 30, 20, 10, 0)])

    def make(self) -> str:
        at = self._position
        if at == _BLOCK_BYTES:
            at = 0
            self._blocks += 1
            seed = self._seed + self._blocks.to_bytes(4, "big")
            self._block = blake2b(seed, digest_size=_BLOCK_BYTES, key=self._key, person=b"id").digest()
        self._position = at + _HASH_BYTES
        block, pairs = self._block, _pairs
        # Each half is as long as eight characters.
        high = _PARTITION << 24 | int.from_bytes(block[at : at + 3], "big")
        low = int.from_bytes(block[at + 3 : at + 8], "big")
        first = f"{pairs[high >> 30]}{pairs[high >> 20 & 1023]}{pairs[high >> 10 & 1023]}{pairs[high & 1023]}"
        last = f"{pairs[low >> 30]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
        return f"{self._prefix}{first}{last}"

    def number(self, below: int, *parts: str | int) -> int:
        """A number that looks random, the same for the same parts."""
        return int.from_bytes(self._hash(parts), "big") % below

    def _hash(self, parts: tuple[str | int, ...]) -> bytes:
        # The lengths keep ("ab", "c") and ("a", "bc") apart.
        text = "".join([f"{len(word)}:{word}" for word in map(str, parts)])
        encoded = text.encode("utf-8", "surrogatepass")
        return blake2b(encoded, digest_size=8, key=self._key, person=b"number").digest()


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
