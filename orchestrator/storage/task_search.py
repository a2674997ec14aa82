"""Search over the attempts of tasks, as over executions: newest scheduling first unless it is said.

An index serves: the task's id, the execution's id, a task's status that is not COMPLETED, and the scheduled time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from orchestrator.engine.model import Execution, Table, TaskAttempt, TaskStatus
from orchestrator.storage import free_text, query_fields
from orchestrator.storage.database import Database
from orchestrator.storage.paging import (
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    SEARCH_SECONDS_MAX,
    Conditions,
    Order,
    Window,
    paged,
)
from orchestrator.storage.query_fields import TASK_FIELDS, TASKS_OF_EXECUTION
from orchestrator.storage.query_language import All, Comparison, Node, OneOf, parse, parse_sort
from orchestrator.storage.reading import verified_row
from orchestrator.storage.schema import NUMBER_BITS, NUMBER_MAX


class TaskFilter(NamedTuple):
    """Which attempts; empty filters nothing."""

    namespace: str
    query: str = ""  # see query_language
    free_text: str = ""
    sort: str = ""  # field:ASC or field:DESC
    window: Window = Window()


class FoundTask(NamedTuple):
    execution: Execution  # the header
    task: TaskAttempt


class TaskPage(NamedTuple):
    tasks: list[FoundTask]
    next_token: str  # "" after the last page
    total: int | None = None  # of all pages, COUNT_MAX at most; None if it was not asked for


async def search_tasks(
    database: Database,
    wanted: TaskFilter,
    *,
    page_size: int = PAGE_SIZE_DEFAULT,
    page_token: str = "",
    seconds_max: float = SEARCH_SECONDS_MAX,
) -> TaskPage:
    """One page; the token is opaque, and good only for the same filter. Raises QueryInvalid."""
    node = parse(wanted.query, TASK_FIELDS)
    needle = free_text.wanted(wanted.free_text)
    source, join = _source(node)
    conditions = Conditions()
    conditions.add(join)
    # One that is being deleted has no status.
    conditions.add("e.namespace = ? AND e.status > 0", wanted.namespace)
    if node is not None:
        sql, bound = query_fields.compiled(node)
        conditions.add(sql, *bound)
    if needle:
        conditions.add(free_text.condition("t"))

    def prepare(connection: apsw.Connection) -> None:
        query_fields.add_functions(connection)
        if needle:
            free_text.add_functions(connection, needle)

    found = await paged(
        database,
        select=f"t.id & {NUMBER_MAX}, e.namespace, e.workflow_id, e.hash, e.body, t.hash, t.body",
        source=source,
        conditions=conditions,
        order=Order.of(parse_sort(wanted.sort, TASK_FIELDS), "t.scheduled_ms", "t.task_id"),
        window=wanted.window,
        of=wanted._replace(window=Window()),
        size=max(1, min(page_size, PAGE_SIZE_MAX)),
        token=page_token,
        prepare=prepare,
        seconds_max=seconds_max,
    )
    return TaskPage([_found(*row) for row in found.rows], found.next_token, found.total)


def _found(number: int, space: str, id_: str, e_hash: bytes, e_body: bytes, t_hash: bytes, t_body: bytes) -> FoundTask:
    header = verified_row(Table.EXECUTION, (space, id_), e_hash, e_body)
    return FoundTask(header, verified_row(Table.TASK, (space, id_, number), t_hash, t_body))


def _source(node: Node | None) -> tuple[str, str]:
    """What is read first, and how the other is found: SQLite has no statistics to choose by."""
    if _says(node, "workflowId"):
        return "execution e CROSS JOIN task t", TASKS_OF_EXECUTION
    by_status = _says(node, "status", not_this=TaskStatus.COMPLETED)
    index = "task_id" if _says(node, "taskId") else "task_status" if by_status else "task_scheduled"
    join = f"e.id = t.id >> {NUMBER_BITS}"
    if by_status:
        # Implied, and the index asks for it.
        join += f" AND t.status <> {int(TaskStatus.COMPLETED)}"
    return f"task t INDEXED BY {index} CROSS JOIN execution e", join


def _says(node: Node | None, name: str, not_this: Any = None) -> bool:
    """Whether by the query the field has to be one of some values, which `not_this` is not among."""
    match node:
        case All(parts):
            return any(_says(part, name, not_this) for part in parts)
        case Comparison(field, "=", value):
            return field.name == name and value != not_this
        case OneOf(field, values):
            return field.name == name and not_this not in values
    return False
