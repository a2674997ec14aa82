"""Values that are kept outside the log: in their place stands a marker, `{"$blob":{"store":S,"sha256":HEX,"size":N}}`.

Exactly these bytes are a marker, without white space or escapes, and nothing else is: not an object with more keys, nor
one whose key is spelled `"\\u0024blob"`. So it is found in the text, never by decoding: those quotes are not inside of
any string. Who takes payloads in refuses each that ``has_reserved_key``; so no text of others is, or becomes, a marker
by being handed on as it is.

What is taken out has no markers in it: all references of a payload stand in the payload.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from orchestrator.engine.expressions import assemble_object, fields_of

KEY: Final = "$blob"
TAKEN_MAX: Final = 256  # values of one payload
# A marker has about 150 bytes, and each value costs a call of the store.
WORTH_BYTES: Final = 1024
STORE_CHARS: Final = 64

# How deep a value may be that is taken out alone; below the top level each level is one more pass over its text.
_LEVELS: Final = 4
# An object with more is no record of which a part may be missed.
_FIELDS: Final = 1000

_MARK: Final = b'"$blob"'
_MARKER: Final = re.compile(
    rb'\{"\$blob":\{"store":"([A-Za-z0-9._-]{1,64})","sha256":"([0-9a-f]{64})","size":(0|[1-9][0-9]{0,14})\}\}'
)
_STORE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Each character may be escaped. A quote behind a backslash is inside of a string, whose end is not the end of this key.
_RESERVED: Final = re.compile(
    rb'(?<!\\)"(?:\$|\\u0024)(?:b|\\u0062)(?:l|\\u006[cC])(?:o|\\u006[fF])(?:b|\\u0062)"[ \t\r\n]*:'
)


class BlobRef(msgspec.Struct, frozen=True, order=True):
    """A value's text in a store, by what it is: sha256 in lower-case hexadecimal digits, size in bytes."""

    store: str
    sha256: str
    size: int


class ContentNotGiven(KeyError):
    """A payload refers to a value that is not among the contents."""

    def __init__(self, ref: BlobRef) -> None:
        super().__init__(ref.sha256)
        self.ref = ref

    def __str__(self) -> str:
        return f"the payload refers to {self.ref.sha256} in the store {self.ref.store!r}, which was not given"


class NothingToTakeOut(Exception):
    """A payload is too large, and no few values of it are what makes it so."""


def is_store_id(text: str) -> bool:
    """Whether a store can be called that: 1 to 64 letters, digits, dots, dashes and underscores."""
    return _STORE.fullmatch(text) is not None


def ref_to(store: str, content: bytes) -> BlobRef:
    return BlobRef(store, hashlib.sha256(content).hexdigest(), len(content))


def marker_of(ref: BlobRef) -> bytes:
    """What stands in the place of the value."""
    text = f'{{"$blob":{{"store":"{ref.store}","sha256":"{ref.sha256}","size":{ref.size}}}}}'
    return text.encode("ascii")


def marked(value: bytes) -> BlobRef | None:
    """What the value refers to, if all of it is a marker."""
    if not value.startswith(b'{"$blob"'):
        return None
    match = _MARKER.fullmatch(value)
    return None if match is None else _ref(match)


def references_in(payload: bytes) -> tuple[BlobRef, ...]:
    """What the markers in a JSON text refer to: sorted, each once."""
    if _MARK not in payload:
        return ()
    return tuple(sorted({_ref(match) for match in _MARKER.finditer(payload)}))


def has_reserved_key(payload: bytes) -> bool:
    """Whether any object in a JSON text has the key `$blob`, however it is spelled; also one that a later key hides."""
    if b"$blob" not in payload and b"\\u00" not in payload:
        return False
    return _RESERVED.search(payload) is not None


def has_forged_marker(payload: bytes) -> bool:
    """Whether an object has the key `$blob` and is no marker: one that a marker was merged with, say."""
    return has_reserved_key(payload) and _RESERVED.search(_MARKER.sub(b"0", payload)) is not None


def internalised_bytes(payload: bytes) -> int:
    """How long the text is with all values in it. A value counts as often as it is referred to."""
    size = len(payload)
    if _MARK in payload:
        for match in _MARKER.finditer(payload):
            size += int(match[3]) - len(match[0])
    return size


