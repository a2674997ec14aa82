"""What the replicated state is made of: plain rows, each of which is encoded, hashed and stored by itself.

Rows are values: a handler replaces a row through the unit of work and never changes one in place, so a step that fails
leaves nothing behind. Of META and its execution's header, which nearly every step changes several times, a step has a
copy of its own that it does change in place, until it is committed; so it may the row of an attempt that it has made.
Fields are encoded by position: add new ones at the end, with a default. Times are milliseconds of log time. A payload
is the JSON text as bytes when it has at most ``INLINE_PAYLOAD_BYTES``, otherwise the number of a PAYLOAD row of the
same execution; ``b""`` is no payload.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

INLINE_PAYLOAD_BYTES: Final = 4096

ExecutionKey = tuple[str, str]
"""(namespace, workflow id)"""

Payload = bytes | int


class Table(IntEnum):
    """Every kind of row. The numbers are part of the stored format."""

    META = 0  # ()
    # Rows of one execution: in memory while it is hot.
    EXECUTION = 1  # (namespace, workflow id)
    TASK = 2  # (namespace, workflow id, sequence)
    RECORD = 3  # (namespace, workflow id, number)
    SIGNAL = 4  # (namespace, workflow id, number)
    PAYLOAD = 5  # (namespace, workflow id, number)
    EXPANSION = 6  # (namespace, workflow id, number)
    TASK_LOG = 8  # (namespace, workflow id, number)
    # Resident rows: always in memory.
    WORKFLOW_DEFINITION = 20  # (namespace, name, version)
    TASK_DEFINITION = 21  # (namespace, name)
    BUNDLE = 22  # (digest,)
    SESSION = 23  # (session id,)
    LEASE = 24  # (fencing token,)
    READY = 25  # (ready number,)
    TIMER = 26  # (timer number,)
    MESSAGE = 27  # (message number,)
    CLIENT_SESSION = 28  # (session id,)
    REQUEST = 29  # (request id,)
    TASK_RATE = 30  # (namespace, task name)
    IDEMPOTENCY = 31  # (digest of namespace, workflow name and key,)
    WORKFLOW_GROUP = 32  # (digest of namespace, workflow name and rate limit key,)
    WAITING = 33  # (number,)
    POLLER = 34  # (namespace, domain, task name)
    SERVICE = 50  # (namespace, name)
    SCHEMA = 71  # (namespace, name, version)
    SECRET = 72  # (namespace, name)
    RETENTION = 35  # ()
    SCHEDULE = 40  # (namespace, name)
    SCHEDULE_RUN = 41  # (namespace, name, number)
    SCHEDULED = 42  # (namespace, workflow id)
    SCHEDULING = 43  # ()
    EVENT_HANDLER = 44  # (namespace, name)
    EVENT = 45  # (event number,)
    EVENT_RUN = 46  # (number,)
    EVENT_SEEN = 47  # (namespace, event, message id)
    OUTBOX = 48  # (number,)
    STREAM = 49  # (namespace, event)
    AWAITING = 51  # (namespace, event, correlation key, number)
    KEPT_EVENT = 52  # (namespace, event, correlation key, number)
    TRAIL = 53  # (number,)
    BLOB = 54  # (number,)


EXECUTION_TABLES = (
    Table.EXECUTION,
    Table.TASK,
    Table.RECORD,
    Table.SIGNAL,
    Table.PAYLOAD,
    Table.EXPANSION,
    Table.TASK_LOG,
)

RowKey = tuple[str | int | bytes, ...]


class WorkflowStatus(IntEnum):
    """The numbers are those of the wire and of the stored rows."""

    RUNNING = 1
    PAUSED = 2
    COMPENSATING = 3
    COMPLETED = 4
    FAILED = 5
    TIMED_OUT = 6
    TERMINATED = 7


class TaskStatus(IntEnum):
    """The numbers are those of the wire and of the stored rows."""

    SCHEDULED = 1
    IN_PROGRESS = 2
    COMPLETED = 3
    COMPLETED_WITH_ERRORS = 4
    SKIPPED = 5
    FAILED = 6
    FAILED_WITH_TERMINAL_ERROR = 7
    TIMED_OUT = 8
    CANCELED = 9


class CompensationState(IntEnum):
    """The numbers are those of the wire and of the stored rows."""

    NONE = 1
    RUNNING = 2
    STUCK = 3
    COMPLETE = 4
    INCOMPLETE = 5


class StepOutcome(IntEnum):
    """What is known of a step that is owed a compensation."""

    COMPLETED = 1
    UNKNOWN = 2


class Check(IntEnum):
    """Whether an attempt waits for somebody to look at a payload of it, which has to keep a JSON schema."""

    NONE = 0
    INPUT = 1  # before it begins
    INPUT_PASSED = 2
    OUTPUT = 3  # it is done, and has completed if its output keeps the schema
    OUTPUT_PASSED = 4


class SessionKind(IntEnum):
    """How a worker session gets its tasks."""

    STREAM = 1
    POLL = 2


class TimerKind(IntEnum):
    """What a timer does when it fires."""

    TASK_READY = 1  # start delay or retry back-off has passed
    TASK_TIMEOUT = 2
    TASK_TOTAL_TIMEOUT = 3
    WORKFLOW_TIMEOUT = 4
    WAIT = 5
    COMPENSATION_GRACE = 6
    CLIENT_SESSION_IDLE = 7
    TASK_RATE = 25  # hand-outs of a task cease to count
    POLLER = 26  # a poller was not seen for some time
    SCHEDULE = 30  # the first of a schedule's times is due, or it is to be looked at again


class AgendaKind(IntEnum):
    """What an execution still has to do to itself."""

    FOLLOW = 1  # draw the consequences of an attempt that ended
    SCHEDULE = 2  # create the first attempt of a reference
    RETRY = 3  # create another attempt, because an operator asked for it
    READY = 4  # begin an attempt whose delay has passed, or that lost its lease before it was taken up
    EXPAND = 5  # make the tasks of a dynamic fork, as many as the step may
    ABANDON = 6  # cancel what is open inside of a loop that has failed
    FORGET = 7  # remove an iteration that a loop does not keep; the reference is its number
    WALK_AGAIN = 8  # go through what stays of an earlier run, from the sequence on; the reference: up to which


AgendaItem = tuple[AgendaKind, int, str]
"""(kind, sequence of an attempt or 0, reference). SCHEDULE makes the reference, as it stands in the definition, at the
place of the attempt: in its iteration of a loop, next to it or inside of it."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all rows."""


