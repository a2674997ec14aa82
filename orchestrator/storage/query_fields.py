"""The fields of searches, and conditions over them as SQL: names of columns are this file's, values are bound.

Times, statuses, names and ids have columns. What has none is read from the encoded row, by functions that the search's
connection is given: such a condition reads every row that the others leave.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import apsw

from orchestrator.codec.rows import decode_row
from orchestrator.engine.model import CompensationState, Table, TaskStatus, WorkflowStatus
from orchestrator.storage.query_language import (
    All,
    AnyOf,
    Between,
    Comparison,
    Field,
    Fields,
    IsNull,
    Kind,
    Like,
    Node,
    Not,
    OneOf,
)
from orchestrator.storage.schema import NUMBER_BITS, NUMBER_MAX

Sql = tuple[str, list[Any]]

_TEXT, _INTEGER, _TIME, _STATUS = Kind.TEXT, Kind.INTEGER, Kind.TIME, Kind.STATUS
# As Conductor has it: the type of a worker's task is its name.
_TASK_TYPE = "CASE t.type WHEN 'SIMPLE' THEN t.name ELSE t.type END"


def _in_row(alias: str, name: str) -> str:
    return f"{alias}_field({alias}.body, '{name}')"


def _by_name(fields: Iterable[Field]) -> Fields:
    return {field.name: field for field in fields}


WORKFLOW_FIELDS = _by_name((
    Field("workflowId", _TEXT, "e.workflow_id"),
    Field("workflowType", _TEXT, "e.name"),
    Field("name", _TEXT, "e.name"),
    Field("version", _INTEGER, _in_row("e", "version")),
    Field("correlationId", _TEXT, "e.correlation_id"),
    Field("status", _STATUS, "e.status", WorkflowStatus),
    Field("compensation", _STATUS, "e.compensation", CompensationState),
    Field("startTime", _TIME, "e.started_ms"),
    Field("endTime", _TIME, "e.ended_ms"),
    Field("updateTime", _TIME, "e.updated_ms"),
    Field("priority", _INTEGER, "e.priority"),
    Field("createdBy", _TEXT, _in_row("e", "created_by")),
    Field("idempotencyKey", _TEXT, _in_row("e", "idempotency_key")),
    Field("reasonForIncompletion", _TEXT, _in_row("e", "reason")),
    Field("failedTask", _TEXT, _in_row("e", "failed_task")),
    Field("parentWorkflowId", _TEXT, _in_row("e", "parent")),
    Field("taskId", _TEXT, "t.task_id", of_any_task=True),
    Field("taskType", _TEXT, _TASK_TYPE, of_any_task=True),
    Field("taskDefName", _TEXT, "t.name", of_any_task=True),
    Field("taskStatus", _STATUS, "t.status", TaskStatus, of_any_task=True),
))

TASK_FIELDS = _by_name((
    Field("taskId", _TEXT, "t.task_id"),
    Field("taskType", _TEXT, _TASK_TYPE),
    Field("taskDefName", _TEXT, "t.name"),
    Field("referenceTaskName", _TEXT, _in_row("t", "reference")),
    Field("status", _STATUS, "t.status", TaskStatus),
    Field("scheduledTime", _TIME, "t.scheduled_ms"),
    Field("startTime", _TIME, "t.started_ms"),
    Field("endTime", _TIME, "t.ended_ms"),
    Field("updateTime", _TIME, "t.updated_ms"),
    Field("workerId", _TEXT, _in_row("t", "worker_id")),
    Field("reasonForIncompletion", _TEXT, _in_row("t", "reason")),
    Field("errorCode", _TEXT, _in_row("t", "error_code")),
    Field("retryCount", _INTEGER, _in_row("t", "retry_count")),
    Field("iteration", _INTEGER, _in_row("t", "iteration")),
    Field("seq", _INTEGER, f"(t.id & {NUMBER_MAX})"),
    Field("workflowId", _TEXT, "e.workflow_id"),
    Field("workflowType", _TEXT, "e.name"),
    Field("correlationId", _TEXT, "e.correlation_id"),
    Field("workflowStatus", _STATUS, "e.status", WorkflowStatus),
))

TASKS_OF_EXECUTION = f"t.id BETWEEN (e.id << {NUMBER_BITS}) AND (e.id << {NUMBER_BITS} | {NUMBER_MAX})"


def add_functions(connection: apsw.Connection) -> None:
    """What the fields that have no column are read with."""
    for alias, table in (("e", Table.EXECUTION), ("t", Table.TASK)):

        def read(body: Any, name: Any, table: Table = table) -> Any:
            return getattr(decode_row(table, body), name)

        connection.create_scalar_function(f"{alias}_field", cast(Any, read), 2, deterministic=True)


def compiled(node: Node) -> Sql:
    """The condition, which is never NULL, and what is bound in it."""
    match node:
        case All(parts) | AnyOf(parts):
            pieces = [compiled(part) for part in parts]
            joined = " AND " if isinstance(node, All) else " OR "
            return f"({joined.join(sql for sql, _ in pieces)})", [value for _, bound in pieces for value in bound]
        case Not(part):
            sql, bound = compiled(part)
            return f"NOT {sql}", bound
    sql, bound = _condition(node)
    if node.field.of_any_task:
        sql = f"EXISTS (SELECT 1 FROM task t WHERE {TASKS_OF_EXECUTION} AND {sql})"
    return f"({sql})", bound


def _condition(node: Comparison | Like | OneOf | Between | IsNull) -> Sql:
    sql, kind = node.field.sql, node.field.kind
    match node:
        case IsNull():
            if kind in (_INTEGER, _STATUS):
                return "0", []
            return (f"{sql} = 0" if kind is _TIME else f"{sql} = ''"), []
        case OneOf(_, values):
            return (f"{_there(node.field)}{sql} IN ({','.join('?' * len(values))})" if values else "0"), list(values)
        case Between(_, low, high):
            return f"{_there(node.field)}{sql} BETWEEN ? AND ?", [low, high]
        case Comparison(_, operator, value):
            return f"{_there(node.field)}{sql} {operator} ?", [value]
        case Like(_, pieces):
            return _like(sql, pieces)


def _there(field: Field) -> str:
    """A text that is not there is less than all others; a time, 0."""
    if field.kind is _TEXT:
        return f"{field.sql} <> '' AND "
    return f"{field.sql} <> 0 AND " if field.kind is _TIME else ""


def _like(sql: str, pieces: tuple[str, ...]) -> Sql:
    prefix, rest = pieces[0], pieces[1:]
    if rest == ("",) and prefix:
        end = _after(prefix)
        if end is not None:
            return f"{sql} >= ? AND {sql} < ?", [prefix, end]
    pattern = "*".join(_escaped(piece) for piece in pieces)
    return f"{sql} <> '' AND {sql} GLOB ?", [pattern]


def _escaped(piece: str) -> str:
    return "".join(f"[{letter}]" if letter in "?[" else letter for letter in piece)


def _after(prefix: str) -> str | None:
    """The least text that is greater than all that begin with the prefix; None if its last character has no next."""
    number = ord(prefix[-1]) + 1
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return None
    return prefix[:-1] + chr(number)
