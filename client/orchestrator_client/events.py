"""Events: published here or by tasks, and what handlers do with them. `Client.events` is the way to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator_api.v1 import events_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest
from orchestrator_api.v1.workflows_pb2 import WorkflowStatus as WorkflowStatusPb
from orchestrator_client import tracing
from orchestrator_client.codec import dumps
from orchestrator_client.connection import Connection
from orchestrator_client.execution import WorkflowStatus, named, read_time
from orchestrator_client.runs import object_payload


class EventRunState(StrEnum):
    COMPLETED = "COMPLETED"
    # It could not be done; the reason says why.
    FAILED = "FAILED"
    # The handler's condition was false, or the handler has gone.
    SKIPPED = "SKIPPED"
    # A state of a newer server.
    UNKNOWN = "UNKNOWN"


class TrailEntryKind(StrEnum):
    """What an entry of a trail tells."""

    # A workflow has published an event.
    EVENT_OUT = "EVENT_OUT"
    # An event has come from elsewhere.
    EVENT_IN = "EVENT_IN"
    # A handler has done something with an event, or could not.
    ACTION = "ACTION"
    WORKFLOW_STARTED = "WORKFLOW_STARTED"
    WORKFLOW_ENDED = "WORKFLOW_ENDED"
    # A kind of a newer server.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class PublishedEvent:
    """`number` is 0 if nobody handles the event; `repeated` if its message id had come before."""

    number: int
    handlers: int
    repeated: bool


@dataclass(frozen=True)
class EventRun:
    """What an action of a handler came to; or a handler none of whose actions were tried."""

    event: str
    event_number: int
    message_id: str
    handler: str
    # The kind of action, such as start_workflow; empty if none was tried.
    action: str
    # The place of the action in its handler, from 0.
    position: int
    state: EventRunState
    reason: str
    # The execution that was started or reached; empty for an event that is kept, as nobody waits for it.
    workflow_id: str
    publish_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True)
class PendingEvent:
    """An event that is not done with."""

    event: str
    event_number: int
    message_id: str
    publish_time: datetime | None
    # Those whose condition is still to be evaluated.
    undecided_handlers: tuple[str, ...]
    # Handlers and actions.
    under_way: int


@dataclass(frozen=True)
class TrailEntry:
    """Something that happened under a correlation id. What an entry does not say is empty, 0, False or None."""

    kind: TrailEntryKind
    time: datetime | None
    # Its own, if it is recorded of an event.
    number: int
    # Of the entry that it was caused by, as far as that is known. What a workflow publishes was caused by the workflow.
    caused_by: int
    event: str
    # What the event is called in its stream, or by the action `record`.
    event_label: str
    # Its message id.
    event_id: str
    # Who says so: task/REFERENCE or workflow, or the service, as it calls itself.
    source: str
    # What has handled the event, by which action.
    handler: str
    action: str
    failed: bool
    # Why it failed; why the workflow ended.
    reason: str
    # The execution that has published the event, was started or reached, has begun, or has ended.
    workflow_id: str
    workflow: str
    # As it is now, of one that has begun or ended.
    workflow_status: WorkflowStatus | None
    parent_workflow_id: str


@dataclass(frozen=True)
class OutgoingStream:
    """Events that are owed to a stream outside: they are published as soon as it takes them."""

    stream: str
    owed_events: int
    # Of their payloads.
    owed_bytes: int
    # When the first of them happened.
    oldest_time: datetime | None
    # Why the stream takes nothing at the moment; empty if it does.
    last_error: str


@dataclass(frozen=True)
class IncomingStream:
    """A stream outside whose entries are events that handlers handle."""

    stream: str
    # The consumer group that it is read by.
    group: str
    # The id of the last entry that was taken up.
    cursor: str
    # Entries that were taken up, each once; and those that had come before, or whose event had.
    received: int
    repeated: int
    # What could not be handled, and was written to the stream of dead letters.
    dead_letters: int
    # Entries that were not read yet; None if that is not known.
    lag: int | None
    # Why nothing is read or taken up at the moment; empty if all is well.
    last_error: str


@dataclass(frozen=True)
class StreamStatus:
    """How the streams do to which events are published, and those whose entries are handled."""

    # Whether the leader has been told where Redis is, and is connected to it; if not, why.
    configured: bool
    connected: bool
    last_error: str
    outgoing: tuple[OutgoingStream, ...]
    incoming: tuple[IncomingStream, ...]


class Events:
    """The events and event handlers of a client's namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._namespace = connection.namespace

    async def publish(
        self, event: str, payload: Any = None, *, message_id: str = "", correlation_id: str = "", source: str = ""
    ) -> PublishedEvent:
        """Publishes an event: each action of each of its active handlers takes effect once.

        `message_id`: your own name for this message; the same again does nothing for a day, whoever publishes it.
        `correlation_id`: what it belongs to, without which the payload's `correlationId` counts; `source`: what the
        service that publishes it calls itself. See `trail`.
        """
        request = pb.PublishEventRequest(
            namespace=self._namespace,
            event=event,
            message_id=message_id,
            payload=object_payload(payload, "payload"),
            correlation_id=correlation_id,
            source=source,
        )
        with tracing.sending("publish", event, request):
            reply = await self._connection.call(lambda node: node.events.PublishEvent, request, mutating=True)
        return PublishedEvent(reply.event_number, reply.handlers, reply.repeated_message)

    async def put_handler(self, document: Mapping[str, Any]) -> None:
        """Creates an event handler, or replaces the one of its name. The document is in Conductor's shape."""
        request = pb.PutEventHandlerRequest(namespace=self._namespace, handler_json=dumps(document))
        await self._connection.call(lambda node: node.events.PutEventHandler, request, mutating=True)

    async def handler(self, name: str) -> dict[str, Any]:
        """The document of a handler."""
        request = pb.GetEventHandlerRequest(namespace=self._namespace, name=name)
        reply = await self._connection.call(lambda node: node.events.GetEventHandler, request)
        document: dict[str, Any] = json.loads(reply.handler_json)
        return document

    async def handlers(self, event: str = "", *, page_size: int = 100) -> AsyncIterator[dict[str, Any]]:
        """The documents of all handlers, or of those of one event, by name."""
        page = PageRequest(size=page_size)
        request = pb.ListEventHandlersRequest(namespace=self._namespace, event=event, page=page)
        while True:
            reply = await self._connection.call(lambda node: node.events.ListEventHandlers, request)
            for document in reply.handler_json:
                yield json.loads(document)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def delete_handler(self, name: str) -> None:
        """Removes a handler; what it has begun is done."""
        request = pb.DeleteEventHandlerRequest(namespace=self._namespace, name=name)
        await self._connection.call(lambda node: node.events.DeleteEventHandler, request, mutating=True)

    async def runs(self, *, handler: str = "", event: str = "", page_size: int = 100) -> AsyncIterator[EventRun]:
        """What actions of handlers came to, the newest first."""
        page = PageRequest(size=page_size)
        request = pb.ListEventRunsRequest(namespace=self._namespace, handler=handler, event=event, page=page)
        while True:
            reply = await self._connection.call(lambda node: node.events.ListEventRuns, request)
            for run in reply.runs:
                yield _run(run)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def pending(self, *, page_size: int = 100) -> AsyncIterator[PendingEvent]:
        """Events that are not done with, the oldest first."""
        request = pb.ListPendingEventsRequest(namespace=self._namespace, page=PageRequest(size=page_size))
        while True:
            reply = await self._connection.call(lambda node: node.events.ListPendingEvents, request)
            for event in reply.events:
                yield _pending(event)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def streams(self) -> StreamStatus:
        """How the streams of Redis do that events of this namespace go to and come from."""
        outgoing: list[OutgoingStream] = []
        incoming: list[IncomingStream] = []
        request = pb.GetStreamStatusRequest(namespace=self._namespace, page=PageRequest(size=1_000))
        while True:
            reply = await self._connection.call(lambda node: node.events.GetStreamStatus, request)
            outgoing += map(_outgoing, reply.outgoing)
            incoming += map(_incoming, reply.incoming)
            if not reply.next_token:
                return StreamStatus(
                    reply.configured, reply.connected, reply.last_error, tuple(outgoing), tuple(incoming)
                )
            request.page.token = reply.next_token

    async def trail(self, correlation_id: str, *, page_size: int = 100) -> AsyncIterator[TrailEntry]:
        """Everything under a correlation id, the oldest first: events, what handlers did with them, and workflows.

        50,000 records of events are kept, and up to 1,000 workflows are looked at.
        """
        page = PageRequest(size=page_size)
        request = pb.ListTrailRequest(namespace=self._namespace, correlation_id=correlation_id, page=page)
        while True:
            reply = await self._connection.call(lambda node: node.events.ListTrail, request)
            for entry in reply.entries:
                yield _trail_entry(entry)
            if not reply.next_token:
                return
            request.page.token = reply.next_token