class Meta(Row, frozen=False):  # type: ignore[misc]  # msgspec allows it
    """The one row of counters and of the log's own facts. A step changes a copy of its own."""

    log_time_ms: int = 0
    behaviour_level: int = 1
    next_token: int = 1
    next_ready: int = 1
    next_timer: int = 1
    next_message: int = 1
    live_executions: int = 0
    stuck_compensations: int = 0
    checkpoint_index: int = 0
    next_event: int = 1
    next_event_run: int = 1
    next_owed: int = 1
    next_trail: int = 1
    next_blob: int = 1


# --- one execution ---------------------------------------------------------------------------------------------


class Execution(Row, frozen=False):  # type: ignore[misc]  # as above
    """The header of an execution. A step changes a copy of its own."""

    namespace: str
    workflow_id: str
    name: str
    version: int
    bundle: bytes  # digest of the BUNDLE row: the definition and task definitions as they were at start
    status: WorkflowStatus
    created_ms: int
    updated_ms: int
    ended_ms: int = 0
    run: int = 1
    input: Payload = b""
    output: Payload = b""
    variables: Payload = b""
    correlation_id: str = ""
    priority: int = 0
    created_by: str = ""
    task_to_domain: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    failed_task: str = ""  # reference name
    next_sequence: int = 1  # of TASK rows
    next_number: int = 1  # of RECORD, SIGNAL and PAYLOAD rows
    open_tasks: int = 0  # attempts that are not terminal
    open_branches: int = 0  # sequences of the definition that have not reached their end
    payload_bytes: int = 0
    workflow_timer: int = 0
    timeout_base_ms: int = 0  # the workflow timeout counts from here: creation or the last retry
    # Saga (see the rules of compensation).
    compensation: CompensationState = CompensationState.NONE
    outcome: WorkflowStatus | None = None  # fixed on entering COMPENSATING; the status when compensation ends
    paused_from: WorkflowStatus | None = None  # where resume returns to
    pivot_passed: bool = False
    settling: int = 0  # leased attempts still awaited before the first compensation
    grace_timer: int = 0
    owed: tuple[int, ...] = ()  # RECORD numbers still to be compensated, in the order of their compensation
    compensating: tuple[int, ...] = ()  # RECORD numbers being compensated now
    done: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    replaced: bytes = b""  # reserved
    signals: int = 0  # buffered SIGNAL rows
    signal_bytes: int = 0  # their payloads
    agenda: tuple[AgendaItem, ...] = ()  # held while paused, or left over by a step that reached its bound
    undo_agenda: tuple[int, ...] = ()  # ended attempts of compensations whose consequences are still to be drawn
    # Fixed: the status once every open attempt is cancelled, which may take several steps.
    ending: WorkflowStatus | None = None
    settled: bool = False  # COMPENSATING: nothing is in flight any more and `owed` is complete
    idempotency_key: str = ""
    deleted: bool = False  # there for nobody any more; its rows go step by step
    delete_when_ended: bool = False  # if everything owed has been undone by then
    # Of the definition; 0: the cluster's policy.
    retention_ms: int = 0
    retention_count: int = 0
    log_lines: int = 0  # of TASK_LOG rows
    log_bytes: int = 0
    log_lines_dropped: int = 0  # to keep within the limit
    # How many run at once (see gate): the group, and its key as far as it is shown.
    group: bytes = b""
    group_key: str = ""
    has_place: bool = False
    waits: int = 0  # number of the WAITING row it had or has, until it is told that it has a place
    # Of a sub-workflow: the execution and attempt that started it, the outermost execution, and how deep it is.
    parent: str = ""
    parent_sequence: int = 0
    root: str = ""
    depth: int = 0
    undone_by: int = 0  # sequence of the parent's attempt to compensate it
    afterwards: bytes = b""  # an operator's command, for when what is owed has been undone
    messages: int = 0  # of the signals, those of its message queue
    undo_children: bool = True  # whether what its children have done is undone when it ends badly
    masked_fields: tuple[str, ...] = ()  # of the definition: paths that readers are not shown
    clearing: bool = False  # the run before goes step by step; nothing of this one has begun
    schedule: str = ""  # of whose run it is the execution
    schedule_run: int = 0
    parent_task: str = ""  # of a sub-workflow: the id of the parent's attempt
    # Attempts elsewhere that wait for its end, without having started it: (workflow id, sequence).
    joined_by: tuple[tuple[str, int], ...] = ()
    tells: bool = False  # some of its tasks announce changes of their state
    # Which trace it is a part of, for those who work on it; nothing here depends on it.
    trace: str = ""
    blobs: tuple[int, ...] = ()  # numbers of the BLOB rows of all that its payloads have referred to, ascending


