"""Values that attempts of one worker's stream need before they can be handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from orchestrator.engine.blobs import BlobRef
from orchestrator.engine.resident import Lease
from orchestrator.integrations.blobs.store import BlobFailure
from orchestrator.rpc.handing_out import NotGiven, Withheld
from orchestrator.rpc.whole import not_given

FETCHES_MAX = 4

Contents = dict[BlobRef, bytes]


class FetchedValues:
    """Few at once, until they are written: those of all that a session may hold would have no room here.

    `again` hands out the attempt that they are for; `withhold` says why that can't be done.
    """

    def __init__(
        self,
        contents: Callable[[Iterable[BlobRef]], Awaitable[Contents]],
        withheld: Withheld,
        again: Callable[[Lease], None],
        withhold: Callable[[Lease, NotGiven], None],
    ) -> None:
        self._contents = contents
        self._withheld = withheld
        self._again = again
        self._withhold = withhold
        self._room = asyncio.Semaphore(FETCHES_MAX)
        # By token; and what is set when they are taken.
        self._fetched: dict[int, tuple[Contents, asyncio.Event]] = {}

    def take(self, token: int) -> Contents:
        """Those of the attempt, which is handed out now, or not at all."""
        found = self._fetched.pop(token, None)
        if found is None:
            return {}
        values, taken = found
        taken.set()
        return values

    async def fetch(self, lease: Lease, refs: Iterable[BlobRef]) -> None:
        """What the attempt needs; then it is handed out, unless it is not wanted any more."""
        async with self._room:
            if not self._withheld.keeps(lease.token):
                return
            try:
                values = await self._contents(refs)
            except BlobFailure as failure:
                if self._withheld.take(lease.token):
                    self._withhold(lease, not_given(failure))
                return
            if self._withheld.take(lease.token):
                taken = asyncio.Event()
                self._fetched[lease.token] = values, taken
                self._again(lease)
                await taken.wait()
