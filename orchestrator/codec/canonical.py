"""The one way in which a struct becomes bytes: by position, trailing defaults left out.

Equal structs give equal bytes, and a struct that gained fields with defaults gives the bytes it gave before: so
nodes of two versions agree on the hash of what they hold, until a new field is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

_encoder = msgspec.msgpack.Encoder()


def canonical_encoder(kind: type[msgspec.Struct]) -> Callable[[Any], bytes]:
    """The function that encodes instances of `kind`; its tag, if it has one, comes first."""
    fields = msgspec.structs.fields(kind)
    defaults = [field.default for field in fields]
    required = sum(1 for field in fields if field.required)
    tag = kind.__struct_config__.tag
    head: tuple[Any, ...] = () if tag is None else (tag,)
    as_tuple = msgspec.structs.astuple
    encode = _encoder.encode

    def encode_struct(value: Any) -> bytes:
        values = as_tuple(value)
        count = len(values)
        while count > required and values[count - 1] == defaults[count - 1]:
            count -= 1
        return encode(head + values[:count])

    return encode_struct


def array_length(data: bytes, offset: int) -> int:
    """The number of elements of the msgpack array at `offset`; -1 if there is none."""
    first = data[offset] if len(data) > offset else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first == 0xDC:
        return int.from_bytes(data[offset + 1 : offset + 3], "big")
    return -1