def internalise(payload: bytes, contents: Mapping[BlobRef, bytes]) -> bytes:
    """The text with each marker replaced by the value's own text. Raises ContentNotGiven.

    One pass: what looks like a marker in a value stays as it is. Of the size `internalised_bytes` says, which may be
    many times that of the contents.
    """
    if _MARK not in payload:
        return payload
    parts = []
    position = 0
    for match in _MARKER.finditer(payload):
        ref = _ref(match)
        content = contents.get(ref)
        if content is None:
            raise ContentNotGiven(ref)
        parts += [payload[position : match.start()], content]
        position = match.end()
    parts.append(payload[position:])
    return b"".join(parts)


def externalise(payload: bytes, store: str, inline_max: int) -> tuple[bytes, dict[BlobRef, bytes]]:
    """An object of at most `inline_max` bytes, and the values that were taken out of it.

    The payload has no reserved keys but those of markers. The largest values of the object go first, each as a whole;
    but of an object most of which is one of its values, that one. So `{"response": {"statusCode": 200, "body": ...}}`
    keeps its `statusCode`. Keys stay, and values that have markers in them. Raises NothingToTakeOut if that is not
    enough, ValueError if no store can be called that.
    """
    if not is_store_id(store):
        raise ValueError(f"{store!r} is no name of a store: 1 to {STORE_CHARS} letters, digits, '.', '-' and '_'")
    if len(payload) <= inline_max:
        return payload, {}
    fields = fields_of(payload)
    if sum(len(text) for text in fields.values() if len(text) < WORTH_BYTES) <= inline_max:
        # Where parts of values are not enough, whole ones may be.
        for levels in (_LEVELS, 1):
            cut = _Cut(fields, store, levels)
            if cut.shrink(inline_max):
                return cut.root.assembled(), cut.taken
    raise NothingToTakeOut(
        f"of its {len(payload)} bytes more than {inline_max} would be left without the {TAKEN_MAX} largest values of"
        f" at least {WORTH_BYTES} bytes: put many small values into one field"
    )


def _ref(match: re.Match[bytes]) -> BlobRef:
    return BlobRef(match[1].decode("ascii"), match[2].decode("ascii"), int(match[3]))


class _Part:
    """A value of the payload; with `fields` once it is opened."""

    __slots__ = ("fields", "level", "text")

    def __init__(self, text: bytes, level: int) -> None:
        self.text = text
        self.level = level
        self.fields: list[tuple[str, _Part]] = []

    def open(self, fields: Mapping[str, bytes]) -> None:
        self.fields = [(key, _Part(text, self.level + 1)) for key, text in fields.items()]

    def assembled(self) -> bytes:
        if not self.fields:
            return self.text
        return assemble_object([(key, part.assembled()) for key, part in self.fields])


class _Cut:
    """Takes values out of a payload that go no deeper than `levels`; those of the object itself are at level 1."""

    def __init__(self, fields: Mapping[str, bytes], store: str, levels: int) -> None:
        self.taken: dict[BlobRef, bytes] = {}
        self.root = _Part(b"{}", 0)
        self.root.open(fields)
        self._store = store
        self._levels = levels
        # The largest first; of two alike the first.
        self._parts: list[tuple[int, int, _Part]] = []
        self._number = 0

    def shrink(self, inline_max: int) -> bool:
        """Whether what is left is as small as that."""
        self._add(self.root)
        size = len(self.root.assembled())
        count = 0
        while size > inline_max and self._parts:
            part = heapq.heappop(self._parts)[2]
            before = len(part.text)
            if before < WORTH_BYTES or count == TAKEN_MAX:
                return False
            if part.level < self._levels and _open_if_mostly_one(part):
                self._add(part)
                size -= before - len(part.assembled())
            elif not references_in(part.text):
                ref = ref_to(self._store, part.text)
                self.taken[ref] = part.text
                part.text = marker_of(ref)
                size -= before - len(part.text)
                count += 1
        return size <= inline_max

    def _add(self, owner: _Part) -> None:
        for _, part in owner.fields:
            heapq.heappush(self._parts, (-len(part.text), self._number, part))
            self._number += 1


def _open_if_mostly_one(part: _Part) -> bool:
    """Whether it was an object at least half of which is one of its values."""
    if not part.text.startswith(b"{"):
        return False
    fields = fields_of(part.text)
    is_mostly_one = 0 < len(fields) <= _FIELDS and 2 * max(map(len, fields.values())) >= len(part.text)
    if is_mostly_one:
        part.open(fields)
    return is_mostly_one
