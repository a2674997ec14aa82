"""References to values that exist only when the workflow runs: what a step takes and what it gives."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, NoReturn, Union

from orchestrator_client.codec import field_types

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}\Z")


class Ref:
    """Stands for a value of the running workflow; in the definition it is an expression such as ``${charge.output}``.

    Attributes and items are references to parts of it, checked against the type where that is known. In an f-string
    it becomes the expression, so ``f"order {ref.id}"`` is filled in at run time.
    """

    __slots__ = ("_path", "_type")

    def __init__(self, path: str, kind: Any = Any) -> None:
        self._path = path
        self._type = kind

    def __getattr__(self, name: str) -> Ref:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._part(name, AttributeError)

    def __getitem__(self, key: str | int) -> Ref:
        if isinstance(key, str):
            return self._part(key, KeyError)
        if not isinstance(key, int) or isinstance(key, bool) or key < 0:
            raise TypeError(f"an item of {self._path} is named by a text or a number from 0, not {key!r}")
        kind = without_none(self._type)
        arguments = typing.get_args(kind)
        return Ref(f"{self._path}[{key}]", arguments[0] if typing.get_origin(kind) is list and arguments else Any)

    def _part(self, name: str, error: type[Exception]) -> Ref:
        kind = without_none(self._type)
        part: Any = Any
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)):
            fields = field_types(kind)
            if name not in fields:
                raise error(
                    f"{self._path} is of type {kind.__name__}, which has no {name!r}; it has {', '.join(fields)}"
                )
            part = fields[name]
        elif kind in (str, int, float, bool, bytes, type(None)):
            raise error(f"{self._path} is of type {getattr(kind, '__name__', kind)}, which has no parts")
        elif typing.get_origin(kind) is dict:
            part = typing.get_args(kind)[1]
        step = f".{name}" if _PLAIN_NAME.match(name) else f"['{name}']"
        return Ref(self._path + step, part)

    def __str__(self) -> str:
        return f"${{{self._path}}}"

    def __repr__(self) -> str:
        return f"<Ref {self._path}>"

    def __format__(self, spec: str) -> str:
        if spec:
            raise TypeError(f"{self._path} has no value yet, so it can't be formatted with {spec!r}")
        return str(self)

    def __orchestrator_json__(self) -> str:
        return str(self)

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise TypeError(
            f"{self._path} has no value while the workflow is being defined, so Python can't {what}; {instead}"
        )

    def __bool__(self) -> bool:
        self._refuse("decide on it", "use workflow.switch(...) to branch at run time")

    def __eq__(self, other: object) -> bool:
        self._refuse("compare it", "use workflow.switch(...) to branch at run time")

    def __lt__(self, other: object) -> bool:
        self._refuse("compare it", "use workflow.switch(...) to branch at run time")

    __le__ = __gt__ = __ge__ = __lt__

    def __hash__(self) -> int:
        return hash(self._path)

    def __iter__(self) -> NoReturn:
        self._refuse("loop over it", "pass it to a task whole")

    def __len__(self) -> int:
        self._refuse("measure it", "pass it to a task whole")

    def __contains__(self, item: object) -> bool:
        self._refuse("search it", "pass it to a task whole")


def secret(name: str) -> Ref:
    """Stands for a secret, or by its attributes for parts of one that is JSON, in what a task takes.

    The task gets the value when it is handed out; nothing else can be made with it.
    """
    if not _SECRET_NAME.match(name):
        raise ValueError(f"the name of a secret has letters, digits, '_' and '-', the first no digit: not {name!r}")
    return Ref(f"workflow.secrets.{name}")


def ref_type(ref: Ref) -> Any:
    return ref._type


def without_none(kind: Any) -> Any:
    """The one other member of an optional type; any other type as it is."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        if len(members) == 1:
            return members[0]
    return kind


def check_fits(value: Any, wanted: Any, where: str) -> None:
    """Refuses what can't be right: two different dataclasses, or a plain value of another kind."""
    wanted = without_none(wanted)
    given = without_none(ref_type(value)) if isinstance(value, Ref) else type(value)
    plain = (str, int, float, bool)

    def known(kind: Any) -> bool:
        return isinstance(kind, type) and (kind in plain or dataclasses.is_dataclass(kind))

    if (isinstance(value, str) and "${" in value) or not known(wanted) or not known(given):
        return
    if issubclass(given, wanted) or (wanted is float and given is int):
        return
    raise TypeError(f"{where} wants {wanted.__name__}, and {value!r} is of type {given.__name__}")
