"""Mistakes that can be planted in the product, to see that the simulation finds them.

Each replaces one function by one with a plausible mistake, while it is planted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.replication import journal

VARIABLE = "SIMULATION_MUTANT"


@dataclass(frozen=True)
class Mutant:
    """A mistake: which attribute of what is replaced, and by what."""

    about: str
    owner: Any
    attribute: str
    make: Callable[[Any], Any]


def _journal_without_fsync(original: Any) -> Any:
    def sync(self: journal.SegmentWriter) -> None:
        self._drain()
        self._dirty = False

    return sync


MUTANTS: dict[str, Mutant] = {
    "skip_fsync": Mutant(
        "the journal is written, but not synced", journal.SegmentWriter, "sync", _journal_without_fsync
    ),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The mistake is in force inside; nothing is for an empty name."""
    if not name:
        yield
        return
    mutant = MUTANTS[name]
    original = getattr(mutant.owner, mutant.attribute)
    setattr(mutant.owner, mutant.attribute, mutant.make(original))
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.attribute, original)
