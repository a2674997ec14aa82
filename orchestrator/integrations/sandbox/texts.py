"""JSON texts on the evaluator's side: no unpaired surrogate goes in or comes out.

JSON can write half of a surrogate pair (`"\\ud800"`); UTF-8 can't, and the engines differ in what they make of one.
Everywhere here it is U+FFFD, which is what encoders put in its place.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"  # half of one
    rb"|\\."
)
_HALF_BYTES = len(rb"\ud800")


def well_formed(text: bytes) -> bytes:
    """The same JSON with U+FFFD for every unpaired surrogate."""
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    return _ESCAPE.sub(_whole, text)


def _whole(match: re.Match[bytes]) -> bytes:
    found = match[0]
    return rb"\ufffd" if len(found) == _HALF_BYTES else found
