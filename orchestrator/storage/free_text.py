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
    execution = "e.id" if alias == "e" else f"(t.id >> {NUMBER_BITS})"
    masks = "" if alias == "e" else ", e.body"
    # Few rows have payloads that are kept apart.
    first = f"({execution} << {NUMBER_BITS})"
    numbers = ", ".join(f"({first} | {alias}_large({alias}.body{masks}, {at}))" for at in range(3))
    return (
        f"({alias}_holds({alias}.body{masks}) OR "
        f"EXISTS (SELECT 1 FROM payload p WHERE p.id IN ({numbers}) AND payload_holds(p.body)))"
    )


def add_functions(connection: apsw.Connection, needle: str) -> None:
    """The functions of `condition`, for one text."""

    def holds(kind: Table, body: bytes, masks: bytes | None = None) -> bool:
        # Most rows don't have it anywhere: nothing needs to be decoded to see that.
        if needle not in body.decode("utf-8", "ignore").casefold():
            return False
        row = decode_row(kind, body)
        return any(needle in text.casefold() for text in (*_words(row), *_small(_payloads(row, masks))))

    def large(kind: Table, body: bytes, *rest: Any) -> int | None:
        masks, position = rest if len(rest) == 2 else (None, rest[0])
        payloads = _payloads(decode_row(kind, body), masks)
        if position < len(payloads):
            payload = payloads[position]
            return payload if isinstance(payload, int) else None
        return None

    def payload_holds(body: bytes) -> bool:
        if needle not in body.decode("utf-8", "ignore").casefold():
            return False
        row: PayloadRow = decode_row(Table.PAYLOAD, body)
        return needle in row.data.decode("utf-8", "ignore").casefold()

    functions: tuple[tuple[str, Any, int], ...] = (
        ("e_holds", lambda body: holds(Table.EXECUTION, body), 1),
        ("e_large", lambda body, at: large(Table.EXECUTION, body, at), 2),
        ("t_holds", lambda body, masks: holds(Table.TASK, body, masks), 2),
        ("t_large", lambda body, masks, at: large(Table.TASK, body, masks, at), 3),
        ("payload_holds", payload_holds, 1),
    )
    for name, function, arguments in functions:
        connection.create_scalar_function(name, function, arguments, deterministic=True)


def _words(row: Execution | TaskAttempt) -> tuple[str, ...]:
    if isinstance(row, Execution):
        return (
            row.workflow_id, row.name, row.correlation_id, row.created_by, row.idempotency_key, row.reason,
            row.failed_task, row.status.name,
        )
    return (row.task_id, row.name, row.reference, row.type, row.worker_id, row.reason, row.error_code, row.status.name)


def _payloads(row: Execution | TaskAttempt, execution: bytes | None) -> tuple[Payload, ...]:
    """Those that may be looked at. `execution`: the encoded header of a task's execution."""
    header: Execution = row if isinstance(row, Execution) else decode_row(Table.EXECUTION, execution or b"")
    if header.masked_fields:
        return ()
    return (row.input, row.output, row.variables) if isinstance(row, Execution) else (row.input, row.output)


def _small(payloads: tuple[Payload, ...]) -> list[str]:
    return [payload.decode("utf-8", "ignore") for payload in payloads if isinstance(payload, bytes)]
