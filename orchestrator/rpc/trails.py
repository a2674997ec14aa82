"""Trails over the wire: what is recorded of events, with the workflows that took part."""

from __future__ import annotations

from orchestrator.engine.model import Execution
from orchestrator.engine.triggers import queries
from orchestrator.engine.triggers.rows import TrailEntry, TrailKind
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.definitions import key_of, page_of
from orchestrator.rpc.requests import namespace_of, page_size, required
from orchestrator.rpc.views import WORKFLOW_STATUS, timestamp
from orchestrator.storage.search import PAGE_SIZE_MAX, ExecutionFilter
from orchestrator_api.v1 import events_pb2 as pb

WORKFLOWS_MAX = 1_000
"""Of those with the correlation id."""
REACHED_MAX = 100
"""Of those with another one that its events have reached."""

_KIND = {
    TrailKind.OUT: pb.TRAIL_ENTRY_KIND_EVENT_OUT,
    TrailKind.IN: pb.TRAIL_ENTRY_KIND_EVENT_IN,
    TrailKind.DONE: pb.TRAIL_ENTRY_KIND_ACTION,
}


async def list_trail(backend: Backend, request: pb.ListTrailRequest) -> pb.ListTrailResponse:
    namespace, correlation_id = namespace_of(request.namespace), required("correlation_id", request.correlation_id)
    await backend.read_point(request.read)
    found, are_all = await _found(backend, namespace, correlation_id)
    entries = queries.trail(backend.state(), namespace, correlation_id)
    names = [each.workflow_id for each in entries if each.workflow_id]
    reached = [name for name in dict.fromkeys(names) if name not in found]
    for workflow_id in reached[:REACHED_MAX]:
        held = await backend.execution(namespace, workflow_id)
        if held is not None:
            found[workflow_id] = held.execution
    # One more than the page has room for, so that it is known whether it is the last one.
    most = page_size(request.page) + 1
    lines = queries.trail_lines(entries, found.values(), after=key_of(request.page.token) or "", most=most)
    page, token = page_of([(line.key, _entry(line).SerializeToString()) for line in lines], request.page)
    return pb.ListTrailResponse(
        entries=[pb.TrailEntry.FromString(each) for each in page],
        workflows_left_out=not are_all or len(reached) > REACHED_MAX,
        next_token=token,
    )


async def _found(backend: Backend, namespace: str, correlation_id: str) -> tuple[dict[str, Execution], bool]:
    """By id; and whether these are all."""
    wanted = ExecutionFilter(namespace=namespace, correlation_id=correlation_id)
    found: dict[str, Execution] = {}
    token = ""
    while True:
        size = min(PAGE_SIZE_MAX, WORKFLOWS_MAX - len(found))
        page = await backend.search(wanted, page_size=size, page_token=token)
        found |= {each.workflow_id: each for each in page.executions}
        token = page.next_token
        if not token or len(found) >= WORKFLOWS_MAX:
            return found, not token


def _entry(line: queries.TrailLine) -> pb.TrailEntry:
    if line.entry is not None:
        return _of_event(line, line.entry)
    assert line.execution is not None
    return _of_workflow(line, line.execution)


def _of_event(line: queries.TrailLine, entry: TrailEntry) -> pb.TrailEntry:
    is_action = entry.kind is TrailKind.DONE
    return pb.TrailEntry(
        kind=_KIND[entry.kind],
        time=timestamp(entry.time_ms),
        number=entry.number,
        caused_by=line.follows,
        event=entry.event,
        event_label=entry.name,
        event_id=entry.event_id,
        source="" if is_action else entry.source,
        handler=entry.source if is_action else "",
        action=entry.action,
        failed=entry.failed,
        reason=entry.reason,
        workflow_id=entry.workflow_id,
        workflow=entry.workflow,
    )


def _of_workflow(line: queries.TrailLine, x: Execution) -> pb.TrailEntry:
    kind = pb.TRAIL_ENTRY_KIND_WORKFLOW_ENDED if line.is_end else pb.TRAIL_ENTRY_KIND_WORKFLOW_STARTED
    return pb.TrailEntry(
        kind=kind,
        time=timestamp(line.time_ms),
        caused_by=line.follows,
        reason=x.reason if line.is_end else "",
        workflow_id=x.workflow_id,
        workflow=x.name,
        workflow_status=WORKFLOW_STATUS[x.status],
        parent_workflow_id="" if line.is_end else x.parent,
    )
