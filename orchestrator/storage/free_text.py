"""Free text: a piece of text that stands somewhere in an execution or a task, whatever its case.

Looked at are names, ids and reasons, and the stored JSON of inputs, outputs and variables. What a definition masks is
not found, nor is anything else in the payloads of such an execution: finding would tell. The input of a task that is
kept as the way to resolve it is not looked at.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

from typing import Any

import apsw

from orchestrator.codec.rows import decode_row
from orchestrator.engine.model import Execution, Payload, PayloadRow, Table, TaskAttempt
from orchestrator.storage.errors import QueryInvalid
from orchestrator.storage.schema import NUMBER_BITS

CHARACTERS_MAX = 200
ANYTHING = "*"


def wanted(free_text: str) -> str:
    """What is to be found; "" if anything will do. Raises QueryInvalid."""
    if len(free_text) > CHARACTERS_MAX:
        raise QueryInvalid(f"free text has {len(free_text)} characters; the limit is {CHARACTERS_MAX}")
    return "" if free_text.strip() == ANYTHING else free_text.casefold()


def condition(alias: str) -> str:
    """SQL over the row of an execution (e) or a task (t); the execution of a task is e, too."""
    first = f"({'e.id' if alias == 'e' else f'(t.id >> {NUMBER_BITS})'} << {NUMBER_BITS})"
    body = f"'{alias}', {alias}.body"
    # Few rows have payloads that are kept apart.
    numbers = ", ".join(f"({first} | large_payload({body}, {at}))" for at in range(3))
    return (
        f"(words_hold({body}) OR ((payloads_hold({body}) OR "
        f"EXISTS (SELECT 1 FROM payload p WHERE p.id IN ({numbers}) AND payload_holds(p.body)))"
        f" AND NOT is_masked(e.body)))"
    )


def add_functions(connection: apsw.Connection, needle: str) -> None:
    """The functions of `condition`, for one text."""
    decoded = _Decoded(needle)

    def words_hold(alias: str, body: bytes) -> bool:
        return decoded.may_hold(body) and any(needle in word.casefold() for word in _words(decoded.row(alias, body)))

    def payloads_hold(alias: str, body: bytes) -> bool:
        if not decoded.may_hold(body):
            return False
        return any(isinstance(one, bytes) and needle in _text(one) for one in _payloads(decoded.row(alias, body)))

    def large_payload(alias: str, body: bytes, at: int) -> int | None:
        payloads = _payloads(decoded.row(alias, body))
        payload = payloads[at] if at < len(payloads) else b""
        return payload if isinstance(payload, int) else None

    def payload_holds(body: bytes) -> bool:
        if needle not in _text(body):
            return False
        row: PayloadRow = decode_row(Table.PAYLOAD, body)
        return needle in _text(row.data)

    def is_masked(body: bytes) -> bool:
        header: Execution = decode_row(Table.EXECUTION, body)
        return bool(header.masked_fields)

    functions: tuple[tuple[Any, int], ...] = (
        (words_hold, 2), (payloads_hold, 2), (large_payload, 3), (payload_holds, 1), (is_masked, 1)
    )
    for function, arguments in functions:
        connection.create_scalar_function(function.__name__, function, arguments, deterministic=True)


def _words(row: Execution | TaskAttempt) -> tuple[str, ...]:
    if isinstance(row, Execution):
        return (
            row.workflow_id, row.name, row.correlation_id, row.created_by, row.idempotency_key, row.reason,
            row.failed_task, row.status.name,
        )
    return (row.task_id, row.name, row.reference, row.type, row.worker_id, row.reason, row.error_code, row.status.name)


def _payloads(row: Execution | TaskAttempt) -> tuple[Payload, ...]:
    return (row.input, row.output, row.variables) if isinstance(row, Execution) else (row.input, row.output)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "ignore").casefold()


class _Decoded:
    """The functions are asked of one row after the other, and several times of each."""

    def __init__(self, needle: str) -> None:
        self._needle = needle
        self._looked_at = b""
        self._may_hold = False
        self._decoded = ("", b"")
        self._row: Any = None

    def may_hold(self, body: bytes) -> bool:
        """Most rows don't have it anywhere: nothing needs to be decoded to see that."""
        if body != self._looked_at:
            self._looked_at, self._may_hold = body, self._needle in _text(body)
        return self._may_hold

    def row(self, alias: str, body: bytes) -> Any:
        if (alias, body) != self._decoded:
            self._row = decode_row(Table.EXECUTION if alias == "e" else Table.TASK, body)
            self._decoded = (alias, body)
        return self._row
