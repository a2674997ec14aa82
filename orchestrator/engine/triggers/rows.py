"""The rows of schedules and event handlers: resident, and bounded in number. What holds for all rows is in `model`."""

from __future__ import annotations

from enum import IntEnum

from orchestrator.engine.model import Row


class RunState(IntEnum):
    """What became of a run of a schedule. The numbers are those of the wire and of the stored rows."""

    PENDING = 1  # its execution is about to start
    STARTED = 2
    FAILED = 3  # there is no execution; the reason says why
    SKIPPED = 4
    BUFFERED = 5  # waits for the end of the run before


class EventRunState(IntEnum):
    """What became of an action of an event handler. The numbers are those of the wire and of the stored rows."""

    COMPLETED = 1
    FAILED = 2
    SKIPPED = 3  # the handler's condition was false, or the handler has gone


class TrailKind(IntEnum):
    """What an entry of a trail tells. The numbers are those of the wire and of the stored rows."""

    OUT = 1  # a workflow has published an event
    IN = 2  # an event has come from elsewhere
    DONE = 3  # an action of a handler was done, or could not be


class ScheduleRow(Row, frozen=True):
    """A schedule: the JSON text that was given, and how far it has come.

    Its times are computed outside, from tables of time zones that differ between machines, and come back by
    ArmSchedule.
    """

    namespace: str
    name: str
    document: bytes
    created_ms: int
    updated_ms: int
    revision: int = 1  # times that were computed for another one mean nothing
    paused: bool = False
    paused_reason: str = ""
    covered_ms: int = 0  # every time up to this one has been dealt with
    due: tuple[tuple[int, int], ...] = ()  # (time, number of the cron expression), ascending: what follows
    refill_below: int = 0  # with fewer than so many times left, more are to be computed
    exhausted: bool = False  # there are no times but those of `due`
    timer: int = 0  # for the first of `due`; without any, for when to look again
    next_run: int = 1  # of SCHEDULE_RUN rows
    # Unless runs may overlap:
    running: str = ""  # the workflow id of the run that has not ended
    buffered: int = 0  # the number of the run that waits for its end


class ScheduleRun(Row, frozen=True):
    """One run of a schedule, or several that follow each other and were skipped for the same reason."""

    number: int
    execution_id: str
    state: RunState
    scheduled_ms: int  # the newest time, where there are several
    executed_ms: int
    cron: str = ""  # and zone; empty if it was run by hand
    workflow_id: str = ""
    reason: str = ""
    count: int = 1


class ScheduledExecution(Row, frozen=True):
    """An execution whose end its schedule waits for."""

    schedule: str
    number: int  # of the run
    namespace: str = ""
    workflow_id: str = ""


class Scheduling(Row, frozen=True):
    """Whether all schedules are paused, and since when."""

    paused: bool
    reason: str
    changed_ms: int


class EventHandlerRow(Row, frozen=True):
    """An event handler, as the JSON text that was given."""

    namespace: str
    name: str
    document: bytes
    created_ms: int
    updated_ms: int
    revision: int = 1  # a verdict on another one's condition means nothing


class EventRow(Row, frozen=True):
    """A published event, until all that its handlers do is done."""

    number: int
    namespace: str
    event: str
    message_id: str
    payload: bytes
    published_ms: int
    undecided: tuple[str, ...] = ()  # handlers whose condition is still to be evaluated
    open: int = 0  # messages under way: handlers to begin, actions to be done
    trace: str = ""  # see model.Execution
    correlation_id: str = ""
    trail: int = 0  # the number of its own TRAIL row; 0: it has none


class EventRun(Row, frozen=True):
    """What an action of a handler came to; or a handler none of whose actions were tried."""

    number: int
    namespace: str
    event: str
    event_number: int
    message_id: str
    handler: str
    action: str  # empty if none was tried
    position: int  # of the action in its handler
    state: EventRunState
    published_ms: int
    ended_ms: int
    workflow_id: str = ""
    reason: str = ""


class OwedEvent(Row, frozen=True):
    """An event that is to be written to a stream outside, until it is known to be there."""

    number: int  # in the order in which they happened
    namespace: str
    stream: str
    event_id: str  # the same however often it is written
    event: str
    payload: bytes  # a JSON object
    time_ms: int
    source: str  # who says so: task/REFERENCE, workflow, handler/NAME
    workflow: str = ""  # its name
    workflow_id: str = ""
    correlation_id: str = ""
    trace: str = ""  # see model.Execution
    reason: str = ""  # of a dead letter: what is wrong with it


class StreamRow(Row, frozen=True):
    """A stream outside whose entries are handled, and how far they have been taken up."""

    namespace: str
    event: str  # redis:STREAM
    cursor: str  # the id of the last entry that was taken up, "ms-seq"
    received: int = 0  # entries that were taken up
    repeated: int = 0  # ... and those that had been before, or whose event had come
    dead: int = 0  # dead letters


class EventSeen(Row, frozen=True):
    """A message id that has come: the same again does nothing."""

    namespace: str
    event: str
    message_id: str
    seen_ms: int
    event_number: int


class AwaitingTask(Row, frozen=True):
    """A task that waits for an event with a correlation key. The lowest number is the next to get one."""

    number: int
    namespace: str
    event: str
    key: str
    workflow_id: str
    task_sequence: int
    since_ms: int


class KeptEvent(Row, frozen=True):
    """An event that nobody waited for when it came. The lowest number is the next to be taken."""

    number: int
    namespace: str
    event: str
    key: str
    payload: bytes  # what the task will be given, a JSON object
    since_ms: int


class TrailEntry(Row, frozen=True):
    """What happened to an event, under a correlation id. For people: nothing is decided by it."""

    number: int
    namespace: str
    correlation_id: str
    time_ms: int
    kind: TrailKind
    event: str
    event_id: str = ""  # its message id
    source: str = ""  # OUT: task/REFERENCE or workflow; IN: the service; DONE: the handler, "": it was kept
    workflow: str = ""  # OUT: who has published it; DONE: whom the action has reached
    workflow_id: str = ""
    follows: int = 0  # DONE: the event's own entry, if that is under the same correlation id
    action: str = ""  # empty if the handler could not begin
    failed: bool = False  # DONE: it could not be done; IN: it could be no event
    reason: str = ""
    name: str = ""  # what the event is called in its stream, or by the action `record`
