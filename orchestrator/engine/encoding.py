"""Rows and results as bytes for the chain hash and for remembering: by position, trailing defaults left out.

So nodes of two versions, one of which knows a field that nobody uses yet, agree.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from orchestrator.engine.results import AnyResult

_encode: Final = msgspec.msgpack.Encoder().encode
_astuple: Final = msgspec.structs.astuple
_decode_result: msgspec.msgpack.Decoder[AnyResult] = msgspec.msgpack.Decoder(AnyResult)
_CHUNK: Final = 8


class _Shape:
    """How the structs of one type are encoded."""

    __slots__ = ("chunks", "defaults", "head", "required")

    def __init__(self, kind: type[Any]) -> None:
        fields = msgspec.structs.fields(kind)
        tag = kind.__struct_config__.tag
        self.head: tuple[Any, ...] = () if tag is None else (tag,)
        self.defaults = tuple(field.default for field in fields)
        self.required = sum(1 for field in fields if field.required)
        # The defaults from the end on, so many at a time: mostly many of them are left out.
        ends = range(len(fields), self.required + _CHUNK - 1, -_CHUNK)
        self.chunks = [self.defaults[end - _CHUNK : end] for end in ends]


_shapes: Final[dict[type[Any], _Shape]] = {}


def encode_struct(value: msgspec.Struct) -> bytes:
    kind = type(value)
    shape = _shapes.get(kind)
    if shape is None:
        shape = _shapes[kind] = _Shape(kind)
    values = _astuple(value)
    end = len(values)
    for chunk in shape.chunks:
        if values[end - _CHUNK : end] != chunk:
            break
        end -= _CHUNK
    defaults, required = shape.defaults, shape.required
    while end > required and values[end - 1] == defaults[end - 1]:
        end -= 1
    return _encode(shape.head + values[:end])


def encode_any(value: Any) -> bytes:
    return _encode(value)


def decode_result(data: bytes) -> AnyResult:
    return _decode_result.decode(data)
