"""JSON texts as such: checked once at the door, then taken apart and put together without reformatting any value.

Whatever passed ``check_json`` can be given to every function here without an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

PAYLOAD_BYTES_MAX: Final = 256 * 1024
DEPTH_MAX: Final = 64
NULL: Final = b"null"

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SMALL_INTEGER: Final = re.compile(rb"-?[0-9]{1,18}")
_SPACE: Final = b" \t\r\n"
_SLICE: Final = PAYLOAD_BYTES_MAX

_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_string: Final = msgspec.json.Decoder(str).decode
_decode_any: Final = msgspec.json.Decoder(msgspec.Raw).decode


class JsonInvalid(Exception):
    """A text is not JSON, or crosses a limit."""


class PayloadInvalid(JsonInvalid):
    """A payload is not a JSON object, or crosses a limit. `limit` names the limit crossed, if one was."""

    def __init__(self, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.limit = limit


def _brackets_of(text: bytes) -> bytes:
    """Those outside of strings. In slices: of megabytes at once nobody else would have a turn for long."""
    if len(text) <= _SLICE:
        return _STRING.sub(b"", text).translate(None, _NO_BRACKETS)
    found, position = [], 0
    while position < len(text):
        end = min(position + _SLICE, len(text))
        rest = _STRING.sub(b"", text[position:end])
        begun = rest.find(b'"')
        position = end
        if begun >= 0:
            # A string whose end is not in the slice; if it is nowhere, the text is no JSON, and it is all the same.
            begins = end - (len(rest) - begun)
            string = _STRING.match(text, begins)
            rest = rest[:begun] if string else rest[:begun] + _STRING.sub(b"", text[begins:])
            position = string.end() if string else len(text)
        found.append(rest.translate(None, _NO_BRACKETS))
    return b"".join(found)


def _is_too_deep(text: bytes) -> bool:
    # Few brackets in all, which is nearly every payload, cannot be deep ones.
    if len(text) <= DEPTH_MAX or text.count(b"{") + text.count(b"[") <= DEPTH_MAX:
        return False
    brackets = _brackets_of(text)
    # Thousands of shallow ones go away in pairs, from the inside: each time at most two levels.
    shallow = brackets
    for _ in range(DEPTH_MAX // 2):
        shallow = shallow.replace(b"{}", b"").replace(b"[]", b"")
        if not shallow:
            return False
    depth = 0
    for bracket in brackets:
        if bracket in b"{[":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        else:
            depth -= 1
    return False


def check_json(text: bytes) -> None:
    """Raises JsonInvalid unless the text is UTF-8, JSON, and at most DEPTH_MAX deep."""
    # Depth first: a parser's own limit is Python's recursion limit, which is not the same everywhere.
    if _is_too_deep(text):
        raise PayloadInvalid(f"it is nested deeper than {DEPTH_MAX}", "depth")
    try:
        text.decode("utf-8")
        _decode_any(text)
    except UnicodeDecodeError:
        raise PayloadInvalid("it is not UTF-8") from None
    except msgspec.MsgspecError:
        raise PayloadInvalid("it is not valid JSON") from None


def check_payload(text: bytes, bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
    """Raises PayloadInvalid unless the text can be an input or output: a JSON object within the limits."""
    if len(text) > bytes_max:
        raise PayloadInvalid(f"it has {len(text)} bytes, the limit is {bytes_max}", "payload_bytes")
    check_json(text)
    if not is_json_object(text):
        raise PayloadInvalid("it is not a JSON object")


def is_json_object(text: bytes) -> bool:
    """Of a text that is JSON: whether it is an object."""
    return text.lstrip(_SPACE)[:1] == b"{"


def is_null(text: bytes) -> bool:
    return text.strip(_SPACE) == NULL


def compact(text: bytes) -> bytes:
    """The same JSON without white space between its tokens; every token keeps its text."""
    return msgspec.json.format(text, indent=-1)


def fields_of(text: bytes) -> dict[str, bytes]:
    """The fields of an object, in their order; none if it is something else."""
    try:
        return {key: bytes(raw) for key, raw in _decode_object(text).items()}
    except msgspec.MsgspecError:
        return {}


def field_of(text: bytes, key: str) -> bytes | None:
    """One field of an object; None if there is none."""
    try:
        raw = _decode_object(text).get(key)
    except msgspec.MsgspecError:
        return None
    return None if raw is None else bytes(raw)


def elements_of(text: bytes) -> list[bytes]:
    """The elements of an array; none if it is something else."""
    try:
        return [bytes(raw) for raw in _decode_array(text)]
    except msgspec.MsgspecError:
        return []


def value_of(text: bytes) -> object:
    """As Python values; numbers that are not small integers stay a Raw, with their own text."""
    raw = text.strip(_SPACE)
    first = raw[:1]
    if first == b"{":
        return {key: value_of(value) for key, value in fields_of(raw).items()}
    if first == b"[":
        return [value_of(value) for value in elements_of(raw)]
    if first == b'"':
        return _decode_string(raw)
    if first in (b"t", b"f"):
        return first == b"t"
    if raw == NULL:
        return None
    return int(raw) if _SMALL_INTEGER.fullmatch(raw) else msgspec.Raw(raw)


def text_of(value: bytes) -> str:
    """As text among other text: a string's characters, anything else as its compact JSON."""
    raw = value.strip(_SPACE)
    if raw[:1] == b'"':
        return _decode_string(raw)
    return compact(raw).decode("utf-8")


def dump_string(text: str) -> bytes:
    return msgspec.json.encode(text)


def assemble_object(items: Iterable[tuple[str, bytes]]) -> bytes:
    """An object of values that are JSON texts already."""
    return b"{" + b",".join([b"%b:%b" % (dump_string(key), value) for key, value in items]) + b"}"


def assemble_array(values: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"


def append_field(text: bytes, key: str, value: bytes) -> bytes:
    """The object with another field at its end, which is the one that counts if the key is there already."""
    fields = text.rstrip(_SPACE)[:-1].rstrip(_SPACE)
    return b"%b%b%b:%b}" % (fields, b"" if fields.endswith(b"{") else b",", dump_string(key), value)


def merge_objects(base: bytes, over: bytes) -> bytes:
    """The fields of both; those of `over` win. Not deep. What is not an object counts as an empty one."""
    added = fields_of(over)
    if not added and is_json_object(base):
        return base
    fields = fields_of(base)
    if not fields and is_json_object(over):
        return over
    fields.update(added)
    return assemble_object(fields.items())


def put_if_absent(defaults: Mapping[str, bytes], value: bytes) -> bytes:
    """The object with the defaults of those fields that it lacks or that are null in it."""
    if not defaults:
        return value
    fields = fields_of(value)
    missing = [key for key in defaults if key not in fields or is_null(fields[key])]
    if not missing:
        return value
    for key in missing:
        fields[key] = defaults[key]
    return assemble_object(fields.items())
