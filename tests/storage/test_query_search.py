"""Searches by query, free text and order find what a dumb loop over all rows finds."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.model import (
    CompensationState,
    Execution,
    PayloadRow,
    Table,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
)
from orchestrator.storage.errors import InvalidPageToken, QueryInvalid, SearchTimeout
from orchestrator.storage.paging import Window
from orchestrator.storage.search import ExecutionFilter, search_executions
from orchestrator.storage.task_search import TaskFilter, search_tasks
from tests.storage.samples import Store, execution

TEXTS = ("", "a", "ab", "a*b", "B", "x y", "é", "it's", "[?]", "a%", "long" * 10)
TIMES = (0, 1, 5, 1_000, 86_400_000)
NAMES = ("order", "orders", "refund", "a*b")
TASK_NAMES = ("charge", "ship", "a", "[?]")


def people(count: int = 60) -> list[tuple[Execution, list[TaskAttempt]]]:
    dice = random.Random(5)
    found = []
    for number in range(count):
        header = execution(
            f"w{dice.randrange(1 << 30)}-{number}",
            namespace=dice.choice(("default", "default", "other")),
            name=dice.choice(NAMES),
            version=dice.randrange(3),
            status=dice.choice(list(WorkflowStatus)),
            created_ms=dice.choice(TIMES[1:]),
            updated_ms=dice.choice(TIMES),
            ended_ms=dice.choice(TIMES),
            correlation_id=dice.choice(TEXTS),
            priority=dice.randrange(3),
            created_by=dice.choice(TEXTS),
            reason=dice.choice(TEXTS),
            failed_task=dice.choice(TASK_NAMES),
            idempotency_key=dice.choice(TEXTS),
            parent=dice.choice(TEXTS),
            compensation=dice.choice(list(CompensationState)),
            deleted=dice.random() < 0.05,
        )
        found.append((header, [task(dice, header, sequence) for sequence in range(1, dice.randrange(4))]))
    return found


def task(dice: random.Random, header: Execution, sequence: int) -> TaskAttempt:
    return TaskAttempt(
        sequence=sequence,
        task_id=f"t{dice.randrange(1 << 30)}-{header.workflow_id}-{sequence}",
        reference=dice.choice(TASK_NAMES),
        name=dice.choice(TASK_NAMES),
        type=dice.choice(("SIMPLE", "SIMPLE", "WAIT")),
        status=dice.choice(list(TaskStatus)),
        scheduled_ms=dice.choice(TIMES),
        first_scheduled_ms=1,
        started_ms=dice.choice(TIMES),
        ended_ms=dice.choice(TIMES),
        updated_ms=dice.choice(TIMES),
        retry_count=dice.randrange(3),
        reason=dice.choice(TEXTS),
        error_code=dice.choice(TEXTS),
        worker_id=dice.choice(TEXTS),
    )


PEOPLE = people()
LIVE = [(header, tasks) for header, tasks in PEOPLE if header.namespace == "default" and not header.deleted]
PAIRS = [(header, one) for header, tasks in LIVE for one in tasks]


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "state.db")
    rows: list[Any] = []
    for header, tasks in PEOPLE:
        key = (header.namespace, header.workflow_id)
        rows.append((Table.EXECUTION, key, header, False))
        rows += [(Table.TASK, (*key, one.sequence), one, False) for one in tasks]
    store.stage(rows, 1)
    await store.flusher.drain()
    yield store
    await store.close()


# --- a dumb evaluator: conditions as functions over rows, made together with their text

Row = Any
Test = Callable[[Row], bool]


def _type_of(one: TaskAttempt) -> str:
    return one.name if one.type == "SIMPLE" else one.type


# field -> (kind, all its values in a row: several for one that holds for any task)
OF_WORKFLOW: dict[str, tuple[str, Callable[[Row], list[Any]]]] = {
    "workflowId": ("text", lambda row: [row[0].workflow_id]),
    "workflowType": ("text", lambda row: [row[0].name]),
    "version": ("integer", lambda row: [row[0].version]),
    "correlationId": ("text", lambda row: [row[0].correlation_id]),
    "status": ("status", lambda row: [row[0].status]),
    "compensation": ("compensation", lambda row: [row[0].compensation]),
    "startTime": ("time", lambda row: [row[0].created_ms]),
    "endTime": ("time", lambda row: [row[0].ended_ms]),
    "updateTime": ("time", lambda row: [row[0].updated_ms]),
    "priority": ("integer", lambda row: [row[0].priority]),
    "createdBy": ("text", lambda row: [row[0].created_by]),
    "idempotencyKey": ("text", lambda row: [row[0].idempotency_key]),
    "reasonForIncompletion": ("text", lambda row: [row[0].reason]),
    "failedTask": ("text", lambda row: [row[0].failed_task]),
    "parentWorkflowId": ("text", lambda row: [row[0].parent]),
    "taskId": ("text", lambda row: [one.task_id for one in row[1]]),
    "taskType": ("text", lambda row: [_type_of(one) for one in row[1]]),
    "taskDefName": ("text", lambda row: [one.name for one in row[1]]),
    "taskStatus": ("taskStatus", lambda row: [one.status for one in row[1]]),
}
OF_TASK: dict[str, tuple[str, Callable[[Row], list[Any]]]] = {
    "taskId": ("text", lambda row: [row[1].task_id]),
    "taskType": ("text", lambda row: [_type_of(row[1])]),
    "taskDefName": ("text", lambda row: [row[1].name]),
    "referenceTaskName": ("text", lambda row: [row[1].reference]),
    "status": ("taskStatus", lambda row: [row[1].status]),
    "scheduledTime": ("time", lambda row: [row[1].scheduled_ms]),
    "startTime": ("time", lambda row: [row[1].started_ms]),
    "endTime": ("time", lambda row: [row[1].ended_ms]),
    "updateTime": ("time", lambda row: [row[1].updated_ms]),
    "workerId": ("text", lambda row: [row[1].worker_id]),
    "reasonForIncompletion": ("text", lambda row: [row[1].reason]),
    "errorCode": ("text", lambda row: [row[1].error_code]),
    "retryCount": ("integer", lambda row: [row[1].retry_count]),
    "iteration": ("integer", lambda row: [row[1].iteration]),
    "seq": ("integer", lambda row: [row[1].sequence]),
    "workflowId": ("text", lambda row: [row[0].workflow_id]),
    "workflowType": ("text", lambda row: [row[0].name]),
    "correlationId": ("text", lambda row: [row[0].correlation_id]),
    "workflowStatus": ("status", lambda row: [row[0].status]),
}
STATUSES: dict[str, Any] = {"status": WorkflowStatus, "compensation": CompensationState, "taskStatus": TaskStatus}


class Queries:
    """Random queries, each with what it means."""

    def __init__(self, seed: int, fields: dict[str, Any], ids: list[str]) -> None:
        self._dice = random.Random(seed)
        self._fields = fields
        self._ids = ids

    def make(self, depth: int = 3) -> tuple[str, Test]:
        roll = self._dice.random()
        if depth and roll < 0.15:
            text, test = self.make(depth - 1)
            return f"NOT ({text})", lambda row: not test(row)
        if depth and roll < 0.5:
            parts = [self.make(depth - 1) for _ in range(self._dice.randint(2, 3))]
            tests = [test for _, test in parts]
            if roll < 0.35:
                return " AND ".join(f"({text})" for text, _ in parts), lambda row: all(test(row) for test in tests)
            return " OR ".join(f"({text})" for text, _ in parts), lambda row: any(test(row) for test in tests)
        return self._condition()

    def _condition(self) -> tuple[str, Test]:
        name = self._dice.choice(list(self._fields))
        kind, values_of = self._fields[name]
        how, holds, negated = self._predicate(kind)

        def test(row: Row) -> bool:
            found = any(holds(value) for value in values_of(row) if value not in ("", 0) or kind == "integer")
            return found != negated

        if how == "IS NULL":
            def missing(row: Row) -> bool:
                return any(value in ("", 0) for value in values_of(row)) and kind in ("text", "time")

            return f"{name} IS {'NOT ' if negated else ''}NULL", lambda row: missing(row) != negated
        return f"{name} {how}", test

    def _predicate(self, kind: str) -> tuple[str, Callable[[Any], bool], bool]:
        dice = self._dice
        negated = dice.random() < 0.3
        no = "NOT " if negated else ""
        form = dice.choice(("equal", "equal", "order", "in", "between", "null", "like", "starts"))
        if form == "null":
            return "IS NULL", lambda value: False, negated
        if form == "in":
            values = [self._value(kind) for _ in range(dice.randint(1, 3))]
            return f"{no}IN ({', '.join(text for text, _ in values)})", lambda v: v in [x for _, x in values], negated
        if kind in STATUSES or form == "equal":
            text, value = self._value(kind, wild=False)
            return f"{'!=' if negated else '='} {text}", lambda v: bool(v == value), negated
        if form == "between":
            (low_text, low), (high_text, high) = self._value(kind), self._value(kind)
            return f"{no}BETWEEN {low_text} AND {high_text}", lambda v: bool(low <= v <= high), negated
        if form == "order" or kind != "text":
            operator = dice.choice(("<", "<=", ">", ">="))
            text, value = self._value(kind)
            compare = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b,
                       ">=": lambda a, b: a >= b}[operator]
            return f"{operator} {text}", lambda v: bool(compare(v, value)), False
        prefix = dice.choice(("a", "l", "o", "w", "t", "[", "é"))
        if form == "starts":
            return f"{no}STARTS_WITH '{prefix}'", lambda v: v.startswith(prefix), negated
        pattern = dice.choice((f"{prefix}*", f"*{prefix}", f"*{prefix}*", "*", f"{prefix}*b", "*long*g"))
        regex = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
        return f"{'!=' if negated else '='} '{pattern}'", lambda v: bool(regex.fullmatch(v)), negated

    def _value(self, kind: str, wild: bool = True) -> tuple[str, Any]:
        if kind in STATUSES:
            status = self._dice.choice(list(STATUSES[kind]))
            return status.name, status
        if kind == "integer":
            number = self._dice.randrange(-1, 4)
            return str(number), number
        if kind == "time":
            moment = self._dice.choice(TIMES[1:])
            return "'1970-01-02T00:00:00Z'" if moment == TIMES[-1] else str(moment), moment
        text = self._dice.choice([one for one in (*TEXTS, *NAMES, *TASK_NAMES, *self._ids) if one])
        if not wild:
            text = text.replace("*", "x")
        quoted = text.replace("'", "''")
        return f"'{quoted}'", text


def by(rows: list[Any], key: Callable[[Any], Any], descending: bool = True) -> list[Any]:
    return sorted(rows, key=key, reverse=descending)


@pytest.mark.parametrize("seed", range(8))
async def test_a_query_finds_executions_as_a_loop_over_all_does(full: Store, seed: int) -> None:
    queries = Queries(seed, OF_WORKFLOW, [LIVE[0][0].workflow_id, LIVE[1][0].workflow_id])
    found_any = 0
    for _ in range(120):
        text, test = queries.make()
        page = await search_executions(full.database, ExecutionFilter("default", query=text), page_size=1000)
        wanted = [row for row, tasks in LIVE if test((row, tasks))]
        assert page.executions == by(wanted, lambda row: (row.created_ms, row.workflow_id)), text
        found_any += 0 < len(wanted) < len(LIVE)
    assert found_any > 40


@pytest.mark.parametrize("seed", range(8))
async def test_a_query_finds_tasks_as_a_loop_over_all_does(full: Store, seed: int) -> None:
    queries = Queries(seed, OF_TASK, [PAIRS[0][1].task_id, PAIRS[1][0].workflow_id])
    for _ in range(120):
        text, test = queries.make()
        page = await search_tasks(full.database, TaskFilter("default", query=text), page_size=1000)
        wanted = by([pair for pair in PAIRS if test(pair)], lambda pair: (pair[1].scheduled_ms, pair[1].task_id))
        assert [tuple(one) for one in page.tasks] == wanted, text


# --- order, pages, totals


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", [name for name in OF_WORKFLOW if not name.startswith("task")])
async def test_executions_come_in_any_order_page_by_page(full: Store, name: str, descending: bool) -> None:
    wanted = ExecutionFilter("default", sort=f"{name}:{'DESC' if descending else 'ASC'}")
    value = OF_WORKFLOW[name][1]
    expected = by([row for row, _ in LIVE], lambda row: (value((row, []))[0], row.workflow_id), descending)
    found, token = [], ""
    while True:
        page = await search_executions(full.database, wanted, page_size=9, page_token=token)
        found += page.executions
        token = page.next_token
        if not token:
            break
    assert found == expected


async def test_tasks_come_in_any_order_page_by_page(full: Store) -> None:
    for name, (_, value) in OF_TASK.items():
        found: list[Any] = []
        token = ""
        while True:
            wanted = TaskFilter("default", sort=f"{name}:ASC")
            page = await search_tasks(full.database, wanted, page_size=9, page_token=token)
            found += [tuple(one) for one in page.tasks]
            token = page.next_token
            if not token:
                break
        assert found == by(PAIRS, lambda pair, value=value: (value(pair)[0], pair[1].task_id), descending=False)


async def test_pages_may_be_skipped_and_hits_counted(full: Store) -> None:
    everything = await search_executions(full.database, ExecutionFilter("default"), page_size=1000)
    assert everything.total is None
    wanted = ExecutionFilter("default", window=Window(skip=7, count_total=True))
    first = await search_executions(full.database, wanted, page_size=5)
    assert (first.executions, first.total) == (everything.executions[7:12], len(LIVE))
    second = await search_executions(full.database, wanted, page_size=5, page_token=first.next_token)
    assert (second.executions, second.total) == (everything.executions[12:17], len(LIVE))


async def test_the_count_is_bounded(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.paging.COUNT_MAX", 10)
    page = await search_executions(full.database, ExecutionFilter("default", window=Window(count_total=True)))
    assert page.total == 10


async def test_a_token_is_good_for_its_own_query_only(full: Store) -> None:
    token = (await search_executions(full.database, ExecutionFilter("default"), page_size=5)).next_token
    for other in ({"query": "version = 1"}, {"sort": "endTime:DESC"}, {"free_text": "a"}):
        with pytest.raises(InvalidPageToken, match="another search"):
            await search_executions(full.database, ExecutionFilter("default", **other), page_token=token)
    with pytest.raises(InvalidPageToken):
        await search_tasks(full.database, TaskFilter("default"), page_token=token)


async def test_what_cannot_be_read_is_refused(full: Store) -> None:
    for wanted in ({"query": "x"}, {"sort": "x"}, {"free_text": "x" * 201}):
        with pytest.raises(QueryInvalid):
            await search_executions(full.database, ExecutionFilter("default", **wanted))
        with pytest.raises(QueryInvalid):
            await search_tasks(full.database, TaskFilter("default", **wanted))


async def test_a_search_that_takes_too_long_is_ended(full: Store, tmp_path: Path) -> None:
    store = Store(tmp_path / "many.db")
    rows = [execution(f"many{number}") for number in range(3000)]
    store.stage([(Table.EXECUTION, ("default", row.workflow_id), row, True) for row in rows], 1)
    await store.flusher.drain()
    for slow in ({"query": "reasonForIncompletion = '*x*'"}, {"free_text": "nothing has it"}):
        with pytest.raises(SearchTimeout):
            await search_executions(store.database, ExecutionFilter("default", **slow), seconds_max=-1.0)
        assert not (await search_executions(store.database, ExecutionFilter("default", **slow))).executions
    await store.close()


# --- free text


LARGE = b'{"note":"' + b"y" * 5_000 + b' Needle"}'


@pytest.fixture
async def texts(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "texts.db")
    masked = {"masked_fields": ("input.card",)}
    headers = [
        execution("in-input", input='{"who":"Zoë Needle"}'.encode(), created_ms=9),
        execution("in-output", output=b'{"x":"NEEDLE"}', created_ms=8),
        execution("in-variables", variables=1, created_ms=7),
        execution("in-reason", reason="a needle broke", created_ms=6),
        execution("nowhere", input=b'{"x":"need le"}', created_ms=5),
        execution("masked", input=b'{"card":"needle"}', output=1, reason="hidden", created_ms=4, **masked),
        execution("in-task", created_ms=3),
        execution("needle-id", namespace="other"),
    ]
    rows: list[Any] = [(Table.EXECUTION, (row.namespace, row.workflow_id), row, False) for row in headers]
    large = ("in-variables", "masked", "in-task")
    rows += [(Table.PAYLOAD, ("default", name, 1), PayloadRow(LARGE), False) for name in large]
    for name, output in (("in-task", 1), ("masked", b'{"card":"needle"}'), ("in-input", b'{"x":"Needle"}')):
        attempt = TaskAttempt(2, f"t-{name}", "a", "a", "SIMPLE", TaskStatus.COMPLETED, 1, 1, output=output)
        rows.append((Table.TASK, ("default", name, 2), attempt, False))
    store.stage(rows, 1)
    await store.flusher.drain()
    yield store
    await store.close()


async def found(store: Store, text: str, **fields: Any) -> list[str]:
    page = await search_executions(store.database, ExecutionFilter("default", free_text=text, **fields))
    return [row.workflow_id for row in page.executions]


async def test_free_text_is_found_whatever_its_case(texts: Store) -> None:
    assert await found(texts, "nEEdle") == ["in-input", "in-output", "in-variables", "in-reason"]
    assert await found(texts, "ZOË n") == ["in-input"]
    assert await found(texts, "in-re") == ["in-reason"]


async def test_free_text_goes_with_everything_else(texts: Store) -> None:
    both = await found(texts, "needle", query="workflowId = 'in-*t'", sort="workflowId:DESC")
    assert both == ["in-output", "in-input"]


async def test_a_star_is_everything(texts: Store) -> None:
    assert len(await found(texts, "*")) == len(await found(texts, "")) == 7


async def test_what_is_masked_is_not_found(texts: Store) -> None:
    assert "masked" not in await found(texts, "needle")
    assert await found(texts, "hidden") == ["masked"]


async def test_free_text_of_tasks(texts: Store) -> None:
    page = await search_tasks(texts.database, TaskFilter("default", free_text="needle"))
    assert sorted(one.task.task_id for one in page.tasks) == ["t-in-input", "t-in-task"]
    page = await search_tasks(texts.database, TaskFilter("default", free_text="T-MASKED"))
    assert [one.execution.workflow_id for one in page.tasks] == ["masked"]


# --- what an index serves


@pytest.mark.parametrize(("query", "index"), [
    ("workflowId = 'x'", "sqlite_autoindex_execution_1 (namespace=? AND workflow_id=?)"),
    ("correlationId = 'x' AND version = 1", "execution_correlation (namespace=? AND correlation_id=?)"),
    ("status = FAILED", "execution_status (namespace=? AND status=?"),
    ("workflowType = order AND startTime > 5", "execution_name (namespace=? AND name=? AND started_ms>?)"),
    ("workflowType = ord*", "execution_name (namespace=? AND name>? AND name<?)"),
    ("startTime > 5", "execution_start (namespace=? AND started_ms>?)"),
    ("endTime > 5", "execution_start (namespace=?)"),
    ("taskId = 'x'", "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"),
    ("taskId = 'x'", "SEARCH task USING COVERING INDEX task_id (task_id=?)"),
])
async def test_common_searches_use_an_index(full: Store, query: str, index: str) -> None:
    assert index in await plan(full, search_executions(full.database, ExecutionFilter("default", query=query)))


@pytest.mark.parametrize(("query", "index"), [
    ("taskId = 'x'", "task_id (task_id=?)"),
    ("status IN (FAILED, TIMED_OUT)", "task_status (status=?"),
    ("workflowId = 'x'", "(namespace=? AND workflow_id=?)"),
    ("workflowId = 'x'", "SEARCH t USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ("scheduledTime > 5", "task_scheduled (scheduled_ms>?)"),
    ("taskDefName = 'x'", "SCAN t USING INDEX task_scheduled"),
])
async def test_common_searches_of_tasks_use_an_index(full: Store, query: str, index: str) -> None:
    assert index in await plan(full, search_tasks(full.database, TaskFilter("default", query=query)))


async def plan(store: Store, searching: Any) -> str:
    """How SQLite goes about the statement of a search."""
    told: list[str] = []

    def trace(cursor: Any, statement: str, bindings: Any) -> bool:
        if statement.startswith("SELECT"):
            rows = cursor.connection.execute("EXPLAIN QUERY PLAN " + statement, bindings)
            told.extend(str(row[3]) for row in rows)
        return True

    connection = await store.database.search(lambda connection: connection)
    connection.exec_trace = trace
    try:
        await searching
    finally:
        connection.exec_trace = None
    return "\n".join(told)
