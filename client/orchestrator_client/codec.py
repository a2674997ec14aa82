"""Values to JSON and back, driven by type hints; what does not fit is refused with the path to it.

Dataclasses become objects (unknown members are ignored when reading, so that a field can be added on one side
first), enums their values, datetimes ISO 8601, timedeltas seconds, decimals and UUIDs text, bytes base64.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, Union
from uuid import UUID

from orchestrator_client.errors import CodecError

Json = Any
"""What `json.loads` can answer."""

# What is its own JSON form, and most of what there is; classes made of these are not among them.
_PLAIN = frozenset({type(None), bool, int, str})
_text_of = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}


def dumps(value: object) -> bytes:
    """The compact UTF-8 JSON text of any value that has a JSON form."""
    return json_text(encode(value))


def json_text(form: Json) -> bytes:
    """The compact UTF-8 JSON text of what `encode` has answered."""
    return _text_of(form).encode()


def loads(data: bytes) -> Json:
    """The document in a JSON text; no bytes at all are an empty object."""
    if not data:
        return {}
    try:
        return json.loads(data)
    except ValueError as error:
        raise CodecError("", f"not JSON: {error}") from None


def encode(value: object, path: str = "") -> Json:
    """The JSON form of a value, as what `json.dumps` takes."""
    if type(value) in _PLAIN:
        return value
    if value is None or (isinstance(value, str | bool | int) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise CodecError(path, f"{value} has no JSON form")
        return value
    if isinstance(value, Enum):
        return encode(value.value, path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value, path)
    if isinstance(value, Mapping):
        return {_key(key, path): encode(item, _member(path, str(key))) for key, item in value.items()}
    if isinstance(value, list | tuple | AbstractSet) or (isinstance(value, Sequence) and not isinstance(value, bytes)):
        return [encode(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return _encode_leaf(value, path)


def _encode_dataclass(value: Any, path: str) -> Json:
    encoded = {}
    kind: type = type(value)
    for name in _field_names(kind):
        item = getattr(value, name)
        encoded[name] = item if type(item) in _PLAIN else encode(item, _member(path, name))
    return encoded


def _encode_leaf(value: object, path: str) -> Json:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    as_json = getattr(type(value), "__orchestrator_json__", None)
    if as_json is not None:
        return encode(as_json(value), path)
    raise CodecError(path, f"a {type(value).__name__} has no JSON form; give it as a dataclass or a dict")


def decode(kind: Any, value: Json, path: str = "") -> Any:
    """The value of the given type that the JSON form stands for."""
    if type(kind) is type:
        # Most of what there is: no generic type, union or enum.
        if kind in _LEAVES:
            return _LEAVES[kind](value, path)
        if dataclasses.is_dataclass(kind):
            return _decode_dataclass(kind, value, path)
    if kind is Any or kind is object or isinstance(kind, typing.TypeVar):
        return value
    if kind is None or kind is type(None):
        return _checked(value is None, value, path, "null", lambda: None)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(typing.get_args(kind), value, path)
    if origin is Annotated:
        return decode(typing.get_args(kind)[0], value, path)
    if origin is Literal:
        return _decode_literal(typing.get_args(kind), value, path)
    if hasattr(kind, "__supertype__"):
        return decode(kind.__supertype__, value, path)
    target = origin or kind
    if not isinstance(target, type):
        raise CodecError(path, f"the type {kind!r} has no JSON form")
    if dataclasses.is_dataclass(target):
        return _decode_dataclass(target, value, path)
    if typing.is_typeddict(target):
        return _decode_typed_dict(target, value, path)
    if target in _LEAVES and not typing.get_args(kind):
        return _LEAVES[target](value, path)
    if issubclass(target, Enum):
        return _decode_enum(target, value, path)
    return _decode_container(target, typing.get_args(kind), value, path)


def is_object_type(kind: Any) -> bool:
    """Whether values of the type always become JSON objects (so that they need no wrapping)."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return is_object_type(typing.get_args(kind)[0])
    if origin in (Union, types.UnionType):
        return all(is_object_type(member) for member in typing.get_args(kind))
    target = origin or kind
    return isinstance(target, type) and (
        dataclasses.is_dataclass(target) or typing.is_typeddict(target) or issubclass(target, Mapping)
    )


@lru_cache(maxsize=4096)
def field_types(kind: type) -> dict[str, Any]:
    """The resolved type of each field of a dataclass or TypedDict."""
    try:
        return typing.get_type_hints(kind, localns={kind.__name__: kind})
    except NameError as error:
        module = sys.modules.get(kind.__module__)
        where = f" of {module.__name__}" if module is not None else ""
        raise CodecError(
            kind.__qualname__, f"its annotation names {error.name!r}, which must be a global name{where}"
        ) from None


