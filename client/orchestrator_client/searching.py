"""Searches: requests and what comes back, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions
from orchestrator_client.connection import Connection
from orchestrator_client.errors import InvalidRequest
from orchestrator_client.execution import (
    CompensationState,
    Execution,
    TaskAttempt,
    WorkflowStatus,
    read_execution,
    read_task,
    read_workflow_status,
)

PAGE_SIZE = 100


@dataclass(frozen=True)
class FoundTask:
    """One attempt of a task, and whose it is."""

    task: TaskAttempt
    workflow_id: str
    workflow_name: str
    correlation_id: str
    workflow_status: WorkflowStatus


@dataclass(frozen=True)
class Hits:
    """How many a search finds; there are more if `is_lower_bound`."""

    count: int
    is_lower_bound: bool


def workflows_request(
    connection: Connection,
    *,
    name: str = "",
    statuses: Iterable[WorkflowStatus | str] = (),
    correlation_id: str = "",
    compensation_states: Iterable[CompensationState | str] = (),
    started_from: datetime | None = None,
    started_before: datetime | None = None,
    ended_from: datetime | None = None,
    ended_before: datetime | None = None,
    query: str = "",
    free_text: str = "",
    sort: str = "",
    full: bool = False,
    page_size: int = PAGE_SIZE,
    stale_ok: bool = False,
) -> pb.SearchWorkflowsRequest:
    return pb.SearchWorkflowsRequest(
        namespace=connection.namespace,
        name=name,
        statuses=[pb.WorkflowStatus.Value(f"WORKFLOW_STATUS_{status}") for status in statuses],
        correlation_id=correlation_id,
        compensation_states=[
            pb.CompensationState.Value(f"COMPENSATION_STATE_{state}") for state in compensation_states
        ],
        started_from=_stamp(started_from),
        started_before=_stamp(started_before),
        ended_from=_stamp(ended_from),
        ended_before=_stamp(ended_before),
        query=query,
        free_text=free_text,
        sort=sort,
        full=full,
        page=PageRequest(size=min(page_size, PAGE_SIZE) if full else page_size),
        read=ReadOptions(stale_ok=stale_ok),
    )


def tasks_request(
    connection: Connection,
    *,
    query: str = "",
    free_text: str = "",
    sort: str = "",
    full: bool = False,
    page_size: int = PAGE_SIZE,
) -> pb.SearchTasksRequest:
    return pb.SearchTasksRequest(
        namespace=connection.namespace,
        query=query,
        free_text=free_text,
        sort=sort,
        full=full,
        page=PageRequest(size=min(page_size, PAGE_SIZE) if full else page_size),
    )


async def workflows(connection: Connection, request: pb.SearchWorkflowsRequest) -> AsyncIterator[Execution]:
    """All pages, one after the other."""
    while True:
        reply = await connection.call(lambda node: node.workflows.SearchWorkflows, request)
        for workflow in reply.workflows:
            yield read_execution(workflow)
        if not reply.next_token:
            return
        request.page.token = reply.next_token


async def tasks(connection: Connection, request: pb.SearchTasksRequest) -> AsyncIterator[FoundTask]:
    """All pages, one after the other."""
    while True:
        reply = await connection.call(lambda node: node.workflows.SearchTasks, request)
        for found in reply.tasks:
            yield FoundTask(
                read_task(found.task),
                found.workflow_id,
                found.workflow_name,
                found.correlation_id,
                read_workflow_status(found.workflow_status),
            )
        if not reply.next_token:
            return
        request.page.token = reply.next_token


async def count(connection: Connection, request: pb.SearchWorkflowsRequest) -> Hits:
    request.count_total = True
    request.page.size = 1
    reply = await connection.call(lambda node: node.workflows.SearchWorkflows, request)
    return Hits(reply.total_hits, reply.total_is_lower_bound)


async def count_tasks(connection: Connection, request: pb.SearchTasksRequest) -> Hits:
    request.count_total = True
    request.page.size = 1
    reply = await connection.call(lambda node: node.workflows.SearchTasks, request)
    return Hits(reply.total_hits, reply.total_is_lower_bound)


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidRequest(f"{moment!r} has no time zone")
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
