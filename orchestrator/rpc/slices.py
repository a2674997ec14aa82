"""Long answers, put together in slices, between which the event loop does what else there is to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar, cast

from orchestrator.engine.execution_state import ExecutionState
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import not_found

T = TypeVar("T")

Slices = Generator[int, None, T]
"""Yields after each piece how many bytes it has; returns the whole."""

# Between two turns of the loop: about a millisecond.
PIECES_MAX = 64
BYTES_MAX = 256 << 10
TRIES = 3


class _Changed(Exception):
    """The execution is not any more what its answer was begun from."""


async def drawn(backend: Backend, held: ExecutionState, draw: Callable[[ExecutionState], Slices[T]]) -> T:
    """The whole, of one state of the execution: it is begun again if that changes meanwhile.

    Of one that changes again and again it is put together in one go. Raises RpcFailure if the execution goes.
    """
    for _ in range(TRIES):
        try:
            return await in_turns(_of_one_state(held, draw(held)))
        except _Changed:
            key = (held.execution.namespace, held.execution.workflow_id)
        found = await backend.execution(*key)
        if found is None:
            raise not_found("workflow", key[1])
        held = found
    return at_once(draw(held))


def _of_one_state(held: ExecutionState, slices: Slices[T]) -> Slices[T]:
    header = held.execution
    while held.execution is header:
        try:
            size = next(slices)
        except StopIteration as end:
            return cast(T, end.value)
        yield size
    raise _Changed


async def in_turns(slices: Slices[T]) -> T:
    """The whole, of what does not change meanwhile."""
    pieces = size = 0
    while True:
        try:
            size += next(slices)
        except StopIteration as end:
            return cast(T, end.value)
        pieces += 1
        if pieces >= PIECES_MAX or size >= BYTES_MAX:
            pieces = size = 0
            await asyncio.sleep(0)


def at_once(slices: Slices[T]) -> T:
    """The whole, in one go."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return cast(T, end.value)
