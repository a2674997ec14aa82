"""Executions as Conductor shows them: its documents, as dicts. `Client.conductor` is the way to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import ReadOptions
from orchestrator_client import definitions as forms
from orchestrator_client import searching
from orchestrator_client.connection import Connection
from orchestrator_client.executing import ReturnStrategy, signal_task, strategy_of, wait_blocked
from orchestrator_client.execution import TaskStatus
from orchestrator_client.mocking import rehearse
from orchestrator_client.runs import Run
from orchestrator_client.workflow import Workflow

Document = dict[str, Any]


class Conductor:
    """Reads and waits as `Client` does, and answers with Conductor's names of fields, statuses and shapes.

    COMPENSATING is RUNNING there, and attempts that undo a step are tasks like any other.
    """

    def __init__(self, connection: Connection, start: Callable[..., Awaitable[Run]]) -> None:
        self._connection = connection
        self._start = start

    async def get(self, workflow_id: str, *, tasks: bool = True, stale_ok: bool = False) -> Document:
        """The execution: Conductor's Workflow. Raises InvalidRequest if it does not fit into a message with tasks."""
        request = pb.GetWorkflowRequest(
            namespace=self._connection.namespace,
            workflow_id=workflow_id,
            include_tasks=tasks,
            read=ReadOptions(stale_ok=stale_ok),
            view=pb.VIEW_CONDUCTOR,
        )
        reply = await self._connection.call(lambda node: node.workflows.GetWorkflow, request)
        return _document(reply.workflow.conductor_json)

    async def tasks(self, workflow_id: str) -> AsyncIterator[Document]:
        """All attempts of the execution, page by page, however many there are: Conductor's Task, in their order."""
        quoted = workflow_id.replace("'", "''")
        # After IN, * is a character like any other.
        async for task in self.search_tasks(query=f"workflowId IN ('{quoted}')", sort="seq:ASC", full=True):
            yield task

    async def search(
        self,
        *,
        query: str = "",
        free_text: str = "",
        sort: str = "",
        full: bool = False,
        page_size: int = searching.PAGE_SIZE,
    ) -> AsyncIterator[Document]:
        """Executions that match (see `Client.search`): WorkflowSummary, or if `full` Workflow without its tasks."""
        request = searching.workflows_request(
            self._connection, query=query, free_text=free_text, sort=sort, full=full, page_size=page_size
        )
        request.view = pb.VIEW_CONDUCTOR
        while True:
            reply = await self._connection.call(lambda node: node.workflows.SearchWorkflows, request)
            for workflow in reply.workflows:
                yield _document(workflow.conductor_json)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def search_tasks(
        self,
        *,
        query: str = "",
        free_text: str = "",
        sort: str = "",
        full: bool = False,
        page_size: int = searching.PAGE_SIZE,
    ) -> AsyncIterator[Document]:
        """Attempts of tasks that match (see `Client.search_tasks`): TaskSummary, or if `full` Task."""
        request = searching.tasks_request(
            self._connection, query=query, free_text=free_text, sort=sort, full=full, page_size=page_size
        )
        request.view = pb.VIEW_CONDUCTOR
        while True:
            reply = await self._connection.call(lambda node: node.workflows.SearchTasks, request)
            for found in reply.tasks:
                yield _document(found.task.conductor_json)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def test(
        self, document: Mapping[str, Any], *, definitions: Iterable[forms.Definition] = ()
    ) -> Document:
        """Runs a workflow with mocked outcomes as `Client.test_document` does: Conductor's Workflow."""
        reply = await rehearse(self._connection, document, definitions, pb.VIEW_CONDUCTOR)
        return _document(reply.workflow.conductor_json)

    async def execute(
        self,
        workflow: Workflow | Mapping[str, Any] | str,
        input: Any = None,
        /,
        *,
        wait_s: float = 10.0,
        wait_until: Iterable[str] = (),
        return_strategy: ReturnStrategy | str = ReturnStrategy.TARGET_WORKFLOW,
        **options: Any,
    ) -> Document:
        """Starts and waits as `Client.execute` does: a WorkflowRun, or by the strategy a TaskRun."""
        strategy_of(return_strategy)
        run = await self._start(workflow, input, **options)
        return await self.wait_blocked(
            run.workflow_id, wait_s, wait_until=wait_until, return_strategy=return_strategy
        )

    async def wait_blocked(
        self,
        workflow_id: str,
        wait_s: float = 10.0,
        *,
        wait_until: Iterable[str] = (),
        return_strategy: ReturnStrategy | str = ReturnStrategy.TARGET_WORKFLOW,
    ) -> Document:
        """Waits as `Client.wait_blocked` does: a WorkflowRun, or by the strategy a TaskRun."""
        awaited = await wait_blocked(
            self._connection, workflow_id, wait_s, wait_until, return_strategy, pb.VIEW_CONDUCTOR
        )
        return _document(awaited.conductor_json)

    async def signal(
        self,
        workflow_id: str,
        status: TaskStatus | str = TaskStatus.COMPLETED,
        output: Any = None,
        *,
        wait_s: float = 5.0,
        return_strategy: ReturnStrategy | str = ReturnStrategy.TARGET_WORKFLOW,
    ) -> Document:
        """Signals and waits as `Client.signal_task` does: a WorkflowRun, or by the strategy a TaskRun."""
        strategy_of(return_strategy)
        await signal_task(self._connection, workflow_id, status, output, "")
        return await self.wait_blocked(workflow_id, wait_s, return_strategy=return_strategy)


def _document(text: bytes) -> Document:
    document: Document = json.loads(text)
    return document
