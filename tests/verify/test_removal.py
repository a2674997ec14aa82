"""What a run has made is removed by a worker in the process of whoever called, who reads what that logs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from orchestrator.verify import removal
from orchestrator.verify.work import MEANT
from orchestrator_client import Client, NotFound


class ClientWithoutAnything:
    async def search(self, **_: Any) -> AsyncIterator[Any]:
        for nothing in ():
            yield nothing

    async def delete_workflow_definition(self, name: str) -> None:
        raise NotFound(name)

    delete_task_definition = delete_workflow_definition


class FailingWorker:
    """Says of two attempts what a worker says of those that fail."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    async def run(self) -> None:
        for message in (f"attempt 2 {MEANT}", "no such file"):
            logging.getLogger("orchestrator_client.task").warning("failed", exc_info=RuntimeError(message))

    async def stop(self, timeout_s: float) -> None:
        pass


async def test_failures_that_are_part_of_the_work_are_not_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(removal, "Worker", FailingWorker)
    assert await removal.remove(cast(Client, ClientWithoutAnything()), "verify-1") == 0
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == ["no such file"]
    assert not logging.getLogger("orchestrator_client.task").filters
