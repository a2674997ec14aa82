"""The program of an evaluator process: it answers requests from the socket that is its standard input, one by one.

It has no other way out, and keeps nothing of one evaluation for the next but compiled queries and schemas.
"""

from __future__ import annotations

import gc
import os
import socket
from typing import NoReturn

import msgspec

from orchestrator.integrations.sandbox import confinement
from orchestrator.integrations.sandbox.protocol import (
    LENGTH,
    MIB,
    Answer,
    Ask,
    Query,
    QueryCheck,
    Ready,
    Reply,
    SchemaCheck,
    Script,
    ScriptCheck,
    Setup,
    Validation,
    Verdict,
    frame,
    shortened,
)

_SOCKET = 0
_SETUP_BYTES_MAX = 64 * 1024
# What an evaluation has left mapped, the next one can't have.
_GROWTH_BYTES_MAX = 32 * MIB


class Evaluator:
    """All engines, loaded and ready. Made before the process is confined: nothing can be loaded afterwards."""

    def __init__(self, memory_bytes: int, output_bytes: int) -> None:
        from orchestrator.integrations.sandbox.javascript import JavaScript  # noqa: PLC0415 - a failure is reported
        from orchestrator.integrations.sandbox.queries import Queries  # noqa: PLC0415 - likewise
        from orchestrator.integrations.sandbox.schemas import Schemas  # noqa: PLC0415 - likewise

        self._scripts = JavaScript(memory_bytes, output_bytes)
        self._queries = Queries(output_bytes)
        self._schemas = Schemas()

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version  # noqa: PLC0415 - read once, at the start

        return {name: version(name) for name in ("quickjs-ng", "jq", "jsonschema")}

    def answer(self, ask: Ask) -> Answer:
        match ask.request:
            case Script(source=source, input=input, body=body):
                return self._scripts.evaluate(source, input, body=body, time_ms=ask.time_ms)
            case Query(source=source, input=input):
                return self._queries.evaluate(source, input)
            case Validation(source=source, input=input, quiet=quiet):
                return self._schemas.validate(source, input, quiet=quiet)
            case ScriptCheck(source=source, body=body):
                return self._scripts.check(source, body=body, time_ms=ask.time_ms)
            case QueryCheck(source=source):
                return self._queries.check(source)
            case SchemaCheck(source=source):
                return self._schemas.check(source)


def _receive(connection: socket.socket, most: int) -> bytes:
    """One frame; ends the process when the node has hung up."""
    [length] = LENGTH.unpack(_receive_exactly(connection, LENGTH.size))
    if length > most:
        os._exit(1)
    return _receive_exactly(connection, length)


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            os._exit(0)
        parts += part
    return bytes(parts)


def _start(setup: Setup, memory: confinement.Memory) -> tuple[Evaluator, Ready]:
    """Raises what keeps it from working."""
    evaluator = Evaluator(setup.limits.memory_bytes, setup.limits.output_bytes)
    versions = evaluator.versions()
    gc.collect()
    gc.freeze()  # what is loaded stays: no collection has to look at it again
    confinement.give_way()
    seccomp = confinement.confine(memory, setup.limits.memory_bytes)
    for request in (Script("$.a", b'{"a":1}'), Query(".a", b'{"a":1}'), Validation("{}", b'{"a":1}')):
        answer = evaluator.answer(Ask(request, setup.limits.time_ms))
        if answer.verdict is not Verdict.VALUE:
            raise RuntimeError(f"it can't evaluate where it is held: {answer.message}")
    return evaluator, Ready(versions=versions, seccomp=seccomp)


def _reply(evaluator: Evaluator, ask: Ask) -> Reply:
    try:
        return Reply(evaluator.answer(ask))
    except MemoryError:
        return Reply(Answer(Verdict.MEMORY, message="out of memory"), retired=True)
    except Exception as error:  # noqa: BLE001 - what an engine was made to do is the user's to know
        return Reply(Answer(Verdict.CRASHED, message=shortened(f"the engine failed: {error!r}")), retired=True)


def main() -> NoReturn:
    connection = socket.socket(fileno=_SOCKET)
    setup = msgspec.msgpack.decode(_receive(connection, _SETUP_BYTES_MAX), type=Setup)
    confinement.die_with_parent(setup.parent)
    try:
        memory = confinement.Memory()
        evaluator, ready = _start(setup, memory)
    except Exception as error:  # noqa: BLE001 - the node tells people
        connection.sendall(frame(Ready(error=f"{type(error).__name__}: {error}")))
        os._exit(1)
    connection.sendall(frame(ready))
    decode = msgspec.msgpack.Decoder(Ask).decode
    start_bytes = memory.mapped_bytes()
    while True:
        ask = decode(_receive(connection, setup.limits.request_frame_bytes))
        with confinement.Deadline(ask.time_ms):
            reply = _reply(evaluator, ask)
        if memory.mapped_bytes() - start_bytes > _GROWTH_BYTES_MAX:
            reply = Reply(reply.answer, retired=True)
        connection.sendall(frame(reply))
