"""What readers see of payloads with masked fields: three stars in the place of each, whatever it was.

A path may begin anywhere in a payload, so that a value that is handed on is masked where it goes under the same name;
lists are passed through. Stored are the values themselves: tasks and expressions need them.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.engine.expressions import assemble_array, assemble_object, elements_of, fields_of

MASK = b'"***"'

_Path = tuple[str, ...]


def masked(text: bytes, fields: Sequence[str]) -> bytes:
    """The JSON text with the fields masked; any other value keeps its own text. `fields`: dotted paths."""
    if not text or not fields:
        return text
    paths = [tuple(field.split(".")) for field in fields]
    return _value(text, paths, [])


def _value(text: bytes, paths: list[_Path], begun: list[_Path]) -> bytes:
    """`begun`: what is left of paths that have begun further out."""
    if b"{" not in text:
        # There may be very many values in it, and none has a name.
        return text
    first = text.lstrip()[:1]
    if first == b"[":
        return assemble_array(_value(element, paths, begun) for element in elements_of(text))
    if first != b"{":
        return text
    items = []
    for name, value in fields_of(text).items():
        rest = [path[1:] for path in (*paths, *begun) if path[0] == name]
        items.append((name, MASK if () in rest else _value(value, paths, rest)))
    return assemble_object(items)
