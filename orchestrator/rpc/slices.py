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


async def drawn(backend: Backend, held: ExecutionState, draw: Callable[[ExecutionState], Slices[T]]) -> T:
    """The whole, of one state of the execution: it is begun again if that changes meanwhile.

    Of one that changes again and again it is put together in one go. Raises RpcFailure if the execution goes.
    """
    for _ in range(TRIES):
        header, slices = held.execution, draw(held)
        while held.execution is header:
            end = _slice(slices)
            if end is not None:
                return cast(T, end.value)
            await asyncio.sleep(0)
        found = await backend.execution(header.namespace, header.workflow_id)
        if found is None:
            raise not_found("workflow", header.workflow_id)
        held = found
    return at_once(draw(held))


def at_once(slices: Slices[T]) -> T:
    """The whole."""
    while True:
        end = _slice(slices)
        if end is not None:
            return cast(T, end.value)


async def in_turns(slices: Slices[T]) -> T:
    """The whole, of what does not change meanwhile."""
    while True:
        end = _slice(slices)
        if end is not None:
            return cast(T, end.value)
        await asyncio.sleep(0)


def _slice(slices: Slices[T]) -> StopIteration | None:
    """One slice; what ends it all, if it was the last one."""
    pieces = size = 0
    while pieces < PIECES_MAX and size < BYTES_MAX:
        try:
            size += next(slices)
        except StopIteration as end:
            return end
        pieces += 1
    return None
