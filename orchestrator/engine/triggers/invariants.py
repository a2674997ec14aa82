"""What is always true of schedules and events between steps: further checks for `engine.invariants`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from orchestrator.engine import limits
from orchestrator.engine.awaiting import EVENT, is_awaited
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.messages import WITH_ORIGIN, GiveEvent, OriginKind, ScheduleDue, StartExecution
from orchestrator.engine.model import RowKey, Table, TimerKind, WorkflowStatus
from orchestrator.engine.state import State
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.engine.triggers import streams
from orchestrator.engine.triggers.event_documents import validate_handler
from orchestrator.engine.triggers.index import armed_until, wants_times
from orchestrator.engine.triggers.rows import AwaitingTask, KeptEvent, RunState


def schedules_are_armed_or_owed_times(state: State) -> Iterator[str]:
    armed = set()
    fired = {message.timer for message in state.messages.values() if isinstance(message, ScheduleDue)}
    for key, row in sorted(state.resident[Table.SCHEDULE].items()):
        timer = state.timers.get((row.timer,))
        if timer is not None:
            armed.add(timer.number)
            if timer.kind is not TimerKind.SCHEDULE or timer.name != row.name:
                yield f"schedule {key} waits for timer {row.timer}, which is {timer}"
        elif row.timer and row.timer not in fired:
            yield f"schedule {key} waits for timer {row.timer}, which is gone"
        if row.due and not row.timer:
            yield f"schedule {key} has times and no timer"
        if row.paused and row.timer:
            yield f"schedule {key} is paused and has a timer"
        times = [row.covered_ms, *(time_ms for time_ms, _ in row.due)]
        if times != sorted(set(times)) or times[-1] != armed_until(row):
            yield f"schedule {key} has its times out of order: {times}"
        if wants_times(row) != (key in state.triggers.wanting):
            yield f"schedule {key} wants times, or does not, and the index says otherwise"
    for _, timer in sorted(state.timers.items()):
        if timer.kind is TimerKind.SCHEDULE and timer.number not in armed:
            yield f"timer {timer.number} is of no schedule"


def runs_whose_end_is_waited_for_will_end(state: State) -> Iterator[str]:
    watched = state.resident[Table.SCHEDULED]
    told = {(m.namespace, m.name) for m in state.messages.values() if isinstance(m, ScheduleDue) and not m.timer}
    for key, row in sorted(state.resident[Table.SCHEDULE].items()):
        if row.running and (row.namespace, row.running) not in watched:
            yield f"schedule {key} waits for {row.running}, of which it will not be told"
        run = state.resident[Table.SCHEDULE_RUN].get((*key, row.buffered))
        is_waiting = row.running or row.paused or key in told
        if row.buffered and (not is_waiting or run is None or run.state is not RunState.BUFFERED):
            yield f"schedule {key} keeps run {row.buffered} back, which is {run}, for {row.running!r}"
    sent = {(m.namespace, m.workflow_id) for m in state.messages.values() if isinstance(m, StartExecution)}
    for key in sorted(watched):
        hot = state.execution((str(key[0]), str(key[1])))
        if hot is not None and hot.execution.status in WORKFLOW_TERMINAL:
            yield f"{key} has ended, and its schedule was not told"
        # Only where all are hot, as in tests.
        if hot is None and key not in sent:
            yield f"{key} is watched and was never started"


def events_are_done_with_once_all_is_done(state: State) -> Iterator[str]:
    under_way: dict[int, int] = {}
    for message in state.messages.values():
        if isinstance(message, WITH_ORIGIN) and message.origin.kind is OriginKind.EVENT:
            under_way[message.origin.number] = under_way.get(message.origin.number, 0) + 1
    size = 0
    for _, row in sorted(state.resident[Table.EVENT].items()):
        number = row.number
        size += len(row.payload)
        if row.open != under_way.get(number, 0):
            yield f"event {number} counts {row.open} messages, there are {under_way.get(number, 0)}"
        if not row.open and not row.undecided:
            yield f"event {number} is done and still there"
        if bool(row.undecided) != (number in state.triggers.undecided):
            yield f"event {number} has handlers to be decided on, or has not, and the index says otherwise"
    if size != state.triggers.event_bytes:
        yield f"the payloads of events have {size} bytes, counted are {state.triggers.event_bytes}"


def the_outbox_is_what_the_index_says(state: State) -> Iterator[str]:
    owed = state.triggers.owed
    by_stream: dict[str, list[int]] = {}
    for key, row in sorted(state.resident[Table.OUTBOX].items()):
        if key != (row.number,) or row.number >= state.meta.next_owed:
            yield f"the outbox has {row.number} as {key}, and the next is {state.meta.next_owed}"
        by_stream.setdefault(row.stream, []).append(row.number)
    found = {stream: [row.number for row in owed.of(stream, owed.count)] for stream in owed.streams()}
    if found != by_stream:
        yield f"the outbox has {by_stream}, and the index says {found}"
    size = sum(len(row.payload) for row in state.resident[Table.OUTBOX].values())
    if (owed.count, owed.bytes) != (len(state.resident[Table.OUTBOX]), size):
        yield f"the outbox has {size} bytes, and the index says {owed.count} events of {owed.bytes}"


def streams_are_read_where_they_are_handled(state: State) -> Iterator[str]:
    rows = state.resident[Table.STREAM]
    names: dict[tuple[str, str], list[bool]] = {}  # (namespace, event) -> whether each of its handlers is active
    for handler in state.resident[Table.EVENT_HANDLER].values():
        parsed = validate_handler(handler.document)
        if streams.stream_of(parsed.event):
            names.setdefault((handler.namespace, parsed.event), []).append(parsed.active)
    if state.meta.behaviour_level < STREAMS:
        names.clear()
    for key, row in sorted(rows.items()):
        if key != (row.namespace, row.event) or key not in names:
            yield f"nobody handles stream {key}, of which there is the row {row}"
        if streams.position(row.cursor) is None:
            yield f"stream {key} has the cursor {row.cursor!r}"
    for key, active in sorted(names.items()):
        if any(active) and key not in rows:
            yield f"stream {key} is handled and has no row"
    read = {key for key in rows if any(names.get((str(key[0]), str(key[1])), ()))}
    if state.triggers.streams.keys() != read:
        yield f"{sorted(read)} are to be read, and the index says {sorted(state.triggers.streams)}"


def who_waits_for_an_event_can_be_found(state: State) -> Iterator[str]:
    rows = cast(dict[RowKey, AwaitingTask], state.resident[Table.AWAITING])
    numbers = set()
    for key, row in sorted(rows.items()):
        numbers.add(row.number)
        hot = state.execution((row.namespace, row.workflow_id))
        attempt = None if hot is None else hot.tasks.get(row.task_sequence)
        if hot is not None and (attempt is None or not is_awaited(attempt, row.number)):
            yield f"{key} waits for an event, and is {attempt}"
        # Only where all are hot, as in tests.
        if hot is None and state.hot_count >= state.meta.live_executions:
            yield f"{key} waits for an event, and is of no execution"
    numbers.update(message.number for message in state.messages.values() if isinstance(message, GiveEvent))
    for key, hot in state.hot_executions():
        header = hot.execution
        # What turns round or ends is given nothing, and is about to cancel what waits.
        if header.ending is not None or WorkflowStatus.COMPENSATING in (header.status, header.paused_from):
            continue
        for sequence in sorted(hot.open):
            attempt = hot.tasks[sequence]
            if attempt.signal == EVENT and attempt.position not in numbers:
                yield f"{key} #{sequence} waits for an event, and none will find it"


def no_event_is_kept_from_who_waits_for_it(state: State) -> Iterator[str]:
    kept = cast(dict[RowKey, KeptEvent], state.resident[Table.KEPT_EVENT])
    size = sum(len(row.payload) for row in kept.values())
    if size != state.triggers.awaited.kept_bytes:
        yield f"events of {size} bytes are kept, counted are {state.triggers.awaited.kept_bytes}"
    for key, row in sorted(kept.items()):
        waiter = state.triggers.awaited.waiter((row.namespace, row.event, row.key))
        if waiter is not None and waiter.since_ms < row.since_ms + limits.EVENT_KEPT_MS:
            yield f"{key} is kept, and {waiter.workflow_id} waits for it"


def a_trail_is_found_by_its_correlation_id(state: State) -> Iterator[str]:
    rows: dict[tuple[str, str], list[int]] = {}
    for key, row in sorted(state.resident[Table.TRAIL].items()):
        rows.setdefault((row.namespace, row.correlation_id), []).append(row.number)
        if key != (row.number,) or not 0 < row.number < state.meta.next_trail:
            yield f"entry {key} of a trail has the number {row.number}, the next is {state.meta.next_trail}"
        if row.number + limits.TRAIL_KEPT < state.meta.next_trail:
            yield f"entry {row.number} of a trail is too old to be kept"
    found = {each: state.triggers.trail.numbers_of(*each) for each in state.triggers.trail.ids()}
    if found != rows:
        yield f"trails are {rows}, the index says {found}"


CHECKS = (
    schedules_are_armed_or_owed_times,
    runs_whose_end_is_waited_for_will_end,
    events_are_done_with_once_all_is_done,
    the_outbox_is_what_the_index_says,
    streams_are_read_where_they_are_handled,
    who_waits_for_an_event_can_be_found,
    no_event_is_kept_from_who_waits_for_it,
    a_trail_is_found_by_its_correlation_id,
)
