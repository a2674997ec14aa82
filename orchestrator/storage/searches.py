"""The door to all searches: each sees everything that was acknowledged before it was asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import overload

from orchestrator.storage.database import Database
from orchestrator.storage.search import ExecutionFilter, Page, search_executions
from orchestrator.storage.task_search import TaskFilter, TaskPage, search_tasks


class Searches:
    """`flush`: brings everything applied into the database."""

    def __init__(self, database: Database, flush: Callable[[], Awaitable[object]]) -> None:
        self._database = database
        self._flush = flush

    @overload
    async def __call__(self, wanted: ExecutionFilter, *, page_size: int, page_token: str) -> Page: ...

    @overload
    async def __call__(self, wanted: TaskFilter, *, page_size: int, page_token: str) -> TaskPage: ...

    async def __call__(
        self, wanted: ExecutionFilter | TaskFilter, *, page_size: int, page_token: str
    ) -> Page | TaskPage:
        await self._flush()
        if isinstance(wanted, TaskFilter):
            return await search_tasks(self._database, wanted, page_size=page_size, page_token=page_token)
        return await search_executions(self._database, wanted, page_size=page_size, page_token=page_token)