@lru_cache(maxsize=4096)
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@lru_cache(maxsize=4096)
def _parameters(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """What makes one of the dataclass: the name and the type of each, and whether it has no default."""
    hints, missing = field_types(kind), dataclasses.MISSING
    return tuple(
        (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
        if field.init
    )


def _member(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _key(key: object, path: str) -> str:
    if isinstance(key, Enum):
        return _key(key.value, path)
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise CodecError(path, f"a member name must be text, not {type(key).__name__}")


def _found(value: Json) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _checked(fits: bool, value: Json, path: str, wanted: str, make: Callable[[], Any]) -> Any:
    if not fits:
        raise CodecError(path, f"expected {wanted}, found {_found(value)}")
    return make()


def _decode_union(members: tuple[Any, ...], value: Json, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    candidates = [member for member in members if member is not type(None)]
    if len(candidates) == 1:
        return decode(candidates[0], value, path)
    # An exact fit of a plain type wins, so that `float | int` keeps 1 an int and `int | str` keeps "1" text.
    if type(value) in candidates:
        return value
    problems = []
    for candidate in candidates:
        try:
            return decode(candidate, value, path)
        except CodecError as error:
            problems.append(str(error))
    raise CodecError(path, "fits none of the types: " + "; ".join(problems))


def _decode_literal(choices: tuple[Any, ...], value: Json, path: str) -> Any:
    for choice in choices:
        if encode(choice) == value and type(encode(choice)) is type(value):
            return choice
    raise CodecError(path, f"expected one of {', '.join(map(repr, choices))}, found {value!r}")


def _decode_dataclass(kind: type, value: Json, path: str) -> Any:
    if not isinstance(value, dict):
        raise CodecError(path, f"expected an object ({kind.__name__}), found {_found(value)}")
    arguments = {}
    for name, wanted, is_needed in _parameters(kind):
        if name in value:
            item = value[name]
            fits = type(item) is wanted and wanted in _PLAIN
            arguments[name] = item if fits else decode(wanted, item, _member(path, name))
        elif is_needed:
            raise CodecError(_member(path, name), f"missing ({kind.__name__} needs it)")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:  # __post_init__ may check more than types
        raise CodecError(path, f"{kind.__name__}: {error}") from error


def _decode_typed_dict(kind: Any, value: Json, path: str) -> Any:
    _checked(isinstance(value, dict), value, path, "an object", lambda: None)
    hints = field_types(kind)
    for name in kind.__required_keys__:
        if name not in value:
            raise CodecError(_member(path, name), f"missing ({kind.__name__} needs it)")
    return {
        name: decode(hints[name], item, _member(path, name)) if name in hints else item for name, item in value.items()
    }


def _decode_enum(kind: type[Enum], value: Json, path: str) -> Enum:
    for member in kind:
        if encode(member.value) == value:
            return member
    raise CodecError(path, f"expected a {kind.__name__} ({', '.join(repr(m.value) for m in kind)}), found {value!r}")


def _decode_container(target: type, arguments: tuple[Any, ...], value: Json, path: str) -> Any:
    if issubclass(target, Mapping):
        _checked(isinstance(value, dict), value, path, "an object", lambda: None)
        key_kind, item_kind = arguments if len(arguments) == 2 else (str, Any)
        return {
            _decode_key(key_kind, key, path): decode(item_kind, item, _member(path, key)) for key, item in value.items()
        }
    if issubclass(target, tuple) and arguments and not (len(arguments) == 2 and arguments[1] is ...):
        wanted = f"a list of {len(arguments)}"
        _checked(isinstance(value, list) and len(value) == len(arguments), value, path, wanted, lambda: None)
        pairs = zip(arguments, value, strict=True)
        return tuple(decode(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(pairs))
    if issubclass(target, Sequence | AbstractSet):
        _checked(isinstance(value, list), value, path, "a list", lambda: None)
        item_kind = arguments[0] if arguments else Any
        items = [decode(item_kind, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return target(items) if target in (tuple, set, frozenset) else items
    raise CodecError(path, f"the type {target.__name__} has no JSON form")


def _decode_key(kind: Any, key: str, path: str) -> Any:
    if kind is int:
        try:
            return int(key)
        except ValueError:
            raise CodecError(_member(path, key), "the member name must be a number") from None
    return key if kind is str else decode(kind, key, path)


def _number(value: Json, path: str) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits and isinstance(value, float):
        raise CodecError(path, f"expected a whole number, found {value}")
    return int(_checked(fits, value, path, "a whole number", lambda: value))


def _float(value: Json, path: str) -> float:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return float(_checked(fits, value, path, "a number", lambda: value))


def _plain(kind: type) -> Callable[[Json, str], Any]:
    return lambda value, path: _checked(isinstance(value, kind), value, path, _KINDS[kind], lambda: value)


def _parsed(parse: Callable[[Any], Any], wanted: str) -> Callable[[Json, str], Any]:
    def read(value: Json, path: str) -> Any:
        _checked(isinstance(value, str), value, path, wanted, lambda: None)
        try:
            return parse(value)
        except (ValueError, InvalidOperation):
            raise CodecError(path, f"expected {wanted}, found {value!r}") from None

    return read


_LEAVES: dict[type, Callable[[Json, str], Any]] = {
    str: _plain(str),
    bool: _plain(bool),
    dict: _plain(dict),
    list: _plain(list),
    int: _number,
    float: _float,
    datetime: _parsed(datetime.fromisoformat, "a date and time (ISO 8601)"),
    date: _parsed(date.fromisoformat, "a date (ISO 8601)"),
    timedelta: lambda value, path: timedelta(seconds=_float(value, path)),
    Decimal: _parsed(Decimal, "a decimal number as text"),
    UUID: _parsed(UUID, "a UUID"),
    bytes: _parsed(lambda text: base64.b64decode(text, validate=True), "base64"),
}
