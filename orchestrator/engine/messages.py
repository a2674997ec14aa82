"""Messages to executions: how one execution, a timer or a session reaches another execution.

A step touches one execution. What it owes to others it puts into the replicated inbox, and a later step takes it up,
in order. Fields are encoded by position, the tag first.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from orchestrator.engine.choices import IdempotencyStrategy
from orchestrator.engine.model import Payload, Row, TaskStatus, TimerKind, WorkflowStatus


class OriginKind(IntEnum):
    """Who is told what came of a message. `origins` has the table of how."""

    NOBODY = 0
    SCHEDULE = 1  # name: the schedule's; number: the run's
    TASK = 3  # name: the workflow's id; number: the attempt's sequence
    EVENT = 2  # name: the handler's; number: the event's; part: the place of the action, or BEGINNING


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who sent a message, in the message's namespace. What the fields say depends on the kind; there will be no more
    of them."""

    kind: OriginKind = OriginKind.NOBODY
    name: str = ""
    number: int = 0
    part: int = 0


class Message(Row, frozen=True):
    """Base of all messages. Each names the execution whose step takes it up."""

    namespace: str
    workflow_id: str


class TaskLeased(Message, frozen=True, tag=1):
    """Matching has leased the attempt: it is in progress now."""

    task_sequence: int
    token: int


class TimerFired(Message, frozen=True, tag=2):
    kind: TimerKind
    task_sequence: int
    timer: int


class WorkerLost(Message, frozen=True, tag=3):
    """The session of the attempt's worker has ended."""

    task_sequence: int
    token: int


class DeadlinePassed(Message, frozen=True, tag=4):
    """The response or poll deadline of the attempt has passed (kind: see choices.DeadlineKind)."""

    kind: int
    task_sequence: int
    number: int


class ContinueExecution(Message, frozen=True, tag=5):
    """The step before had more to do than one step may."""


class LetIn(Message, frozen=True, tag=40):
    """The execution has the place that it waited for."""

    number: int  # of its WAITING row


class StartExecution(Message, frozen=True, tag=50):
    """An execution is to begin under this id, which whoever sends it has made or chosen. See births.start_within."""

    name: str
    version: int  # 0: the highest
    input: bytes
    correlation_id: str = ""
    priority: int = 0
    task_to_domain: tuple[tuple[str, str], ...] = ()
    created_by: str = ""
    document: bytes = b""  # a definition to run without registering it
    origin: Origin = Origin()
    idempotency_key: str = ""
    idempotency: IdempotencyStrategy = IdempotencyStrategy.FAIL
    # Of a sub-workflow, whose origin is its parent's task: the id of the outermost execution, and how deep it is.
    root: str = ""
    depth: int = 0
    parent_task: str = ""  # the id of that task
    trace: str = ""  # see model.Execution


class CancelChild(Message, frozen=True, tag=10):
    """The parent's task does not wait for this execution any more."""

    reason: str
    undo: bool  # what it owes is undone first


class ChildEnded(Message, frozen=True, tag=11):
    """The execution that a task of this one has started has ended, or has undone its steps."""

    task_sequence: int
    child: str
    status: WorkflowStatus
    reason: str
    output: bytes
    owes: bool = False  # it has completed steps that would have to be undone
    pivot_passed: bool = False
    is_incomplete: bool = False  # it has left steps that are not undone


class UndoChild(Message, frozen=True, tag=12):
    """The parent undoes the step that this execution was."""

    parent: str
    task_sequence: int  # of the compensation


class StartAnswered(Message, frozen=True, tag=13):
    """The execution that a task of this one asked for has begun; or not, for this reason."""

    task_sequence: int
    child: str
    reason: str = ""
    error_code: str = ""


class RemoveChild(Message, frozen=True, tag=14):
    """The execution that this one is a part of is deleted, or has nothing to do with it any more."""

    keep: bool = False  # this one stays, by itself


