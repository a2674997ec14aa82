"""A slow pass over the whole database, again and again, so that damage shows while other nodes still have the rows.

It takes little: a pass is spread over the time that it may take, and at most a twentieth of one processor is used. It
holds up nobody: it has a connection and a thread of its own, and reads for some milliseconds at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import apsw
import msgspec

from orchestrator.storage.database import Database
from orchestrator.storage.scrubbing import TABLES, Slice, scrub

logger = logging.getLogger(__name__)

# Of the time of a pass, what an empty slice takes.
SHARE_MIN = 1 / 64
# A slice is followed by a pause of so many times its own length.
IDLE_TIMES = 19
# Where the pass stands is written down this often.
SAVE_SECONDS = 60.0


class Standing(msgspec.Struct):
    """Where a pass is, and when the last one that came to its end did so."""

    table: str = TABLES[0]
    after: int = 0
    checked_bytes: int = 0
    completed_ms: int = 0


class Scrub:
    """`seconds`: the time that a pass takes, at least; 0: none is made.

    `load` and `save` keep a few bytes over restarts of the node; both block.
    """

    def __init__(
        self, database: Database, *, seconds: float, load: Callable[[], bytes], save: Callable[[bytes], None],
        monotonic: Callable[[], float], wall_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._seconds = seconds
        self._load = load
        self._save = save
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self.standing = Standing()

    @property
    def progress(self) -> float:
        """How much of the database the pass has read, about."""
        database = self._database
        return min(1.0, self.standing.checked_bytes / max(1, database.file_bytes - database.free_bytes))

    async def run(self) -> None:
        """Until it is cancelled; raises DatabaseCorrupt, DiskFailed."""
        if not self._seconds:
            return
        self.standing = _standing(await self._database.scrub(lambda connection: self._load()))
        pause, saved_at = self._seconds * SHARE_MIN, self._monotonic()
        while True:
            await asyncio.sleep(pause)
            began = self._monotonic()
            done = await self._database.scrub(self._next)
            pause = max(self._seconds * self._share(done), (self._monotonic() - began) * IDLE_TIMES)
            self._take(done)
            if done.next_table is None or self._monotonic() - saved_at >= SAVE_SECONDS:
                saved_at = self._monotonic()
                await self._database.scrub(lambda connection: self._save(msgspec.json.encode(self.standing)))

    def _next(self, connection: apsw.Connection) -> Slice:
        return scrub(connection, self.standing.table, self.standing.after)

    def _share(self, done: Slice) -> float:
        return done.size_bytes / max(done.size_bytes, self._database.file_bytes) if done.rows else SHARE_MIN

    def _take(self, done: Slice) -> None:
        standing = self.standing
        if done.next_table is not None:
            standing.table, standing.after = done.next_table, done.after
            standing.checked_bytes += done.size_bytes
        else:
            self.standing = Standing(completed_ms=self._wall_ms())
            logger.info("every row of the database has been read, and is what was written")


def _standing(data: bytes) -> Standing:
    """From the beginning if that says nothing: it costs time, and nothing else."""
    if not data:
        return Standing()
    try:
        found = msgspec.json.decode(data, type=Standing)
    except msgspec.MsgspecError as error:
        logger.warning("the scrub of the database begins anew: where it stood can't be read: %s", error)
        return Standing()
    return found if found.table in TABLES else Standing(completed_ms=found.completed_ms)
