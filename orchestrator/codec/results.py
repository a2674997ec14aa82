"""Results to bytes and back: what is remembered for a repeated request, and what the chain hash is made of."""

from __future__ import annotations

import msgspec

from orchestrator.codec.errors import ResultCorrupt
from orchestrator.engine.encoding import encode_struct
from orchestrator.engine.results import AnyResult, Result

_decoder: msgspec.msgpack.Decoder[AnyResult] = msgspec.msgpack.Decoder(AnyResult)


def encode_result(result: Result) -> bytes:
    return encode_struct(result)


def decode_result(data: bytes) -> AnyResult:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ResultCorrupt(f"not a result: {error}") from error
