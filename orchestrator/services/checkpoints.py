"""Asks every replica, now and then, to say the hash of its content; a node that differs from the majority stops.

The hashes travel in the gossip of the log. With two voices that differ nobody knows who is right, and nobody stops
by this alone: the difference is logged on both.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Mapping

from orchestrator.engine.commands import Checkpoint
from orchestrator.services.ports import Submit

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
# So many are remembered.
CHECKPOINTS = 8
INDEX_BYTES = 8
HASH_BYTES = 16
_FACT = "checkpoints"


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
    """This node's hashes at its newest checkpoints, and their comparison with what the peers say of theirs."""

    def __init__(self) -> None:
        # Several, for nodes store the same checkpoint at different times: one that is behind must be compared, too.
        self._own: deque[tuple[int, bytes]] = deque(maxlen=CHECKPOINTS)
        self._told: set[tuple[int, str]] = set()

    def reached(self, index: int, content_hash: int) -> None:
        """The content at the checkpoint's index is in the database."""
        self._own.append((index, content_hash.to_bytes(HASH_BYTES, "big")))
        known = {index for index, _ in self._own}
        self._told = {(index, name) for index, name in self._told if index in known}

    def facts(self) -> dict[str, bytes]:
        """For the gossip."""
        return {_FACT: b"".join(index.to_bytes(INDEX_BYTES, "big") + content for index, content in self._own)}

    def compare(self, gossip: Mapping[str, Mapping[str, int | bytes | str]]) -> None:
        """Raises ContentDiffers if a majority agrees on another hash than this node's."""
        said = {name: _said(facts.get(_FACT)) for name, facts in gossip.items()}
        for index, own in self._own:
            voices = {name: theirs[index] for name, theirs in said.items() if index in theirs}
            if in_minority(own, voices):
                raise ContentDiffers(
                    f"at index {index} this node's content has the hash {own.hex()}, and the majority's another"
                )
            differing = {(index, name) for name, voice in voices.items() if voice != own}
            if differing - self._told:
                self._told |= differing
                logger.error(
                    "the content differs at a checkpoint, and nobody has a majority",
                    extra={"index": index, "peers": ",".join(sorted(name for _, name in differing))},
                )


def _said(fact: int | bytes | str | None) -> dict[int, bytes]:
    """Index -> hash, of what a peer told."""
    if not isinstance(fact, bytes):
        return {}
    size = INDEX_BYTES + HASH_BYTES
    whole = range(0, min(len(fact), CHECKPOINTS * size) - size + 1, size)
    return {int.from_bytes(fact[at : at + INDEX_BYTES], "big"): fact[at + INDEX_BYTES : at + size] for at in whole}


def in_minority(own: bytes, others: Mapping[str, bytes]) -> bool:
    """Whether a majority of all voices at the same index agrees on another hash than this node's own."""
    voices = Counter([own, *others.values()])
    hash_most, count = voices.most_common(1)[0]
    return hash_most != own and count * 2 > voices.total()
