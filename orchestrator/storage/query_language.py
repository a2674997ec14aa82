"""What people ask for in a search, read into a tree: ``status IN (FAILED, TIMED_OUT) AND startTime > 2026-11-01``.

    query      = and { OR and }
    and        = not { AND not }
    not        = [ NOT ] ( "(" query ")" | condition )
    condition  = field ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
               | field [ NOT ] IN "(" value { "," value } ")"
               | field [ NOT ] BETWEEN value AND value
               | field IS [ NOT ] NULL
               | field [ NOT ] STARTS_WITH value

Values are words or stand in single or double quotes, in which the quote is written twice. ``*`` in a value after ``=``
or ``!=`` stands for any characters. Times are milliseconds since 1970 or ISO 8601, in UTC unless they say otherwise.
Logic has two values: what is not there equals nothing, is neither less nor greater, and makes ``!=`` true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import NamedTuple

from orchestrator.storage.errors import QueryInvalid

CHARACTERS_MAX = 4_000
DEPTH_MAX = 32
CONDITIONS_MAX = 100
VALUES_MAX = 1_000
WILDCARDS_MAX = 8
_INTEGER_BITS = 63

_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>\(|\)|,|!=|<>|<=|>=|=|<|>)|'(?P<single>(?:[^']|'')*)'|"(?P<double>(?:[^"]|"")*)"|"""
    r"""(?P<word>[^\s(),'"=<>!]+))"""
)
_COMPARISONS = {"=": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_RESERVED = frozenset("AND OR NOT IN BETWEEN IS NULL STARTS_WITH".split())
_DIGITS = re.compile(r"-?[0-9]{1,20}")


class Kind(Enum):
    TEXT = "text"
    INTEGER = "integer"
    TIME = "time"
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that can be asked for. `sql` is never NULL; what is not there is "" or, for a time, 0."""

    name: str
    kind: Kind
    sql: str
    names: type[IntEnum] | None = None  # STATUS: what its values are called
    of_any_task: bool = False  # holds for an execution if it holds for one of its tasks


Fields = Mapping[str, Field]
Value = str | int


class Comparison(NamedTuple):
    field: Field
    operator: str  # = < <= > >=
    value: Value


class Like(NamedTuple):
    """The text has these pieces one after the other, with anything between them."""

    field: Field
    pieces: tuple[str, ...]


class OneOf(NamedTuple):
    field: Field
    values: tuple[Value, ...]


class Between(NamedTuple):
    """Both ends are included."""

    field: Field
    low: Value
    high: Value


class IsNull(NamedTuple):
    field: Field


class Not(NamedTuple):
    part: Node


class All(NamedTuple):
    parts: tuple[Node, ...]


class AnyOf(NamedTuple):
    parts: tuple[Node, ...]


Node = Comparison | Like | OneOf | Between | IsNull | Not | All | AnyOf


class _Token(NamedTuple):
    kind: str  # mark, word, text, end
    text: str
    at: int


def parse(query: str, fields: Fields) -> Node | None:
    """None for an empty query. Raises QueryInvalid, which says where."""
    if len(query) > CHARACTERS_MAX:
        raise QueryInvalid(f"it has {len(query)} characters; the limit is {CHARACTERS_MAX}")
    tokens = _tokens(query)
    if len(tokens) == 1:
        return None
    return _Parser(tokens, fields).whole()


def parse_sort(sort: str, fields: Fields) -> tuple[Field, bool] | None:
    """The field and whether the greatest comes first, of "field:ASC" or "field:DESC"; None if nothing is asked for."""
    if not sort.strip():
        return None
    name, _, direction = sort.strip().partition(":")
    field = _field(fields, name.strip(), "")
    if field.of_any_task:
        raise QueryInvalid(f"can't sort by {field.name}: an execution has many")
    if direction.strip().upper() not in ("", "ASC", "DESC"):
        raise QueryInvalid(f"the direction of {field.name} is ASC or DESC, not {direction.strip()!r}")
    return field, direction.strip().upper() == "DESC"


def _tokens(query: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    end = len(query.rstrip())
    while at < end:
        found = _TOKEN.match(query, at)
        if found is None:
            raise QueryInvalid(f"at {at + 1}: {query[at : at + 20].strip()!r} can't be read; is a quote missing?")
        start = found.start(found.lastgroup or 0)
        if found["mark"]:
            tokens.append(_Token("mark", found["mark"], start))
        elif found["word"] is not None:
            tokens.append(_Token("word", found["word"], start))
        elif found["single"] is not None:
            tokens.append(_Token("text", found["single"].replace("''", "'"), start - 1))
        else:
            tokens.append(_Token("text", found["double"].replace('""', '"'), start - 1))
        at = found.end()
    return [*tokens, _Token("end", "the end", end)]


def _field(fields: Fields, name: str, where: str) -> Field:
    field = fields.get(name)
    if field is None:
        raise QueryInvalid(f"{where}there is no field {name[:100]!r}; there are {', '.join(sorted(fields))}")
    return field


class _Parser:
    def __init__(self, tokens: list[_Token], fields: Fields) -> None:
        self._tokens = tokens
        self._fields = fields
        self._position = 0
        self._conditions = 0
        self._values = 0

    def whole(self) -> Node:
        node = self._any(0)
        if self._here.kind != "end":
            raise self._unexpected("AND, OR or the end")
        return node

    # --- reading

    @property
    def _here(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        token = self._here
        if token.kind != "end":
            self._position += 1
        return token

    def _is_word(self, word: str) -> bool:
        return self._here.kind == "word" and self._here.text.upper() == word

    def _accept_word(self, word: str) -> bool:
        if not self._is_word(word):
            return False
        self._position += 1
        return True

    def _accept_mark(self, mark: str) -> bool:
        if (self._here.kind, self._here.text) != ("mark", mark):
            return False
        self._position += 1
        return True

    def _expect(self, found: bool, what: str) -> None:
        if not found:
            raise self._unexpected(what)

    def _unexpected(self, wanted: str) -> QueryInvalid:
        here = self._here
        found = here.text if here.kind == "end" else repr(here.text[:100])
        return QueryInvalid(f"at {here.at + 1}: {wanted} is missing, there is {found}")

    # --- logic

    def _any(self, depth: int) -> Node:
        if depth > DEPTH_MAX:
            raise QueryInvalid(f"it is nested deeper than {DEPTH_MAX}")
        parts = [self._all(depth)]
        while self._accept_word("OR"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self, depth: int) -> Node:
        parts = [self._not(depth)]
        while self._accept_word("AND"):
            parts.append(self._not(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _not(self, depth: int) -> Node:
        if depth > DEPTH_MAX:
            raise QueryInvalid(f"it is nested deeper than {DEPTH_MAX}")
        if self._accept_word("NOT"):
            return Not(self._not(depth + 1))
        if self._accept_mark("("):
            node = self._any(depth + 1)
            self._expect(self._accept_mark(")"), "')'")
            return node
        return self._condition()

    def _condition(self) -> Node:
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise QueryInvalid(f"it has more than {CONDITIONS_MAX} conditions")
        name = self._here
        self._expect(name.kind == "word" and name.text.upper() not in _RESERVED, "the name of a field")
        field = _field(self._fields, self._take().text, f"at {name.at + 1}: ")
        if self._accept_word("IS"):
            negated = self._accept_word("NOT")
            self._expect(self._accept_word("NULL"), "NULL")
            return _negated(IsNull(field), negated)
        negated = self._accept_word("NOT")
        if self._accept_word("IN"):
            return _negated(OneOf(field, self._list(field)), negated)
        if self._accept_word("BETWEEN"):
            low = self._ordered(field)
            self._expect(self._accept_word("AND"), "AND")
            return _negated(Between(field, low, self._ordered(field)), negated)
        if self._accept_word("STARTS_WITH"):
            return _negated(self._starts_with(field), negated)
        self._expect(not negated, "IN, BETWEEN or STARTS_WITH")
        return self._comparison(field)

    def _comparison(self, field: Field) -> Node:
        mark = self._here
        operator = _COMPARISONS.get(mark.text) if mark.kind == "mark" else None
        if operator is None:
            raise self._unexpected("a comparison, IN, BETWEEN, STARTS_WITH or IS NULL")
        self._take()
        if operator not in ("=", "!="):
            return Comparison(field, operator, self._ordered(field))
        return _negated(self._equals(field), operator == "!=")

    def _equals(self, field: Field) -> Node:
        token = self._word()
        if "*" not in token.text or field.kind in (Kind.INTEGER, Kind.TIME):
            return Comparison(field, "=", self._value_of(field, token))
        pieces = tuple(token.text.split("*"))
        if len(pieces) > WILDCARDS_MAX + 1:
            raise QueryInvalid(f"at {token.at + 1}: a value may have {WILDCARDS_MAX} wildcards")
        if field.kind is Kind.TEXT:
            return Like(field, pieces)
        assert field.names is not None
        pattern = re.compile(".*".join(map(re.escape, pieces)), re.IGNORECASE)
        return OneOf(field, tuple(int(one) for one in field.names if pattern.fullmatch(one.name)))

    def _starts_with(self, field: Field) -> Node:
        if field.kind is not Kind.TEXT:
            raise QueryInvalid(f"at {self._here.at + 1}: {field.name} is no text")
        return Like(field, (str(self._value_of(field, self._word())), ""))

    # --- values

    def _word(self) -> _Token:
        self._values += 1
        if self._values > VALUES_MAX:
            raise QueryInvalid(f"it has more than {VALUES_MAX} values")
        self._expect(self._here.kind in ("word", "text"), "a value")
        return self._take()

    def _list(self, field: Field) -> tuple[Value, ...]:
        self._expect(self._accept_mark("("), "'('")
        values = [self._value_of(field, self._word())]
        while self._accept_mark(","):
            values.append(self._value_of(field, self._word()))
        self._expect(self._accept_mark(")"), "',' or ')'")
        return tuple(values)

    def _ordered(self, field: Field) -> Value:
        if field.kind is Kind.STATUS:
            raise QueryInvalid(f"at {self._here.at + 1}: the values of {field.name} have no order")
        return self._value_of(field, self._word())

    def _value_of(self, field: Field, token: _Token) -> Value:
        if field.kind is Kind.TEXT:
            if not token.text:
                raise QueryInvalid(f"at {token.at + 1}: nothing is equal to an empty text; say {field.name} IS NULL")
            return token.text
        if field.kind is Kind.STATUS:
            return _status(field, token)
        number = int(token.text) if _DIGITS.fullmatch(token.text) else None
        if number is None and field.kind is Kind.TIME:
            number = _milliseconds(token)
        if number is None or not -(1 << _INTEGER_BITS) <= number < 1 << _INTEGER_BITS:
            raise QueryInvalid(f"at {token.at + 1}: {field.name} is a number, not {token.text[:100]!r}")
        return number


def _negated(node: Node, negated: bool) -> Node:
    return Not(node) if negated else node


def _status(field: Field, token: _Token) -> int:
    assert field.names is not None
    for one in field.names:
        if one.name == token.text.upper():
            return int(one)
    names = ", ".join(one.name for one in field.names)
    raise QueryInvalid(f"at {token.at + 1}: {field.name} is one of {names}, not {token.text[:100]!r}")


def _milliseconds(token: _Token) -> int:
    try:
        moment = datetime.fromisoformat(token.text)
    except ValueError:
        what = f"{token.text[:100]!r} is no time: say milliseconds since 1970, or as in 2026-11-22T10:00:00Z"
        raise QueryInvalid(f"at {token.at + 1}: {what}") from None
    since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
