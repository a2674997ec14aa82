"""Requests that come twice take effect once: the result of the first is remembered and answered again.

A client session remembers the results that its client has not acknowledged; a plain request id is remembered for as
long as its own time lies in the window, and is refused outside of it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.commands import OpenClientSession, RequestIdentity
from orchestrator.engine.encoding import decode_result, encode_struct
from orchestrator.engine.errors import refuse
from orchestrator.engine.identifiers import ulid_time_ms
from orchestrator.engine.model import Table, TimerKind
from orchestrator.engine.resident import ClientSession, Request, Timer
from orchestrator.engine.results import AnyResult, ClientSessionOpened, Code, Rejected
from orchestrator.engine.state import State
from orchestrator.engine.step import Step

_NOT_REMEMBERED = frozenset((Code.INTERNAL, Code.RESOURCE_EXHAUSTED))


def recall(state: State, identity: RequestIdentity) -> AnyResult | None:
    """The result the request had before; None if it is new. Refuses what can't be told."""
    if identity.session_id:
        return _recall_in_session(state, identity)
    time_ms = ulid_time_ms(identity.request_id)
    if time_ms is None:
        message = "a request id is a ULID: 26 characters of Crockford base 32, the first ten its time"
        refuse(Code.INVALID_ARGUMENT, "REQUEST_ID_INVALID", message, field="request_id")
    if abs(time_ms - state.meta.log_time_ms) > limits.REQUEST_WINDOW_MS:
        message = f"the request's time is not within {limits.REQUEST_WINDOW_MS // 1000} s of the cluster's"
        refuse(Code.FAILED_PRECONDITION, "REQUEST_EXPIRED", message)
    row = cast(Request | None, state.resident[Table.REQUEST].get((identity.request_id,)))
    return None if row is None else decode_result(row.result)


def _recall_in_session(state: State, identity: RequestIdentity) -> AnyResult | None:
    row = cast(ClientSession | None, state.resident[Table.CLIENT_SESSION].get((identity.session_id,)))
    if row is None:
        message = "the client session is not known any more: whether the request was done can't be told"
        refuse(Code.FAILED_PRECONDITION, "SESSION_EXPIRED", message)
    if identity.sequence < 1:
        refuse(Code.INVALID_ARGUMENT, "SEQUENCE_INVALID", "a sequence is at least 1", field="sequence")
    if identity.sequence < row.lowest_unacknowledged:
        message = f"the client has acknowledged all results below {row.lowest_unacknowledged}"
        refuse(Code.FAILED_PRECONDITION, "SESSION_SEQUENCE_FORGOTTEN", message)
    position = bisect_left(row.results, (identity.sequence, b""))
    if position < len(row.results) and row.results[position][0] == identity.sequence:
        return decode_result(row.results[position][1])
    if len(_unacknowledged(row, identity)) >= limits.CLIENT_RESULTS:
        message = f"{limits.CLIENT_RESULTS} results of the session are not acknowledged"
        refuse(Code.RESOURCE_EXHAUSTED, "SESSION_TOO_MANY_UNACKNOWLEDGED", message)
    return None


def _unacknowledged(row: ClientSession, identity: RequestIdentity) -> tuple[tuple[int, bytes], ...]:
    if identity.lowest_unacknowledged <= row.lowest_unacknowledged:
        return row.results
    return row.results[bisect_left(row.results, (identity.lowest_unacknowledged, b"")) :]


def remember(step: Step, identity: RequestIdentity, result: AnyResult) -> None:
    """Keeps the result for when the request comes again."""
    if isinstance(result, Rejected) and result.code in _NOT_REMEMBERED:
        return
    encoded = encode_struct(result)
    if not identity.session_id:
        time_ms = ulid_time_ms(identity.request_id)
        assert time_ms is not None
        step.write(Table.REQUEST, (identity.request_id,), Request(identity.request_id, time_ms, encoded))
        return
    key = (identity.session_id,)
    row = cast(ClientSession, step.state.resident[Table.CLIENT_SESSION][key])
    kept = _unacknowledged(row, identity)
    position = bisect_left(kept, (identity.sequence, b""))
    row = replace(
        row,
        used_ms=step.now,
        lowest_unacknowledged=max(row.lowest_unacknowledged, identity.lowest_unacknowledged),
        results=(*kept[:position], (identity.sequence, encoded), *kept[position:]),
    )
    step.write(Table.CLIENT_SESSION, key, row)


def open_client_session(step: Step, command: OpenClientSession) -> AnyResult:
    session_id = step.ids.make()
    timer = _arm(step, session_id, command.namespace, step.now + limits.CLIENT_SESSION_IDLE_MS)
    row = ClientSession(session_id, command.namespace, step.now, step.now, 1, (), timer)
    step.write(Table.CLIENT_SESSION, (session_id,), row)
    return ClientSessionOpened(session_id, limits.CLIENT_SESSION_IDLE_MS)


def end_idle_session(step: Step, timer: Timer) -> None:
    """The session's timer has fired: it ends, or the timer is set to when it will have been idle for long enough."""
    key = (timer.workflow_id,)
    row = cast(ClientSession | None, step.state.resident[Table.CLIENT_SESSION].get(key))
    if row is None or row.idle_timer != timer.number:
        return
    idle_ms = row.used_ms + limits.CLIENT_SESSION_IDLE_MS
    if idle_ms <= step.now:
        step.write(Table.CLIENT_SESSION, key, None)
    else:
        step.write(
            Table.CLIENT_SESSION, key, replace(row, idle_timer=_arm(step, row.id, row.namespace, idle_ms))
        )


def _arm(step: Step, session_id: str, namespace: str, fire_ms: int) -> int:
    number = step.timer_number()
    row = Timer(number, fire_ms, TimerKind.CLIENT_SESSION_IDLE, namespace, session_id)
    step.write(Table.TIMER, (number,), row)
    return number


def _expired(state: State) -> Request | None:
    oldest = state.oldest_request()
    if oldest is None or oldest.time_ms + limits.REQUEST_WINDOW_MS >= state.meta.log_time_ms:
        return None
    return oldest


def has_expired(state: State) -> bool:
    """Whether a request is remembered that would be refused anyway."""
    return _expired(state) is not None


def drop_expired(step: Step, come: int) -> None:
    """Forgets such requests: as many as have come with this entry, and a few more."""
    for _ in range(come + limits.REQUESTS_DROPPED_PER_ENTRY):
        oldest = _expired(step.state)
        if oldest is None:
            return
        step.write(Table.REQUEST, (oldest.id,), None)