class TaskAttempt(Row, frozen=False):  # type: ignore[misc]  # as above
    """One attempt of a task. The attempts of one reference and iteration follow each other.

    A step changes those in place that it has made itself, until it is committed (`Step.is_own`).
    """

    sequence: int
    task_id: str
    reference: str
    name: str  # of the task definition
    type: str
    status: TaskStatus
    scheduled_ms: int
    first_scheduled_ms: int
    started_ms: int = 0
    ended_ms: int = 0
    updated_ms: int = 0
    retry_count: int = 0
    iteration: int = 0
    retried: bool = False  # a later attempt took its place
    # The resolved input where it is small; otherwise the template of the definition and what it refers to:
    # (reference, sequence) of attempts, and the variables as they were.
    input: Payload = b""
    bindings: tuple[tuple[str, int], ...] = ()
    bound_variables: Payload = b""
    output: Payload = b""
    reason: str = ""
    error_code: str = ""
    worker_id: str = ""
    fencing_token: int = 0
    idempotency_key: str = ""
    ready: int = 0  # number of the READY row while it waits for a worker
    timers: tuple[int, ...] = ()
    compensates: int = 0  # RECORD number, for a compensation
    losses: int = 0  # workers lost in a row, this attempt not counted
    waiting: int = 0  # JOIN: joined references that are not terminal yet
    details: Payload = b""  # of the newest heartbeat
    accepted: bool = False  # ended by its worker's result
    outcome_unknown: bool = False  # ended without anybody knowing whether it took effect
    signal: str = ""  # WAIT: the name of the signal it waits for; or see `inbox`, `awaiting`
    extra: bytes = b""  # an operator's own state, JSON
    passed: bool = False  # final, and the walk has gone on from it; a SWITCH passes at the end of its branch
    # Where it stands: in which iteration of each loop around it, outermost first; and in which EXPANSION, if its task
    # is not one of the definition.
    iterations: tuple[int, ...] = ()
    expansion: int = 0
    expanded: int = 0  # the EXPANSION that a dynamic task or fork has been resolved to
    # DO_WHILE: the current iteration (`waiting` are the sequences open in it), and how many are kept; 0: all.
    # A dynamic fork: how many of its tasks have been made. What waits for an event: the number of its AWAITING row.
    position: int = 0
    keep_last: int = 0
    assembled_bytes: int = 0  # JOIN, DO_WHILE: the size of the output that is put together when it is read
    child: str = ""  # SUB_WORKFLOW: the id of the execution that it started
    most_iterations: int = 0  # DO_WHILE: as its input says; 0: as many as any loop
    check: Check = Check.NONE
    check_losses: int = 0  # nodes lost in a row while they looked at it
    # The token of the worker that has reported something last and has it no more: its output, while that is looked at;
    # that it is not done; or that what it has called goes on.
    reported_by: int = 0

    joined: bool = False  # SUB_WORKFLOW: `child` was there before, and only its end is waited for
    secrets: tuple[int, ...] = ()  # where in its input the definition names secrets (see `secret_names`)

    @property
    def own_child(self) -> str:
        """The execution that it has started itself, whose fate is its own."""
        return "" if self.joined else self.child

    @property
    def is_looked_at(self) -> bool:
        """Whether a node looks at a payload of it, or is to: until then nothing else happens to the attempt."""
        return self.check is Check.INPUT or self.check is Check.OUTPUT


