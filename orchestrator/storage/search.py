"""Search over executions: page by page, within limits of time and of results, newest start first unless it is said.

It sees what is committed: whoever needs it to see everything acknowledged flushes first. Pages follow the value that is
sorted by and the workflow id, which are the same on every node; so a token taken from one node is good on another.

An index serves: the workflow id, the correlation id, a status that is not COMPLETED, the name (also with `*` behind
it), a compensation, the start time, and, for tasks of an execution, their task id. What else is asked for is looked at
in each of the rows that these leave.
"""



# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from orchestrator.engine.model import CompensationState, Execution, Table, WorkflowStatus
from orchestrator.storage import free_text, query_fields
from orchestrator.storage.database import Database
from orchestrator.storage.paging import (
    COUNT_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    SEARCH_SECONDS_MAX,
    Conditions,
    Order,
    Window,
    paged,
)
from orchestrator.storage.query_fields import WORKFLOW_FIELDS
from orchestrator.storage.query_language import All, Comparison, Like, Node, parse, parse_sort
from orchestrator.storage.reading import verified_row
from orchestrator.storage.schema import NUMBER_BITS

__all__ = [
    "COUNT_MAX",
    "PAGE_SIZE_DEFAULT",
    "PAGE_SIZE_MAX",
    "SEARCH_SECONDS_MAX",
    "ExecutionFilter",
    "Page",
    "search_executions",
]


class ExecutionFilter(NamedTuple):
    """Which executions; None and empty filter nothing. Times are milliseconds; `from` includes, `before` does not."""

    namespace: str
    name: str = ""
    statuses: tuple[WorkflowStatus, ...] = ()
    correlation_id: str = ""
    started_from_ms: int | None = None
    started_before_ms: int | None = None
    ended_from_ms: int | None = None
    ended_before_ms: int | None = None
    compensation_states: tuple[CompensationState, ...] = ()
    query: str = ""  # see query_language
    free_text: str = ""
    sort: str = ""  # field:ASC or field:DESC
    window: Window = Window()


class Page(NamedTuple):
    executions: list[Execution]
    next_token: str  # "" after the last page
    total: int | None = None  # of all pages, COUNT_MAX at most; None if it was not asked for


async def search_executions(
    database: Database,
    wanted: ExecutionFilter,
    *,
    page_size: int = PAGE_SIZE_DEFAULT,
    page_token: str = "",
    seconds_max: float = SEARCH_SECONDS_MAX,
) -> Page:
    """One page; the token is opaque, and good only for the same filter. Raises QueryInvalid."""
    size = max(1, min(page_size, PAGE_SIZE_MAX))
    node = parse(wanted.query, WORKFLOW_FIELDS)
    needle = free_text.wanted(wanted.free_text)
    conditions = _conditions(wanted, node)
    if needle:
        conditions.add(free_text.condition("e"))
    order = Order.of(parse_sort(wanted.sort, WORKFLOW_FIELDS), "e.started_ms", "e.workflow_id")

    def prepare(connection: apsw.Connection) -> None:
        query_fields.add_functions(connection)
        if needle:
            free_text.add_functions(connection, needle)

    found = await paged(
        database,
        select="e.namespace, e.workflow_id, e.hash, e.body",
        source=f"execution e {_index(wanted, node)}",
        conditions=conditions,
        order=order,
        window=wanted.window,
        of=wanted._replace(window=Window()),
        size=size,
        token=page_token,
        prepare=prepare,
        seconds_max=seconds_max,
    )
    rows = [verified_row(Table.EXECUTION, (space, id_), digest, body) for space, id_, digest, body in found.rows]
    return Page(rows, found.next_token, found.total)


def _conditions(wanted: ExecutionFilter, node: Node | None) -> Conditions:
    conditions = Conditions()
    conditions.add("e.namespace = ?", wanted.namespace)
    if wanted.name:
        conditions.add("e.name = ?", wanted.name)
    if wanted.correlation_id:
        conditions.add("e.correlation_id = ? AND e.correlation_id <> ''", wanted.correlation_id)
    if not wanted.statuses:
        # One that is being deleted has none.
        conditions.add("e.status > 0")
    else:
        conditions.add(f"e.status IN ({_marks(wanted.statuses)})", *map(int, wanted.statuses))
    if wanted.compensation_states:
        states = wanted.compensation_states
        conditions.add(f"e.compensation IN ({_marks(states)})", *map(int, states))
        if CompensationState.NONE not in states:
            conditions.add("e.compensation > 1")
    if wanted.started_from_ms is not None:
        conditions.add("e.started_ms >= ?", wanted.started_from_ms)
    if wanted.started_before_ms is not None:
        conditions.add("e.started_ms < ?", wanted.started_before_ms)
    if wanted.ended_from_ms is not None or wanted.ended_before_ms is not None:
        conditions.add("e.ended_ms > 0")
    if wanted.ended_from_ms is not None:
        conditions.add("e.ended_ms >= ?", wanted.ended_from_ms)
    if wanted.ended_before_ms is not None:
        conditions.add("e.ended_ms < ?", wanted.ended_before_ms)
    if node is not None:
        sql, bound = query_fields.compiled(node)
        conditions.add(sql, *bound)
        if _equals(node, "correlationId") is not None:
            # Implied, and the index asks for it.
            conditions.add("e.correlation_id <> ''")
        task_id = _equals(node, "taskId")
        if task_id is not None:
            # Implied, and found at once.
            conditions.add(f"e.id IN (SELECT id >> {NUMBER_BITS} FROM task WHERE task_id = ?)", task_id)
    return conditions


def _index(wanted: ExecutionFilter, node: Node | None) -> str:
    """The narrowest index: SQLite has no statistics to choose by."""
    if _equals(node, "workflowId") is not None:
        return ""
    if _equals(node, "taskId") is not None:
        return "NOT INDEXED"  # but by row id
    if wanted.correlation_id or _equals(node, "correlationId") is not None:
        return "INDEXED BY execution_correlation"
    if wanted.compensation_states and CompensationState.NONE not in wanted.compensation_states:
        return "INDEXED BY execution_compensation"
    asked = _equals(node, "status")
    one = wanted.statuses[0] if len(wanted.statuses) == 1 else asked
    if one is not None and one != WorkflowStatus.COMPLETED:
        return "INDEXED BY execution_status"
    if wanted.name or _equals(node, "workflowType") is not None or _equals(node, "name") is not None:
        return "INDEXED BY execution_name"
    if one is not None or (wanted.statuses and WorkflowStatus.COMPLETED not in wanted.statuses):
        return "INDEXED BY execution_status"
    return "INDEXED BY execution_start"


def _equals(node: Node | None, name: str) -> Any:
    """What the field has to be (or to begin with) in any case, by the query; None if nothing is said of it."""
    match node:
        case All(parts):
            return next((found for part in parts if (found := _equals(part, name)) is not None), None)
        case Comparison(field, "=", value) if field.name == name:
            return value
        case Like(field, (prefix, "")) if field.name == name and prefix and field.name in ("workflowType", "name"):
            return prefix
    return None


def _marks(values: tuple[Any, ...]) -> str:
    return ",".join("?" * len(values))
