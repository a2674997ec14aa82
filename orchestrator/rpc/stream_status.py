"""How the streams do to which events are published, and those whose entries are handled: what its leader knows."""

from __future__ import annotations

from orchestrator.engine.state import State
from orchestrator.engine.triggers import queries, streams
from orchestrator.engine.triggers.rows import StreamRow
from orchestrator.rpc.backend import Backend, StreamsKnown
from orchestrator.rpc.definitions import page_of
from orchestrator.rpc.views import timestamp
from orchestrator_api.v1 import common_pb2
from orchestrator_api.v1 import events_pb2 as pb

_INCOMING, _OUTGOING = "in/", "out/"


def answer(backend: Backend, namespace: str, page: common_pb2.PageRequest) -> pb.GetStreamStatusResponse:
    """One page. Raises RpcFailure for one that there can't be."""
    state, known = backend.state(), backend.streams
    incoming = {f"{_INCOMING}{row.event}": row for row in queries.streams(state) if row.namespace == namespace}
    outgoing = {f"{_OUTGOING}{stream}": stream for stream in state.triggers.owed.streams_of(namespace)}
    keys = [(key, key.encode()) for key in (*incoming, *outgoing)]
    page_keys, token = page_of(keys, page)
    wanted = [key.decode() for key in page_keys]
    return pb.GetStreamStatusResponse(
        configured=known is not None,
        connected=known is not None and known.connected,
        last_error="" if known is None else known.last_error,
        outgoing=[_outgoing(state, known, namespace, outgoing[key]) for key in wanted if key in outgoing],
        incoming=[_incoming(known, incoming[key]) for key in wanted if key in incoming],
        next_token=token,
    )


def _outgoing(state: State, known: StreamsKnown | None, namespace: str, stream: str) -> pb.OutgoingStream:
    owed = state.triggers.owed
    events, size = owed.tally_of(namespace, stream)
    oldest = owed.oldest(stream)
    return pb.OutgoingStream(
        stream=stream,
        owed_events=events,
        owed_bytes=size,
        oldest_time=None if oldest is None else timestamp(oldest.time_ms),
        last_error="" if known is None else known.error_out(stream),
    )


def _incoming(known: StreamsKnown | None, row: StreamRow) -> pb.IncomingStream:
    return pb.IncomingStream(
        stream=streams.stream_of(row.event),
        group="" if known is None else known.group_of(row.namespace),
        cursor=row.cursor,
        received=row.received,
        repeated=row.repeated,
        dead_letters=row.dead,
        lag=None if known is None else known.lag(row.namespace, row.event),
        last_error="" if known is None else known.error_in(row.namespace, row.event),
    )