class SagaRecord(Row, frozen=True):
    """A step that is owed a compensation. Immutable but for what became of the compensation."""

    number: int
    reference: str
    name: str
    iteration: int
    outcome: StepOutcome
    step_sequence: int  # the attempt that completed, or the last one
    step_key: str  # the step's idempotency key
    input: Payload
    output: Payload
    completed_ms: int
    bindings: tuple[tuple[str, int], ...] = ()
    bound_variables: Payload = b""
    reason: str = ""  # why it is left
    iterations: tuple[int, ...] = ()
    expansion: int = 0
    child: str = ""  # the execution whose own steps are undone: the step was a sub-workflow


class ExpansionKind(IntEnum):
    """What became of a task that is only known when its turn comes."""

    BODY = 1  # a DYNAMIC: the task that it is
    FORKED = 2  # a dynamic fork of the tasks that it was given
    SPREAD = 3  # a dynamic fork of one task, for each of its inputs


class Expansion(Row, frozen=True):
    """Tasks that the definition does not have: it only says where they come from."""

    number: int
    kind: ExpansionKind
    parent: int  # sequence of the attempt that was expanded
    count: int  # of its tasks
    loops: int  # how many loops are around it
    document: Payload  # the tasks, and the task definitions that they name as they were registered then
    inputs: Payload = b""  # FORKED: an object by reference name; SPREAD: an array


class Signal(Row, frozen=True):
    """A signal that no WAIT has taken yet."""

    number: int
    name: str
    payload: Payload
    received_ms: int


class PayloadRow(Row, frozen=True):
    """A payload that is too large for the row that refers to it."""

    data: bytes


class TaskLog(Row, frozen=True):
    """Lines that an attempt has logged, as they came together."""

    number: int
    task_sequence: int
    lines: tuple[tuple[int, str], ...]  # (time in milliseconds as the worker says, text)
    bytes: int  # of the texts, in UTF-8
