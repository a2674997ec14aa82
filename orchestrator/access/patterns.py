"""Patterns of names: every character stands for itself, but for `*`, which stands for any number of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

EVERYTHING = "*"


class Patterns:
    """Some patterns, of which one has to match."""

    __slots__ = ("_literals", "_wild", "texts")

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        self._literals = frozenset(text for text in texts if "*" not in text)
        wild = ["".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", text))
                for text in texts if "*" in text]
        self._wild = re.compile("|".join(wild), re.DOTALL) if wild else None

    @property
    def is_everything(self) -> bool:
        """Whether one of them is `*` alone."""
        return EVERYTHING in self.texts

    def match(self, name: str) -> bool:
        return name in self._literals or (self._wild is not None and self._wild.fullmatch(name) is not None)

    def __str__(self) -> str:
        return ", ".join(self.texts)


NONE = Patterns(())
