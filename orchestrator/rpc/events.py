"""EventService: event handlers, events, and what became of them."""

from __future__ import annotations

import functools
from typing import Any

import grpc

from orchestrator.engine import commands
from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.results import Done, EventPublished
from orchestrator.engine.triggers import events as engine
from orchestrator.engine.triggers import queries
from orchestrator.engine.triggers.event_documents import validate_handler
from orchestrator.engine.triggers.rows import EventRow, EventRun, EventRunState
from orchestrator.integrations.work import Kind, Source
from orchestrator.rpc import redis_needed, stream_status
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.definitions import page_of
from orchestrator.rpc.errors import RpcFailure, answers, not_found
from orchestrator.rpc.level_needed import check_level
from orchestrator.rpc.requests import identity_of, json_object, namespace_of, refuse_reserved, required, text
from orchestrator.rpc.scripts import check_sources
from orchestrator.rpc.trace_context import trace_of
from orchestrator.rpc.trails import list_trail
from orchestrator.rpc.views import timestamp
from orchestrator_api.v1 import common_pb2
from orchestrator_api.v1 import events_pb2 as pb
from orchestrator_api.v1 import events_pb2_grpc as pb_grpc

RUN_STATE = {state: pb.EventRunState.Value(f"EVENT_RUN_STATE_{state.name}") for state in EventRunState}
# So that the newest come first in a listing that goes by its keys.
_NEWEST = 10**18


class EventServicer(pb_grpc.EventServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @answers
    async def PutEventHandler(self, request: pb.PutEventHandlerRequest, context: Any) -> Any:
        await self._check(request.handler_json)
        refuse_reserved("handler_json", request.handler_json)
        command = commands.PutEventHandler(namespace_of(request.namespace), request.handler_json)
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.PutEventHandlerResponse()

    async def _check(self, document: bytes) -> None:
        """Early, so that a document that breaks a rule costs no log entry; the state machine checks again."""
        try:
            handler = validate_handler(document)
            condition = handler.condition
            sources = [("condition", Source(Kind.SCRIPT, condition))] if condition else []
            await check_sources(self.backend.check_source, sources)
        except DefinitionInvalid as error:
            metadata = {"field": "handler_json", "path": error.path}
            raise RpcFailure(
                grpc.StatusCode.INVALID_ARGUMENT, "EVENT_HANDLER_INVALID", f"handler_json: {error}", metadata
            ) from error
        except DefinitionUnimplemented as error:
            metadata = {"field": "handler_json", "path": error.path}
            raise RpcFailure(
                grpc.StatusCode.UNIMPLEMENTED, "DEFINITION_UNIMPLEMENTED", f"handler_json: {error}", metadata
            ) from error
        check_level(self.backend, functools.partial(validate_handler, document), "handler_json")
        redis_needed.check_handler(self.backend, handler, "handler_json")

    @answers
    async def GetEventHandler(self, request: pb.GetEventHandlerRequest, context: Any) -> Any:
        name = required("name", request.name)
        await self.backend.read_point(request.read)
        row = engine.handler(self.backend.state(), namespace_of(request.namespace), name)
        if row is None:
            raise not_found("event_handler", name)
        return pb.GetEventHandlerResponse(handler_json=row.document)

    @answers
    async def ListEventHandlers(self, request: pb.ListEventHandlersRequest, context: Any) -> Any:
        event = text("event", request.event)
        await self.backend.read_point(request.read)
        rows = queries.event_handlers(self.backend.state(), namespace_of(request.namespace))
        wanted = [row for row in rows if not event or validate_handler(row.document).event == event]
        page, token = page_of([(row.name, row.document) for row in wanted], request.page)
        return pb.ListEventHandlersResponse(handler_json=page, next_token=token)

    @answers
    async def DeleteEventHandler(self, request: pb.DeleteEventHandlerRequest, context: Any) -> Any:
        command = commands.DeleteEventHandler(namespace_of(request.namespace), required("name", request.name))
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.DeleteEventHandlerResponse()

    @answers
    async def PublishEvent(self, request: pb.PublishEventRequest, context: Any) -> Any:
        command = commands.PublishEvent(
            namespace_of(request.namespace),
            required("event", request.event),
            text("message_id", request.message_id),
            json_object("payload", request.payload),
            trace_of(request),
            text("correlation_id", request.correlation_id),
            text("source", request.source),
        )
        published = await self.backend.submit(command, EventPublished, identity_of(request.request))
        return pb.PublishEventResponse(
            event_number=published.number, handlers=published.handlers, repeated_message=published.repeated
        )

    @answers
    async def ListEventRuns(self, request: pb.ListEventRunsRequest, context: Any) -> Any:
        handler, event = text("handler", request.handler), text("event", request.event)
        await self.backend.read_point(request.read)
        runs = queries.event_runs(self.backend.state(), namespace_of(request.namespace))
        wanted = [
            run for run in runs if (not handler or run.handler == handler) and (not event or run.event == event)
        ]
        items = [(str(_NEWEST - run.number), _run(run).SerializeToString()) for run in wanted]
        page, token = page_of(items, request.page)
        return pb.ListEventRunsResponse(runs=[pb.EventRun.FromString(each) for each in page], next_token=token)

    @answers
    async def ListPendingEvents(self, request: pb.ListPendingEventsRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        rows = queries.pending_events(self.backend.state(), namespace_of(request.namespace))
        items = [(f"{row.number:020}", _pending(row).SerializeToString()) for row in rows]
        page, token = page_of(items, request.page)
        return pb.ListPendingEventsResponse(
            events=[pb.PendingEvent.FromString(each) for each in page], next_token=token
        )

    @answers
    async def ListTrail(self, request: pb.ListTrailRequest, context: Any) -> Any:
        return await list_trail(self.backend, request)

    @answers
    async def GetStreamStatus(self, request: pb.GetStreamStatusRequest, context: Any) -> Any:
        namespace = namespace_of(request.namespace)
        await self.backend.read_point(common_pb2.ReadOptions())
        self.backend.require_leading()
        return stream_status.answer(self.backend, namespace, request.page)


def _run(run: EventRun) -> pb.EventRun:
    return pb.EventRun(
        event=run.event,
        event_number=run.event_number,
        message_id=run.message_id,
        handler=run.handler,
        action=run.action,
        position=run.position,
        state=RUN_STATE[run.state],
        reason=run.reason,
        workflow_id=run.workflow_id,
        publish_time=timestamp(run.published_ms),
        end_time=timestamp(run.ended_ms),
    )


def _pending(row: EventRow) -> pb.PendingEvent:
    return pb.PendingEvent(
        event=row.event,
        event_number=row.number,
        message_id=row.message_id,
        publish_time=timestamp(row.published_ms),
        undecided_handlers=row.undecided,
        under_way=row.open,
    )
