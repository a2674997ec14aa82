"""Why a node can't be reached, asked once for all calls that fail for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Explain = Callable[[str], Awaitable[str]]
"""Why the node at this address can't be spoken to; empty if nobody can tell. Raises nothing."""

# For so long an answer is believed.
KEPT_S = 5.0


class Diagnosis:
    """Thousands of calls may fail at once: one of them looks, at what costs a connection."""

    def __init__(self, explain: Explain | None) -> None:
        self._explain = explain
        # When each was begun, and what finds it out: by address.
        self._looks: dict[str, tuple[float, asyncio.Task[str]]] = {}

    async def reason(self, address: str) -> str:
        """Empty if it can't be told."""
        if self._explain is None:
            return ""
        now = asyncio.get_running_loop().time()
        begun_at, look = self._looks.get(address, (now, None))
        if look is None or (look.done() and now - begun_at >= KEPT_S):
            look = asyncio.ensure_future(self._explain(address))
            self._looks[address] = now, look
        # Whoever gives up waiting does not end it for the others.
        return await asyncio.shield(look)

    async def close(self) -> None:
        looks = [look for _, look in self._looks.values()]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
