"""Values that must not come back: three stars in their places, in texts and in JSON.

Found is a value as it is, within JSON and as a part of a URL; each line of one that has several; and each text in one
that is JSON. What is shorter than 8 bytes is not looked for: it would be found where nobody meant it. What was changed
in any other way, as to base64, is not found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from orchestrator.engine.expressions import (
    assemble_array,
    assemble_object,
    dump_string,
    elements_of,
    fields_of,
    text_of,
)

MASK = "***"
FOUND_BYTES_MIN = 8
# The beginning of a value at the end of a text that was cut off there.
_BEGUN_CHARACTERS_MIN = 6


class Masks:
    """Of the values that one attempt was given."""

    def __init__(self, values: Iterable[str]) -> None:
        sought = {part for value in values for part in _parts(value) if len(part.encode()) >= FOUND_BYTES_MIN}
        forms = {form for part in sought for form in _forms(part)}
        # The longest first, or the rest of a longer one would be left.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, self._forms))) if forms else None

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return self._pattern is not None

    def text(self, text: str, *, is_cut: bool = False) -> str:
        """`is_cut`: the end is missing, and may have been that of a value."""
        if self._pattern is None:
            return text
        masked = self._pattern.sub(MASK, text)
        return self._without_begun(masked) if is_cut else masked

    def json(self, text: bytes, *, is_cut: bool = False) -> bytes:
        """A JSON text with masks in its strings, names and numbers. `is_cut`: the end of some string is missing."""
        if self._pattern is None or not text:
            return text
        return self._value(text.strip(b" \t\r\n"), is_cut)

    def _value(self, text: bytes, is_cut: bool) -> bytes:
        first = text[:1]
        if first == b"{":
            items = fields_of(text).items()
            return assemble_object((self.text(name), self._value(value, is_cut)) for name, value in items)
        if first == b"[":
            return assemble_array(self._value(element, is_cut) for element in elements_of(text))
        plain = text_of(text)
        masked = self.text(plain, is_cut=is_cut and first == b'"')
        return text if masked == plain else dump_string(masked)

    def _without_begun(self, text: str) -> str:
        for form in self._forms:
            for length in range(min(len(form) - 1, len(text)), _BEGUN_CHARACTERS_MIN - 1, -1):
                if text.endswith(form[:length]):
                    return text[:-length] + MASK
        return text


def _parts(value: str) -> Iterator[str]:
    yield value
    if "\n" in value:
        yield from (line.strip() for line in value.splitlines())
    if value.lstrip()[:1] in ("{", "["):
        try:
            yield from _texts_in(json.loads(value))
        except (ValueError, RecursionError):
            return


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)


def _forms(part: str) -> Iterator[str]:
    yield from (part, quote(part, safe=""), quote(part), quote_plus(part))
    yield from (json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
