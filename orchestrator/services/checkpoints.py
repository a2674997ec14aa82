"""Asks every replica, now and then, to say the hash of its content; a node that differs from the majority stops.

The hashes travel in the gossip of the log. With two voices that differ nobody knows who is right, and nobody stops
by this alone: the difference is logged on both.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from orchestrator.engine.commands import Checkpoint
from orchestrator.services.ports import Submit

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
_INDEX = "checkpoint_index"
_HASH = "checkpoint_content"


class Checkpointer:
    """Proposes a checkpoint at intervals, while there is something new."""

    def __init__(self, submit: Submit, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._submit = submit
        self._interval_seconds = interval_seconds
        self._poked = asyncio.Event()

    def entry_applied(self) -> None:
        """There is something new to compare."""
        self._poked.set()

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self._poked.wait()
            await self._submit(Checkpoint())
            # The checkpoint itself is nothing new.
            self._poked.clear()


class ContentDiffers(Exception):
    """This node's content is not that of the majority at the same index: it must stop."""


class ContentCheck:
    """This node's hash at its newest checkpoint, and its comparison with what the peers say of theirs."""

    def __init__(self) -> None:
        self._index = 0
        self._hash = b""
        self._told: frozenset[str] = frozenset()

    def reached(self, index: int, content_hash: int) -> None:
        """The content at the checkpoint's index is in the database."""
        self._index = index
        self._hash = content_hash.to_bytes(16, "big")
        self._told = frozenset()

    def facts(self) -> dict[str, int | bytes]:
        """For the gossip."""
        return {_INDEX: self._index, _HASH: self._hash}

    def compare(self, gossip: Mapping[str, Mapping[str, int | bytes | str]]) -> None:
        """Raises ContentDiffers if a majority agrees on another hash than this node's."""
        if not self._index:
            return
        voices = {
            name: voice
            for name, facts in gossip.items()
            if facts.get(_INDEX) == self._index and isinstance(voice := facts.get(_HASH), bytes)
        }
        if in_minority(self._hash, voices):
            raise ContentDiffers(
                f"at index {self._index} this node's content has the hash {self._hash.hex()}, and the majority's "
                "another: rebuild this node from the others"
            )
        differing = frozenset(name for name, voice in voices.items() if voice != self._hash)
        if differing - self._told:
            self._told = differing
            logger.error(
                "the content differs at a checkpoint, and nobody has a majority",
                extra={"index": self._index, "peers": ",".join(sorted(differing))},
            )


def in_minority(own: bytes, others: Mapping[str, bytes]) -> bool:
    """Whether a majority of all voices at the same index agrees on another hash than this node's own."""
    voices = Counter([own, *others.values()])
    hash_most, count = voices.most_common(1)[0]
    return hash_most != own and count * 2 > voices.total()
