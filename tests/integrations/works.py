"""Attempts to execute, and services to call, for the tests of executors."""

from __future__ import annotations

import json
import time
from typing import Any

from orchestrator.engine.resident import ServiceRow
from orchestrator.integrations.work import Kind, Outcome, Work


def work(kind: Kind, given: object, **fields: Any) -> Work:
    values: dict[str, Any] = {
        "namespace": "default", "workflow_id": "w", "task_id": "t", "name": "call", "reference": "call",
        "parameters": b"{}", "idempotency_key": "key-1", "fencing_token": 7,
    }
    text = given if isinstance(given, bytes) else json.dumps(given).encode()
    return Work(kind=kind, input=text, **{**values, **fields})


def output_of(outcome: Outcome) -> Any:
    """The `response` of an output."""
    return json.loads(outcome.output)["response"]


class Services:
    """The registry of a node, as executors see it."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], dict[str, Any]] = {}

    def put(self, name: str, **fields: Any) -> None:
        self.records["default", name] = {"name": name, **fields}

    def __call__(self, namespace: str, name: str) -> ServiceRow | None:
        record = self.records.get((namespace, name))
        if record is None:
            return None
        return ServiceRow(namespace, name, json.dumps(record, separators=(",", ":")).encode(), 1)


class Clock:
    """A monotonic clock, which a test may move ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s
