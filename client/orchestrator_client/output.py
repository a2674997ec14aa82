"""A workflow's output without a declared type: members are attributes, and items too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Output:
    """A JSON object whose members read as attributes: ``output.tracking`` is ``output["tracking"]``."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.__members = dict(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_Output__members":
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self.__members) or "nothing"
            raise AttributeError(f"the output has no {name!r}; it has {known}") from None

    def __getitem__(self, name: str) -> Any:
        return attributes(self.__members[name])

    def __contains__(self, name: object) -> bool:
        return name in self.__members

    def __iter__(self) -> Iterator[str]:
        return iter(self.__members)

    def __len__(self) -> int:
        return len(self.__members)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Output):
            return self.__members == other.__members
        return self.__members == other

    __hash__ = None  # type: ignore[assignment]  # equal to a dict, so as little hashable as one

    def __repr__(self) -> str:
        return f"Output({self.__members!r})"

    def __orchestrator_json__(self) -> dict[str, Any]:
        return self.__members


def attributes(value: Any) -> Any:
    """The same JSON value with attribute access to the members of its objects."""
    if isinstance(value, dict):
        return Output(value)
    if isinstance(value, list):
        return [attributes(item) for item in value]
    return value
