"""Stand-ins for a cluster: one in a dictionary, with the methods of the SDK's client; one of processes that only say
who leads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator_client import (
    TLS,
    AlreadyExists,
    CompensatedStep,
    CompensationReport,
    CompensationState,
    Execution,
    FoundTask,
    Hits,
    NotFound,
    TaskAttempt,
    TaskQueue,
    TaskQueueWorker,
    TaskStatus,
    WorkflowStatus,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def attempt(reference: str, status: TaskStatus, **changes: Any) -> TaskAttempt:
    made = TaskAttempt(
        task_id=f"t-{reference}", reference=reference, name=reference, type="SIMPLE", status=status, sequence=1,
        attempt=1, iteration=0, input={}, output={}, reason="", worker_id="w1", idempotency_key="k", fencing_token=1,
        scheduled_time=NOON, start_time=NOON, end_time=NOON, compensates="", heartbeat_details=None,
        error_code="")
    return replace(made, **changes)


def execution(workflow_id: str, status: WorkflowStatus = WorkflowStatus.RUNNING, **changes: Any) -> Execution:
    made = Execution(
        workflow_id=workflow_id, namespace="default", name="order", version=1, status=status, reason="", failed_task="",
        error_code="", input={"id": 1}, output={}, variables={}, correlation_id="", priority=0, created_by="",
        start_time=NOON, update_time=NOON, end_time=NOON if status.ended else None, run=1,
        compensation=CompensationReport(), tasks=[])
    return replace(made, **changes)


FAILED = execution(
    "order-2", WorkflowStatus.FAILED, reason="NO_TRUCKS", failed_task="ship",
    compensation=CompensationReport(CompensationState.COMPLETE, [CompensatedStep("charge")], []),
    tasks=[attempt("charge", TaskStatus.COMPLETED), attempt("ship", TaskStatus.FAILED, reason="NO_TRUCKS", attempt=2)])


class FakeCluster(LocalCluster):
    """Its nodes are tests/cli/fake_node.py."""

    def _command(self, node: LocalNode) -> list[str]:
        program = Path(__file__).with_name("fake_node.py")
        return [sys.executable, str(program), str(node.config_file), str(os.getpid())]

    def lead(self, name: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "leader").write_text(name)


class FakeRun:
    def __init__(self, workflow_id: str, existing: bool) -> None:
        self.workflow_id, self.existing = workflow_id, existing


class FakeClient:
    """Made once per test; `calls` is what the command line asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.executions = {"order-1": execution("order-1", WorkflowStatus.COMPLETED, output={"tracking": "T1"}),
                           "order-2": FAILED}
        self.fails: Exception | None = None

    def __call__(self, endpoints: list[str], *, namespace: str, deadline_s: float, tls: TLS | None) -> Self:
        self.calls.append(("connect", endpoints, namespace, deadline_s, *([tls] if tls is not None else [])))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fails is not None:
            raise self.fails

    async def register(self, *files: str, overwrite: bool) -> None:
        self._called("register", files, overwrite)

    async def workflow_definition(self, name: str, version: int) -> dict[str, Any]:
        self._called("workflow_definition", name, version)
        return {"name": name, "version": version}

    async def workflow_definitions(self) -> AsyncIterator[dict[str, Any]]:
        yield {"name": "order", "version": 2, "tasks": [{"name": "pay"}], "description": "sells"}

    async def task_definition(self, name: str) -> dict[str, Any]:
        return {"name": name}

    async def task_definitions(self) -> AsyncIterator[dict[str, Any]]:
        yield {"name": "pay", "retryCount": 3, "timeoutSeconds": 60, "description": None}

    async def delete_workflow_definition(self, name: str, version: int | None) -> None:
        self._called("delete_workflow_definition", name, version)

    async def delete_task_definition(self, name: str) -> None:
        self._called("delete_task_definition", name)

    async def start(self, name: str, input: dict[str, Any], **options: Any) -> FakeRun:
        self._called("start", name, input, {key: value for key, value in options.items() if value})
        workflow_id = options["id"] or f"made-{len(self.executions)}"
        existing = workflow_id in self.executions
        if existing and options["if_exists"] == "fail":
            raise AlreadyExists(f"{workflow_id} is taken", reason="WORKFLOW_EXISTS")
        self.executions.setdefault(workflow_id, execution(workflow_id, WorkflowStatus.COMPLETED))
        return FakeRun(workflow_id, existing)

    async def get(self, workflow_id: str, *, tasks: bool) -> Execution:
        self._called("get", workflow_id, tasks)
        if workflow_id not in self.executions:
            raise NotFound(f"there is no workflow {workflow_id!r}", reason="WORKFLOW_NOT_FOUND")
        return self.executions[workflow_id]

    async def wait(self, workflow_id: str, timeout_s: float | None, *, tasks: bool) -> Execution:
        self._called("wait", workflow_id, timeout_s)
        return await self.get(workflow_id, tasks=tasks)

    async def watch(self, workflow_id: str, *, tasks: bool) -> AsyncIterator[Execution]:
        last = await self.get(workflow_id, tasks=tasks)
        yield replace(last, status=WorkflowStatus.RUNNING, reason="", tasks=[])
        yield last

    async def task_queues(self, *names: str) -> list[TaskQueue]:
        self._called("task_queues", *names)
        poller = TaskQueueWorker("p", 0, 0, 12)
        return [TaskQueue("pay", "eu", 3, 1, 61_500, True, 2, 5, 1_000, 4, 1, [poller], "eu:pay")]

    async def count(self, *, query: str, free_text: str) -> Hits:
        self._called("count", query, free_text)
        return Hits(10_000, is_lower_bound=True)

    async def count_tasks(self, *, query: str, free_text: str) -> Hits:
        self._called("count_tasks", query, free_text)
        return Hits(7, is_lower_bound=False)

    async def search_tasks(self, **asked: Any) -> AsyncIterator[FoundTask]:
        self._called("search_tasks", {key: value for key, value in asked.items() if value})
        for one in FAILED.tasks:
            yield FoundTask(one, "order-2", "order", "", WorkflowStatus.FAILED)

    async def search(self, **filters: Any) -> AsyncIterator[Execution]:
        self._called("search", {key: value for key, value in filters.items() if value})
        for found in self.executions.values():
            yield found

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> None:
            self._called(name, *arguments, *options.values())

        return call
