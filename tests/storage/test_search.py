"""Search: the right executions, newest first, each on exactly one page, within the limits."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.model import CompensationState, Execution, WorkflowStatus
from orchestrator.storage import search
from orchestrator.storage.errors import InvalidPageToken, SearchTimeout
from orchestrator.storage.search import ExecutionFilter, search_executions
from tests.storage.samples import Store, execution, put_execution

ANY = ExecutionFilter("default")


def population(count: int) -> list[Execution]:
    dice = random.Random(3)
    return [
        execution(
            f"w{dice.randrange(1 << 40)}-{number}",
            namespace=dice.choice(["default", "default", "other"]),
            name=dice.choice(["order", "refund"]),
            status=dice.choice(list(WorkflowStatus)),
            # Few start times: pages have to cut between executions that started together.
            created_ms=dice.randrange(20),
            ended_ms=dice.choice([0, 15, 25]),
            correlation_id=dice.choice(["", "c1", "c2"]),
            compensation=dice.choice(list(CompensationState)),
        )
        for number in range(count)
    ]


PEOPLE = population(400)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "state.db")
    rows = (put_execution(row.workflow_id, namespace=row.namespace)[:2] for row in PEOPLE)
    store.stage([(*place, row, True) for place, row in zip(rows, PEOPLE, strict=True)], 1)
    await store.flusher.drain()
    yield store
    await store.close()


def matches(row: Execution, wanted: ExecutionFilter) -> bool:
    return (
        row.namespace == wanted.namespace
        and wanted.name in ("", row.name)
        and wanted.correlation_id in ("", row.correlation_id)
        and (not wanted.statuses or row.status in wanted.statuses)
        and (not wanted.compensation_states or row.compensation in wanted.compensation_states)
        and (wanted.started_from_ms is None or row.created_ms >= wanted.started_from_ms)
        and (wanted.started_before_ms is None or row.created_ms < wanted.started_before_ms)
        and (wanted.ended_from_ms is None or (row.ended_ms > 0 and row.ended_ms >= wanted.ended_from_ms))
        and (wanted.ended_before_ms is None or (row.ended_ms > 0 and row.ended_ms < wanted.ended_before_ms))
    )


def filters() -> list[ExecutionFilter]:
    choices: dict[str, list[Any]] = {
        "name": ["", "order", "nothing"],
        "statuses": [(), (WorkflowStatus.FAILED,), (WorkflowStatus.COMPLETED,),
                     (WorkflowStatus.RUNNING, WorkflowStatus.PAUSED), tuple(WorkflowStatus)],
        "correlation_id": ["", "c1"],
        "started_from_ms": [None, 5],
        "started_before_ms": [None, 15],
        "ended_from_ms": [None, 20],
        "ended_before_ms": [None, 20],
        "compensation_states": [(), (CompensationState.STUCK,), (CompensationState.NONE, CompensationState.STUCK)],
    }
    names = list(choices)
    every = [dict(zip(names, values, strict=True)) for values in itertools.product(*choices.values())]
    return [ExecutionFilter("default", **values) for values in every]


async def test_every_combination_of_filters_finds_what_it_should(full: Store) -> None:
    for wanted in filters():
        page = await search_executions(full.database, wanted, page_size=1000)
        expected = [row for row in PEOPLE if matches(row, wanted)]
        expected.sort(key=lambda row: (row.created_ms, row.workflow_id), reverse=True)
        assert page.executions == expected, wanted
        assert page.next_token == ""


@pytest.mark.parametrize(
    "wanted", [ANY, ExecutionFilter("default", name="order"), ExecutionFilter("default", ended_from_ms=1)]
)
async def test_pages_hold_every_execution_once_in_order(full: Store, wanted: ExecutionFilter) -> None:
    found: list[Execution] = []
    token = ""
    while True:
        page = await search_executions(full.database, wanted, page_size=7, page_token=token)
        found += page.executions
        if not (token := page.next_token):
            break
        assert len(page.executions) == 7
    assert found == (await search_executions(full.database, wanted, page_size=1000)).executions


async def test_pages_go_on_on_another_node(full: Store, tmp_path: Path) -> None:
    """Row ids differ between nodes; start time and workflow id do not."""
    other = Store(tmp_path / "other.db")
    for index, row in enumerate(reversed(PEOPLE), start=1):
        other.stage([(put_execution("")[0], (row.namespace, row.workflow_id), row, True)], index)
    await other.flusher.drain()
    first = await search_executions(full.database, ANY, page_size=50)
    assert await search_executions(other.database, ANY, page_token=first.next_token) == await search_executions(
        full.database, ANY, page_token=first.next_token
    )
    await other.close()


async def test_a_token_of_another_search_is_refused(full: Store) -> None:
    token = (await search_executions(full.database, ANY, page_size=5)).next_token
    for other in (ExecutionFilter("other"), ExecutionFilter("default", name="order")):
        with pytest.raises(InvalidPageToken, match="another search"):
            await search_executions(full.database, other, page_token=token)


@pytest.mark.parametrize("token", ["x", "é", "AAAA", "lAE", "====", "a b"])
async def test_a_damaged_token_is_refused(full: Store, token: str) -> None:
    with pytest.raises(InvalidPageToken):
        await search_executions(full.database, ANY, page_token=token)


async def test_page_sizes_have_limits(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len((await search_executions(full.database, ANY, page_size=-5)).executions) == 1
    monkeypatch.setattr(search, "PAGE_SIZE_MAX", 10)
    assert len((await search_executions(full.database, ANY, page_size=10**9)).executions) == 10


async def test_a_search_that_takes_too_long_is_ended(full: Store) -> None:
    full.stage([put_execution(f"many{number}", ended_ms=5) for number in range(3000)], 2)
    await full.flusher.drain()
    slow = ExecutionFilter("default", ended_before_ms=1)
    with pytest.raises(SearchTimeout, match="narrow it"):
        await search_executions(full.database, slow, seconds_max=-1.0)
    assert (await search_executions(full.database, slow)).executions == []


async def test_what_is_flushed_is_found_and_a_changed_status_moves(full: Store) -> None:
    stuck = ExecutionFilter("other", statuses=(WorkflowStatus.FAILED,), name="fresh")
    full.stage([put_execution("w", namespace="other", name="fresh")], 2)
    await full.flusher.flush_now()
    assert (await search_executions(full.database, stuck)).executions == []
    full.stage([put_execution("w", namespace="other", name="fresh", status=WorkflowStatus.FAILED)], 3)
    await full.flusher.flush_now()
    assert len((await search_executions(full.database, stuck)).executions) == 1


async def test_a_used_again_workflow_id_is_found_under_its_new_name(full: Store) -> None:
    full.stage([put_execution("again", name="before", created_ms=5, correlation_id="x")], 2)
    await full.flusher.flush_now()
    full.stage([put_execution("again", name="after", created_ms=9)], 3)
    await full.flusher.flush_now()
    assert (await search_executions(full.database, ExecutionFilter("default", name="before"))).executions == []
    assert (await search_executions(full.database, ExecutionFilter("default", correlation_id="x"))).executions == []
    found = await search_executions(full.database, ExecutionFilter("default", name="after", started_from_ms=9))
    assert [row.workflow_id for row in found.executions] == ["again"]
