"""What files say, read again for as long as a node runs: whoever changes one of them need not restart the node.

By content, so that it does not matter how a file was replaced: written over, put in its place, or behind a link that
leads elsewhere now, as Kubernetes exchanges a volume. What is wrong with a file is said once, and what it said before
holds on. Files are read and understood off the loop, for a disk may hang.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# How often files are read that change while they are read.
READS_MAX = 5

Content = TypeVar("Content")
Meaning = TypeVar("Meaning")
T = TypeVar("T")


class OffLoop(Protocol):
    """Runs what blocks elsewhere."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]: ...


class FileWatch(Generic[Content, Meaning]):
    """`current` is what the files meant when they were last right.

    `read` gives what stands in them and `make` what that means; both block, and raise one of `refusals` for what is
    wrong. Made when the files have to be right: raises that, too. `what` they are, for the log.

    `on_taken` is called with a new meaning, once it is `current`. `on_look` after each look: None if the files are as
    they were, else whether what they have become was taken.
    """

    def __init__(
        self,
        what: str,
        read: Callable[[], Content],
        make: Callable[[Content], Meaning],
        refusals: type[Exception],
        *,
        off_loop: OffLoop = asyncio.to_thread,
    ) -> None:
        self._what = what
        self._read = read
        self._make = make
        self._refusals = refusals
        self._off_loop = off_loop
        # What was last said about files that are wrong.
        self._complaint = ""
        self.on_taken: Callable[[Meaning], None] = lambda meaning: None
        self.on_look: Callable[[bool | None], None] = lambda taken: None
        self._seen: Content | None = None
        self._seen, self.current = self._understand(read())

    async def run(self, every_seconds: float = LOOK_SECONDS) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.look()

    async def look(self) -> None:
        """Takes what is new and right."""
        try:
            found = await self._off_loop(self._changed)
        except self._refusals as error:
            # Tried again with each look, for it may become right without a change: a certificate begins some day.
            self.on_look(False if self._complain(str(error)) else None)
            return
        self._complaint = ""
        if found is None:
            self.on_look(None)
            return
        self._seen, self.current = found
        self.on_taken(self.current)
        self.on_look(True)

    def _changed(self) -> tuple[Content, Meaning] | None:
        found = self._read()
        return None if found == self._seen else self._understand(found)

    def _understand(self, found: Content) -> tuple[Content, Meaning]:
        """Of several files that belong together, half may be read before they change, and half after that."""
        for _ in range(READS_MAX - 1):
            try:
                made = self._make(found)
            except self._refusals:
                again = self._read()
                if again == found:
                    raise
            else:
                again = self._read()
                if again == found:
                    return found, made
            found = again
        return found, self._make(found)

    def _complain(self, message: str) -> bool:
        """Whether that was not said already."""
        if message == self._complaint:
            return False
        self._complaint = message
        logger.error("%s stay as they were: %s", self._what, message)
        return True
