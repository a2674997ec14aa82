"""Results to bytes and back: what is remembered for a repeated request, and what the chain hash is made of."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.codec.canonical import canonical_encoder
from orchestrator.codec.errors import ResultCorrupt
from orchestrator.engine.results import AnyResult, Result

_encoders: dict[type[Any], Any] = {kind: canonical_encoder(kind) for kind in Result.__subclasses__()}
_decoder: msgspec.msgpack.Decoder[AnyResult] = msgspec.msgpack.Decoder(AnyResult)


def encode_result(result: Result) -> bytes:
    encoded: bytes = _encoders[type(result)](result)
    return encoded


def decode_result(data: bytes) -> AnyResult:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ResultCorrupt(f"not a result: {error}") from error
