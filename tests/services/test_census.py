"""What is counted in the database now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from orchestrator.engine.commands import PauseWorkflow
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.services import census as module
from orchestrator.services.census import Census
from orchestrator.storage.database import Database
from orchestrator.storage.flusher import Flusher
from orchestrator.storage.status_counts import count_statuses
from tests.engine.driver import Driver, simple, workflow


async def no_wait(index: int) -> None:
    """Everything is durable."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database.open(tmp_path / "state.db", cluster_id="c")
    yield made
    await made.close()


async def flush(database: Database, driver: Driver) -> None:
    flusher = Flusher(database, durable_index=lambda: 10_000, wait_durable=no_wait, on_flushed=lambda index: None,
                      on_fatal=lambda error: None)
    flusher.start()
    driver.index += 1
    flusher.stage(driver.state.take_changes(), driver.index, 1, b"", driver.machine.chain)
    await flusher.drain()
    await flusher.close()


async def test_statuses_are_counted_over_all_namespaces(database: Database) -> None:
    wanted = (WorkflowStatus.PAUSED, WorkflowStatus.COMPENSATING)
    assert await count_statuses(database, wanted) == [0, 0]
    driver = Driver()
    driver.register(workflow("order", simple("pay", undo="refund"), simple("ship")))
    driver.worker("s", "pay", "ship", slots=9)
    for number in range(5):
        driver.start("order", f"w{number}")
    for workflow_id in ("w0", "w1"):
        driver.do(PauseWorkflow("default", workflow_id))
    driver.give("pay", workflow_id="w2")
    driver.give("ship", b"", TaskStatus.FAILED_WITH_TERMINAL_ERROR, workflow_id="w2")
    await flush(database, driver)
    assert await count_statuses(database, wanted) == [2, 1]


async def test_each_term_begins_without_the_numbers_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.0)
    driver, may_answer, asked = Driver(), asyncio.Event(), asyncio.Semaphore(0)

    async def count(statuses: Sequence[WorkflowStatus]) -> list[int]:
        asked.release()
        await may_answer.wait()
        return [1, 2]

    census = Census(lambda: driver.machine, count)
    may_answer.set()
    async with asyncio.timeout(30):
        first = asyncio.create_task(census.run())
        for _ in range(3):
            await asked.acquire()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert census.found is not None and (census.found.paused, census.found.compensating) == (1, 2)
        may_answer.clear()
        second = asyncio.create_task(census.run())
        await asked.acquire()
        assert census.found is None
        second.cancel()
