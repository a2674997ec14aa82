"""`${...}` references: parsed once, resolved against a scope without ever reformatting a JSON value.

Numbers and untouched values keep their own text (msgspec.Raw), so that no result depends on how a float is printed.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Scope(Protocol):
    """What expressions can refer to. Values are JSON texts; None is a root that does not exist."""

    def workflow(self, field: str) -> bytes | None:
        """The JSON text of `workflow.<field>`: input, output, status, workflowId, variables, correlationId, ..."""

    def task(self, reference: str, field: str) -> bytes | None:
        """The JSON text of `<reference>.<field>` of the newest attempt: input, output, status, taskId, ..."""


class Template(msgspec.Struct, frozen=True):
    """A JSON value with expressions in its strings."""

    source: bytes
    references: tuple[str, ...] = ()  # task reference names it mentions
    uses_variables: bool = False