class ChildReopened(Message, frozen=True, tag=15):
    """The execution that a task of this one has started runs again, after its end."""

    task_sequence: int
    child: str


class GoOnAfterEnd(Message, frozen=True, tag=16):
    """The execution has undone its steps; what an operator wanted after that is done now."""


class RetryChild(Message, frozen=True, tag=17):
    """The parent is retried: this execution, which has failed, is to go on."""

    parent: str
    parent_sequence: int


class ClearExecution(Message, frozen=True, tag=18):
    """The execution runs again: what does not stay goes, as much as one step may remove. See `clearing`."""

    target: int = 0  # sequence of the attempt from which on all is made again; 0: everything
    part: int = 0  # of the work, and how far it has come there
    position: int = 0
    below: int = 0  # payloads with such numbers are those of the run before
    given: Payload = b""  # another input for the target, which stands here:
    reference: str = ""
    iterations: tuple[int, ...] = ()
    expansion: int = 0


class RemoveRows(Message, frozen=True, tag=30):
    """The execution is deleted: its rows go, as many as one step may remove."""


class PurgeExecution(Message, frozen=True, tag=31):
    """The execution may have been kept for long enough (rule: see choices.PurgeRule)."""

    ended_ms: int
    rule: int
    observed: int


class FinishTask(Message, frozen=True, tag=51):
    """Somebody else than its worker knows how a task has ended."""

    task_id: str  # or "", and then
    reference: str  # its newest attempt
    status: TaskStatus  # COMPLETED, FAILED
    output: bytes
    reason: str
    origin: Origin = Origin()


class TerminateExecution(Message, frozen=True, tag=52):
    """The execution is to end; what it owes is undone."""

    reason: str
    origin: Origin = Origin()


class UpdateVariables(Message, frozen=True, tag=53):
    """The execution's variables get these values."""

    variables: bytes  # a JSON object
    append: bool  # lists are added to the lists that are there
    origin: Origin = Origin()


class HandleEvent(Message, frozen=True, tag=54):
    """A handler is to begin with an event. Concerns no execution: the workflow id is empty."""

    origin: Origin


class ScheduleDue(Message, frozen=True, tag=55):
    """A schedule has something to do. Concerns no execution: the workflow id is empty."""

    name: str
    timer: int  # that has fired; 0: the run before has ended, for which another one waits


class SignalExecution(Message, frozen=True, tag=57):
    """The execution gets a signal."""

    name: str
    payload: bytes  # a JSON object
    origin: Origin = Origin()


class GiveEvent(Message, frozen=True, tag=58):
    """A task of the execution gets the event that it waits for; if it waits no more, whoever is the next."""

    task_sequence: int
    number: int  # of the AWAITING row that the task had
    event: str
    key: str
    # As of a KEPT_EVENT row, which it becomes if nobody waits any more.
    kept: int
    payload: bytes
    since_ms: int
    origin: Origin = Origin()


class JoinExecution(Message, frozen=True, tag=56):
    """A task elsewhere waits for the end of this execution, which it has found under its idempotency key."""

    parent: str
    task_sequence: int
    # Its execution, and those around it that it knows of: none of them may be waited for.
    around: tuple[str, ...]
    leaves: bool = False  # it does not wait any more


AnyMessage = (
    TaskLeased
    | TimerFired
    | WorkerLost
    | DeadlinePassed
    | ContinueExecution
    | LetIn
    | StartExecution
    | CancelChild
    | ChildEnded
    | UndoChild
    | StartAnswered
    | JoinExecution
    | RemoveChild
    | ChildReopened
    | GoOnAfterEnd
    | RetryChild
    | ClearExecution
    | RemoveRows
    | PurgeExecution
    | FinishTask
    | TerminateExecution
    | UpdateVariables
    | SignalExecution
    | GiveEvent
    | HandleEvent
    | ScheduleDue
)

WITH_ORIGIN = (
    StartExecution, FinishTask, TerminateExecution, UpdateVariables, SignalExecution, GiveEvent, HandleEvent
)
