"""Searches over the wire: from requests to filters, and from what was found to messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.rpc import showing, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import invalid
from orchestrator.rpc.requests import in_range, namespace_of, page_size, text
from orchestrator.storage import free_text, query_language
from orchestrator.storage.errors import QueryInvalid
from orchestrator.storage.paging import COUNT_MAX, SKIP_MAX, Window
from orchestrator.storage.query_fields import TASK_FIELDS, WORKFLOW_FIELDS
from orchestrator.storage.query_language import Fields, parse, parse_sort
from orchestrator.storage.search import ExecutionFilter
from orchestrator.storage.task_search import TaskFilter
from orchestrator_api.v1 import workflows_pb2 as pb

FULL_PAGE_SIZE_MAX = 100
FULL_PAGE_BYTES = 4 << 20
"""A page of whole executions or tasks ends when it has this many bytes, however many were asked for."""

_STATUSES = {number: status for status, number in views.WORKFLOW_STATUS.items()}
_COMPENSATION_STATES = {number: state for state, number in views.COMPENSATION_STATE.items()}


async def search_workflows(backend: Backend, request: pb.SearchWorkflowsRequest) -> pb.SearchWorkflowsResponse:
    query, free, sort = _asked(request, WORKFLOW_FIELDS)
    wanted = ExecutionFilter(
        namespace=namespace_of(request.namespace),
        name=text("name", request.name),
        statuses=tuple(_one_of("statuses", _STATUSES, number) for number in request.statuses),
        correlation_id=text("correlation_id", request.correlation_id),
        started_from_ms=_ms(request, "started_from"),
        started_before_ms=_ms(request, "started_before"),
        ended_from_ms=_ms(request, "ended_from"),
        ended_before_ms=_ms(request, "ended_before"),
        compensation_states=tuple(
            _one_of("compensation_states", _COMPENSATION_STATES, number) for number in request.compensation_states
        ),
        query=query,
        free_text=free,
        sort=sort,
        window=_window(request),
    )
    size, conductors = _page_size(request), showing.is_conductors(request.view)
    await backend.read_point(request.read)
    while True:
        page = await backend.search(wanted, page_size=size, page_token=request.page.token)
        response = pb.SearchWorkflowsResponse(next_token=page.next_token)
        _count(response, page.total)
        for execution in page.executions:
            found = await showing.found_workflow(backend, execution, full=request.full, conductors=conductors)
            if response.workflows and not _fits(response, found):
                break
            response.workflows.append(found)
            if _is_enough(request, response):
                break
        if len(response.workflows) == len(page.executions):
            return response
        # Fewer fit into the message than were asked for: the token has to be that of the last one.
        size = len(response.workflows)


async def search_tasks(backend: Backend, request: pb.SearchTasksRequest) -> pb.SearchTasksResponse:
    query, free, sort = _asked(request, TASK_FIELDS)
    wanted = TaskFilter(namespace_of(request.namespace), query, free, sort, _window(request))
    size, conductors = _page_size(request), showing.is_conductors(request.view)
    await backend.read_point(request.read)
    while True:
        page = await backend.search(wanted, page_size=size, page_token=request.page.token)
        response = pb.SearchTasksResponse(next_token=page.next_token)
        _count(response, page.total)
        for header, attempt in page.tasks:
            task = await showing.found_task(backend, header, attempt, full=request.full, conductors=conductors)
            if response.tasks and not _fits(response, task):
                break
            response.tasks.append(
                pb.FoundTask(
                    task=task,
                    workflow_id=header.workflow_id,
                    workflow_name=header.name,
                    correlation_id=header.correlation_id,
                    workflow_status=views.WORKFLOW_STATUS[header.status],
                )
            )
            if _is_enough(request, response):
                break
        if len(response.tasks) == len(page.tasks):
            return response
        size = len(response.tasks)


def _fits(response: Any, found: Any) -> bool:
    """Whether the message may have it, too: with large payloads one may fill it alone."""
    size: int = found.ByteSize()
    return size <= FULL_PAGE_BYTES or response.ByteSize() + size <= showing.ANSWER_BYTES_MAX


def _is_enough(request: Any, response: Any) -> bool:
    return bool(request.full) and response.ByteSize() >= FULL_PAGE_BYTES


def _asked(request: Any, fields: Fields) -> tuple[str, str, str]:
    """Query, free text and sort, if they can be read."""
    query = text("query", request.query, query_language.CHARACTERS_MAX)
    free = text("free_text", request.free_text, free_text.CHARACTERS_MAX)
    sort = text("sort", request.sort)
    _check("query", lambda: parse(query, fields))
    _check("sort", lambda: parse_sort(sort, fields))
    return query, free, sort


def _check(field: str, read: Callable[[], object]) -> None:
    try:
        read()
    except QueryInvalid as error:
        raise invalid(field, str(error)) from error


def _window(request: Any) -> Window:
    return Window(in_range("skip", request.skip, 0, SKIP_MAX), request.count_total)


def _page_size(request: Any) -> int:
    size = page_size(request.page)
    return in_range("page.size", size, 1, FULL_PAGE_SIZE_MAX) if request.full else size


def _count(response: Any, total: int | None) -> None:
    if total is not None:
        response.total_hits = total
        response.total_is_lower_bound = total >= COUNT_MAX


def _one_of(field: str, values: dict[Any, Any], number: Any) -> Any:
    if number not in values:
        raise invalid(field, f"{number} is not one of its values")
    return values[number]


def _ms(request: pb.SearchWorkflowsRequest, field: Any) -> int | None:
    if not request.HasField(field):
        return None
    value = getattr(request, field)
    # What a Timestamp may be, by its own definition: years 1 to 9999.
    in_range(f"{field}.seconds", value.seconds, -62_135_596_800, 253_402_300_799)
    in_range(f"{field}.nanos", value.nanos, 0, 999_999_999)
    # Up, so that a bound between two milliseconds keeps its side.
    return int(value.seconds * 1000 + -(-value.nanos // 1_000_000))
