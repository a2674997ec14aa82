"""Values that workers get with their attempts, by the names in `runtimeMetadata` of task definitions.

They are looked up by the node that hands an attempt out, each time it does so. No entry, row or log line has them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

logger = logging.getLogger(__name__)

# All that a task may ask for fits into a message that every client accepts.
VALUE_BYTES_MAX = 16 * 1024
# So many names that came to nothing are remembered, lest each attempt says so again.
_TOLD_MAX = 1_000


class Source(Protocol):
    """A place where values are kept."""

    def resolve(self, namespace: str, name: str) -> str | None:
        """The value of the name for tasks of the namespace; None if there is none."""


class Environment:
    """Of all namespaces alike: `NAME` is the variable `<prefix>NAME`. Without a prefix nothing is to be seen."""

    def __init__(self, variables: Mapping[str, str], prefix: str) -> None:
        self._variables = variables
        self._prefix = prefix

    def resolve(self, namespace: str, name: str) -> str | None:
        return self._variables.get(self._prefix + name) if self._prefix else None


class RuntimeMetadata:
    """Asks its sources in their order; the first that has a value gives it."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._told: dict[tuple[str, str], None] = {}

    def values(self, namespace: str, names: Iterable[str]) -> dict[str, str]:
        """Of these names those that have a value. A warning, once for each, says which have none."""
        found = {}
        for name in names:
            value = self._resolve(namespace, name)
            fault = "there is none" if value is None else _fault_of(value)
            if value is None or fault:
                self._tell(namespace, name, fault)
            else:
                found[name] = value
        return found

    def _resolve(self, namespace: str, name: str) -> str | None:
        for source in self._sources:
            value = source.resolve(namespace, name)
            if value is not None:
                return value
        return None

    def _tell(self, namespace: str, name: str, fault: str) -> None:
        if (namespace, name) in self._told:
            return
        if len(self._told) >= _TOLD_MAX:
            del self._told[next(iter(self._told))]
        self._told[namespace, name] = None
        logger.warning("tasks get no value of %r: %s", name, fault, extra={"namespace": namespace})


def _fault_of(value: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "it is not text in UTF-8"
    return f"it has more than {VALUE_BYTES_MAX} bytes" if size > VALUE_BYTES_MAX else ""
