"""Rows and results as bytes for the chain hash and for remembering: by position, trailing defaults left out.

So nodes of two versions, one of which knows a field that nobody uses yet, agree.
"""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.engine.results import AnyResult

_encode = msgspec.msgpack.Encoder().encode
_astuple = msgspec.structs.astuple
_decode_result: msgspec.msgpack.Decoder[AnyResult] = msgspec.msgpack.Decoder(AnyResult)
_shapes: dict[type[Any], tuple[tuple[Any, ...], list[Any], int]] = {}


def _shape(kind: type[Any]) -> tuple[tuple[Any, ...], list[Any], int]:
    fields = msgspec.structs.fields(kind)
    tag = kind.__struct_config__.tag
    head = () if tag is None else (tag,)
    shape = _shapes[kind] = (head, [field.default for field in fields], sum(1 for field in fields if field.required))
    return shape


def encode_struct(value: msgspec.Struct) -> bytes:
    kind = type(value)
    head, defaults, required = _shapes.get(kind) or _shape(kind)
    values = _astuple(value)
    last = len(values) - 1
    while last >= required and values[last] == defaults[last]:
        last -= 1
    return _encode(head + values[: last + 1])


def encode_any(value: Any) -> bytes:
    return _encode(value)


def decode_result(data: bytes) -> AnyResult:
    return _decode_result.decode(data)
