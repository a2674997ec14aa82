"""Reading the fields of one JSON object of a definition, each by its rule; a field without a rule is an error, unless
it is empty: documents that other programs have written out name all their fields.

Numbers are read from their text, so that 0.2 seconds are exactly 200 milliseconds. A number or a boolean may stand in
quotes, as what fills in templates writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented, quoted
from orchestrator.engine.expressions import elements_of, fields_of, is_null, text_of

NAME_CHARACTERS_MAX = 200
INTEGER_MAX = 2**31 - 1
SECONDS_MAX = INTEGER_MAX
SYSTEM_PREFIX = "system/"

_NUMBER = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?")
_INTEGER = re.compile(rb"-?[0-9]{1,18}")
_EMPTY = re.compile(rb'null|""|\[\]|\{\}')
_INERT = re.compile(rb'null|""|\[\]|\{\}|false|-?0(?:\.0+)?')

EnumT = TypeVar("EnumT", bound=StrEnum)


class Fields:
    """One object of the document. Absent and null are the same."""

    def __init__(self, raw: bytes, path: str, known: Iterable[str], unbuilt: Iterable[str] = ()) -> None:
        if raw[:1] != b"{":
            raise DefinitionInvalid(path, "it must be an object")
        self.path = path
        values = fields_of(raw)
        self._values = {key: value for key, value in values.items() if not is_null(value)}
        known, unbuilt = frozenset(known), frozenset(unbuilt)
        for key, value in values.items():
            if key not in known and key not in unbuilt and not _EMPTY.fullmatch(value):
                raise DefinitionInvalid(self.at(key), "there is no such field")
        for key, value in self._values.items():
            if key in unbuilt and not is_inert(value):
                raise DefinitionUnimplemented(self.at(key), "this is not supported yet")

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        return key in self._values

    def is_set(self, key: str) -> bool:
        """Whether the field has a value that is not an empty or switched-off one."""
        return key in self._values and not is_inert(self._values[key])

    def invalid(self, key: str, message: str) -> DefinitionInvalid:
        return DefinitionInvalid(self.at(key), message)

    def unimplemented(self, key: str, message: str = "this is not supported yet") -> DefinitionUnimplemented:
        return DefinitionUnimplemented(self.at(key), message)

    def raw(self, key: str) -> bytes | None:
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        raw = self._values.get(key)
        if raw is None:
            return default
        if raw[:1] != b'"':
            raise self.invalid(key, "it must be a string")
        return text_of(raw)

    def name(self, key: str, default: str = "") -> str:
        """A non-empty name; `default` if the field is absent, and required if there is no default."""
        name = self.text(key, default)
        if not name:
            raise self.invalid(key, "it must be a non-empty string")
        if len(name) > NAME_CHARACTERS_MAX:
            raise self.invalid(key, f"a name may have {NAME_CHARACTERS_MAX} characters")
        return name

    def task_name(self, key: str, default: str = "") -> str:
        """The name of a task or task definition: one that is not the cluster's own."""
        name = self.name(key, default)
        if name.startswith(SYSTEM_PREFIX):
            raise self.invalid(key, f"names that begin with {quoted(SYSTEM_PREFIX)} are the cluster's own")
        return name

    def flag(self, key: str, default: bool = False) -> bool:
        raw = self._unquoted(key)
        if raw is None:
            return default
        if raw not in (b"true", b"false"):
            raise self.invalid(key, "it must be true or false")
        return raw == b"true"

    def integer(self, key: str, default: int, least: int = 0, most: int = INTEGER_MAX) -> int:
        raw = self._unquoted(key)
        if raw is None:
            return default
        if not _INTEGER.fullmatch(raw):
            raise self.invalid(key, "it must be an integer")
        number = int(raw)
        if not least <= number <= most:
            raise self.invalid(key, f"it must be between {least} and {most}")
        return number

    def _unquoted(self, key: str) -> bytes | None:
        """Text with escapes is neither a number nor a boolean: it may stay as it is."""
        raw = self._values.get(key)
        return raw[1:-1] if raw is not None and raw[:1] == b'"' else raw

    def seconds(self, key: str, default_ms: int) -> int:
        """Milliseconds of a field in seconds."""
        raw = self._unquoted(key)
        if raw is None:
            return default_ms
        milliseconds = milliseconds_of(raw)
        if milliseconds is None:
            raise self.invalid(key, "it must be a number of seconds, with at most three decimals")
        if not 0 <= milliseconds <= SECONDS_MAX * 1000:
            raise self.invalid(key, f"it must be between 0 and {SECONDS_MAX} seconds")
        return milliseconds

    def choice(self, key: str, enum: type[EnumT], default: EnumT) -> EnumT:
        text = self.text(key, default.value)
        for member in enum:
            if member.value == text:
                return member
        raise self.invalid(key, f"{quoted(text)} is none of {', '.join(member.value for member in enum)}")

    def object(self, key: str) -> bytes:
        raw = self._values.get(key, b"{}")
        if raw[:1] != b"{":
            raise self.invalid(key, "it must be an object")
        return raw

    def mapping(self, key: str) -> Mapping[str, bytes]:
        return fields_of(self.object(key))

    def items(self, key: str) -> list[bytes]:
        raw = self._values.get(key, b"[]")
        if raw[:1] != b"[":
            raise self.invalid(key, "it must be a list")
        return elements_of(raw)

    def texts(self, key: str) -> tuple[str, ...]:
        texts = []
        for position, element in enumerate(self.items(key)):
            if element[:1] != b'"':
                raise self.invalid(f"{key}[{position}]", "it must be a string")
            texts.append(text_of(element))
        return tuple(texts)


def is_inert(raw: bytes) -> bool:
    """Whether a value asks for nothing: null, empty, false or 0. The text is compact."""
    return _INERT.fullmatch(raw) is not None


def milliseconds_of(raw: bytes) -> int | None:
    """Milliseconds of a number of seconds; None if it is no number, or finer than that."""
    match = _NUMBER.fullmatch(raw)
    if match is None or len(raw) > 40:
        return None
    sign, whole, fraction, exponent = match.groups()
    fraction = (fraction or b"").rstrip(b"0")
    shift = int(exponent or b"0") + 3 - len(fraction)
    digits = int(whole + fraction)
    if abs(shift) > 40:
        return 0 if digits == 0 else None
    milliseconds, rest = divmod(digits * _power_of_ten(shift), _power_of_ten(-shift))
    if rest:
        return None
    return -milliseconds if sign else milliseconds


def _power_of_ten(exponent: int) -> int:
    return int("1" + "0" * exponent)
