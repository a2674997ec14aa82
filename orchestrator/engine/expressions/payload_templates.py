"""`${path}` over one JSON document, such as the payload of an event: `${a.b[0]}` begins at its own field `a`.

Checked once, when a document with such expressions is registered. As with other templates, a string that is exactly
one expression becomes the value that it finds, others become text, what is not found is null, and `$${` is literal.
"""

from __future__ import annotations

from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions.paths import PathInvalid, follow, parse_path
from orchestrator.engine.expressions.template_model import Step
from orchestrator.engine.expressions.texts import (
    NULL,
    PAYLOAD_BYTES_MAX,
    JsonInvalid,
    assemble_array,
    assemble_object,
    check_json,
    dump_string,
    elements_of,
    fields_of,
    text_of,
)

Pieces = list[tuple[str, bool]]
"""Literal texts, and paths (True)."""


def check_payload_template(raw: bytes, path: str) -> None:
    """Raises DefinitionInvalid or DefinitionUnimplemented, with the path of the string that is wrong."""
    first = raw[:1]
    if first == b"{":
        for key, value in fields_of(raw).items():
            check_payload_template(value, f"{path}.{key}" if path else key)
    elif first == b"[":
        for position, element in enumerate(elements_of(raw)):
            check_payload_template(element, f"{path}[{position}]")
    elif first == b'"':
        try:
            for text, is_path in _split(text_of(raw)):
                if is_path:
                    _steps(text)
        except PathInvalid as error:
            kind = DefinitionUnimplemented if error.unimplemented else DefinitionInvalid
            raise kind(path, error.message) from None


def fill(raw: bytes, payload: bytes, most: int = PAYLOAD_BYTES_MAX) -> bytes:
    """The template's value. Raises LimitExceeded if it would have more than `most` bytes."""
    filled = _Filler(payload, most).value(raw)
    if len(filled) > most:
        raise LimitExceeded(f"the result exceeds the limit of {most} bytes")
    return filled


def expand_inline(payload: bytes) -> bytes:
    """The document with those of its strings that are JSON objects or arrays replaced by them; others stay strings."""
    first = payload[:1]
    if first == b"{":
        return assemble_object([(key, expand_inline(value)) for key, value in fields_of(payload).items()])
    if first == b"[":
        return assemble_array([expand_inline(element) for element in elements_of(payload)])
    if first != b'"':
        return payload
    text = text_of(payload).encode("utf-8").strip(b" \t\r\n")
    if text[:1] not in (b"{", b"["):
        return payload
    try:
        check_json(text)
    except JsonInvalid:
        return payload
    return text


class _Filler:
    def __init__(self, payload: bytes, most: int) -> None:
        self._payload = payload
        self._most = most
        self._room = most

    def value(self, raw: bytes) -> bytes:
        first = raw[:1]
        if b"$" not in raw and b"\\u0" not in raw:
            return raw
        if first == b"{":
            return assemble_object([(key, self.value(value)) for key, value in fields_of(raw).items()])
        if first == b"[":
            return assemble_array([self.value(element) for element in elements_of(raw)])
        return self._string(raw) if first == b'"' else raw

    def _string(self, raw: bytes) -> bytes:
        pieces = _split(text_of(raw))
        if len(pieces) == 1 and pieces[0][1]:
            return self._found(pieces[0][0])
        return dump_string("".join([text_of(self._found(text)) if is_path else text for text, is_path in pieces]))

    def _found(self, path: str) -> bytes:
        steps = _steps(path)
        value = follow(self._payload, steps) if steps else self._payload
        self._room -= 0 if value is None else len(value)
        if self._room < 0:
            raise LimitExceeded(f"the result exceeds the limit of {self._most} bytes")
        return NULL if value is None else value


def _steps(path: str) -> tuple[Step, ...]:
    text = path.strip(" \t\r\n")
    if text == "$":
        return ()
    return parse_path(text[2:] if text.startswith("$.") else text)


def _split(text: str) -> Pieces:
    pieces: Pieces = []
    literal: list[str] = []
    position = 0
    while (start := text.find("${", position)) >= 0:
        end = text.find("}", start)
        if start > position and text[start - 1] == "$":
            literal.append(text[position : start - 1] + "${")
            position = start + 2
            continue
        if end < 0:
            raise PathInvalid("'${' is never closed; write '$${' for the characters themselves")
        body = text[start + 2 : end]
        if "${" in body:
            raise PathInvalid("expressions inside expressions are not supported here", unimplemented=True)
        literal.append(text[position:start])
        _add(pieces, literal)
        pieces.append((body, True))
        position = end + 1
    literal.append(text[position:])
    _add(pieces, literal)
    return pieces


def _add(pieces: Pieces, literal: list[str]) -> None:
    text = "".join(literal)
    literal.clear()
    if text:
        pieces.append((text, False))