def _run(message: pb.EventRun) -> EventRun:
    return EventRun(
        event=message.event,
        event_number=message.event_number,
        message_id=message.message_id,
        handler=message.handler,
        action=message.action,
        position=message.position,
        state=named(EventRunState, pb.EventRunState, message.state, "EVENT_RUN_STATE_"),
        reason=message.reason,
        workflow_id=message.workflow_id,
        publish_time=read_time(message.publish_time),
        end_time=read_time(message.end_time),
    )


def _pending(message: pb.PendingEvent) -> PendingEvent:
    return PendingEvent(
        event=message.event,
        event_number=message.event_number,
        message_id=message.message_id,
        publish_time=read_time(message.publish_time),
        undecided_handlers=tuple(message.undecided_handlers),
        under_way=message.under_way,
    )


def _outgoing(message: pb.OutgoingStream) -> OutgoingStream:
    return OutgoingStream(
        stream=message.stream,
        owed_events=message.owed_events,
        owed_bytes=message.owed_bytes,
        oldest_time=read_time(message.oldest_time),
        last_error=message.last_error,
    )


def _incoming(message: pb.IncomingStream) -> IncomingStream:
    return IncomingStream(
        stream=message.stream,
        group=message.group,
        cursor=message.cursor,
        received=message.received,
        repeated=message.repeated,
        dead_letters=message.dead_letters,
        lag=message.lag if message.HasField("lag") else None,
        last_error=message.last_error,
    )


def _trail_entry(message: pb.TrailEntry) -> TrailEntry:
    status = message.workflow_status
    return TrailEntry(
        kind=named(TrailEntryKind, pb.TrailEntryKind, message.kind, "TRAIL_ENTRY_KIND_"),
        time=read_time(message.time),
        number=message.number,
        caused_by=message.caused_by,
        event=message.event,
        event_label=message.event_label,
        event_id=message.event_id,
        source=message.source,
        handler=message.handler,
        action=message.action,
        failed=message.failed,
        reason=message.reason,
        workflow_id=message.workflow_id,
        workflow=message.workflow,
        workflow_status=named(WorkflowStatus, WorkflowStatusPb, status, "WORKFLOW_STATUS_") if status else None,
        parent_workflow_id=message.parent_workflow_id,
    )
