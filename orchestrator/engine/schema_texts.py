"""The registered schemas of a namespace, as definitions look them up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from orchestrator.engine.expressions import fields_of
from orchestrator.engine.model import Table
from orchestrator.engine.resident import SchemaRow
from orchestrator.engine.state import State


def registered_schema(state: State, namespace: str, name: str, version: int) -> SchemaRow | None:
    """`version`: 0 is the highest."""
    rows = cast(dict[tuple[str, str, int], SchemaRow], state.resident[Table.SCHEMA])
    if not version:
        version = max((key[2] for key in rows if key[:2] == (namespace, name)), default=0)
    return rows.get((namespace, name, version))


class SchemaDocuments(Mapping[tuple[str, int], bytes]):
    """The schemas themselves by name and version, version 0 being the highest."""

    def __init__(self, state: State, namespace: str) -> None:
        self._state = state
        self._namespace = namespace

    def __getitem__(self, key: tuple[str, int]) -> bytes:
        row = registered_schema(self._state, self._namespace, *key)
        if row is None:
            raise KeyError(key)
        return fields_of(row.document)["data"]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        keys = sorted(cast(dict[tuple[str, str, int], SchemaRow], self._state.resident[Table.SCHEMA]))
        return ((name, version) for namespace, name, version in keys if namespace == self._namespace)

    def __len__(self) -> int:
        return sum(1 for _ in self)
