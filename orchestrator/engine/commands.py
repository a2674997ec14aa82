"""What may be asked of the state machine. Commands are what the log holds.

Fields are encoded by position, the tag first: add new fields at the end, with a default, and never reuse a tag. What
was released without them must not meet them: `behaviour` lists since when there are new commands and fields.
"""

from __future__ import annotations

import msgspec

from orchestrator.engine.blob_commands import BlobCommand
from orchestrator.engine.choices import (
    DeadlineKind,
    DeleteEffects,
    IdempotencyStrategy,
    IfExists,
    PurgeRule,
    TerminateCompensation,
)
from orchestrator.engine.command import Command
from orchestrator.engine.definition_commands import DeleteTaskDefinition, DeleteWorkflowDefinition
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator.engine.model import SessionKind, TaskStatus
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.schema_commands import DeleteSchema, RegisterSchemas
from orchestrator.engine.secret_commands import SecretCommand
from orchestrator.engine.stream_commands import ReceiveEvents

UNCHANGED = -1


class RequestIdentity(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Which request a command came with: a plain id, or a place in a client session."""

    request_id: str = ""
    session_id: str = ""
    sequence: int = 0
    lowest_unacknowledged: int = 0


# --- definitions -----------------------------------------------------------------------------------------------


class RegisterWorkflows(Command, frozen=True, tag=1):
    namespace: str
    documents: tuple[bytes, ...]
    overwrite: bool


class RegisterTasks(Command, frozen=True, tag=2):
    namespace: str
    documents: tuple[bytes, ...]


# --- executions ------------------------------------------------------------------------------------------------


class StartWorkflow(Command, frozen=True, tag=10):
    namespace: str
    name: str
    version: int  # 0: the highest
    workflow_id: str  # "": one is made
    if_exists: IfExists
    input: bytes  # a JSON object
    correlation_id: str = ""
    priority: int = 0
    created_by: str = ""
    task_to_domain: tuple[tuple[str, str], ...] = ()
    document: bytes = b""  # a definition to run without registering it
    idempotency_key: str = ""
    idempotency: IdempotencyStrategy = IdempotencyStrategy.FAIL
    # Its proposer has looked at the input, for this bundle, and has found this violation of its schema, if any.
    looked_for: bytes = b""
    violation: str = ""
    trace: str = ""  # see model.Execution


class SignalWorkflow(Command, frozen=True, tag=11):
    namespace: str
    workflow_id: str
    name: str
    payload: bytes


class PauseWorkflow(Command, frozen=True, tag=12):
    namespace: str
    workflow_id: str


class ResumeWorkflow(Command, frozen=True, tag=13):
    namespace: str
    workflow_id: str


class TerminateWorkflow(Command, frozen=True, tag=14):
    namespace: str
    workflow_id: str
    reason: str
    compensation: TerminateCompensation


class RetryWorkflow(Command, frozen=True, tag=15):
    namespace: str
    workflow_id: str
    resume_sub_workflows: bool = False  # the failed children are retried, no new ones started


class RestartWorkflow(Command, frozen=True, tag=100):
    namespace: str
    workflow_id: str
    use_latest_definitions: bool = False
    effects: DeleteEffects = DeleteEffects.UNSET


class RerunWorkflow(Command, frozen=True, tag=101):
    namespace: str
    workflow_id: str
    task_id: str = ""  # "": from the beginning
    task_input: bytes = b""
    workflow_input: bytes = b""
    correlation_id: str = ""
    effects: DeleteEffects = DeleteEffects.UNSET


class MigrateWorkflow(Command, frozen=True, tag=103):
    namespace: str
    workflow_id: str
    version: int = 0  # of its definition; 0: the highest


class PushMessage(Command, frozen=True, tag=104):
    """To the message queue of the workflow."""

    namespace: str
    workflow_id: str
    payload: bytes


class SkipTask(Command, frozen=True, tag=102):
    namespace: str
    workflow_id: str
    reference: str
    output: bytes = b""


class RetryCompensation(Command, frozen=True, tag=16):
    namespace: str
    workflow_id: str


class SkipCompensation(Command, frozen=True, tag=17):
    namespace: str
    workflow_id: str


class AbandonCompensation(Command, frozen=True, tag=18):
    namespace: str
    workflow_id: str
    reason: str


# --- clients ---------------------------------------------------------------------------------------------------


class OpenClientSession(Command, frozen=True, tag=30):
    namespace: str


# --- workers ---------------------------------------------------------------------------------------------------


class OpenSession(Command, frozen=True, tag=40):
    """Opens a worker session under the id that the worker chose; answers the one that exists, if it does."""

    session_id: str
    kind: SessionKind
    namespace: str
    domain: str
    worker_id: str
    task_names: tuple[str, ...]
    slots: int
    timeout_ms: int


class UpdateSession(Command, frozen=True, tag=41):
    session_id: str
    task_names: tuple[str, ...]
    slots: int


class CloseSession(Command, frozen=True, tag=42):
    """The worker said goodbye: attempts that it still holds go back to the queue at once, as worker lost."""

    session_id: str


class ExpireSession(Command, frozen=True, tag=43):
    """The leader has heard nothing of the session for its timeout."""

    session_id: str


class PollTasks(Command, frozen=True, tag=44):
    """Leases up to `max_tasks` attempts that are ready now to a session of kind POLL."""

    session_id: str
    namespace: str
    domain: str
    worker_id: str
    task_names: tuple[str, ...]
    max_tasks: int


class NotePollers(Command, frozen=True, tag=140):
    """Somebody polls these queues of a domain; said from time to time, for most polls find nothing to log."""

    namespace: str
    domain: str
    task_names: tuple[str, ...]


class CompleteTask(Command, frozen=True, tag=45):
    namespace: str
    workflow_id: str
    task_id: str
    fencing_token: int
    # COMPLETED, FAILED, FAILED_WITH_TERMINAL_ERROR; IN_PROGRESS: it goes on when the attempt is handed out again.
    status: TaskStatus
    output: bytes
    reason: str
    error_code: str
    outcome_unknown: bool = False  # with a failure: it may have taken effect all the same
    logs: tuple[tuple[int, str], ...] = ()  # (time in milliseconds, text)
    callback_ms: int = 0  # IN_PROGRESS: after so long


class RecordHeartbeat(Command, frozen=True, tag=46):
    """Details of a heartbeat, for the next attempt to read."""

    namespace: str
    workflow_id: str
    task_id: str
    fencing_token: int
    details: bytes


class ReleaseTask(Command, frozen=True, tag=47):
    """The worker has stopped a cancelled attempt: its slot is free."""

    session_id: str
    fencing_token: int


class ExpireDeadline(Command, frozen=True, tag=48):
    kind: DeadlineKind
    number: int


# --- schedules and events -----------------------------------------------------------------------------------------


class PutSchedule(Command, frozen=True, tag=150):
    """Creates the schedule, or replaces the one of its name."""

    namespace: str
    document: bytes


class DeleteSchedule(Command, frozen=True, tag=151):
    namespace: str
    name: str


class PauseSchedule(Command, frozen=True, tag=152):
    namespace: str
    name: str
    reason: str


class ResumeSchedule(Command, frozen=True, tag=153):
    namespace: str
    name: str


class PauseScheduling(Command, frozen=True, tag=154):
    """Pauses all schedules of all namespaces."""

    reason: str


class ResumeScheduling(Command, frozen=True, tag=155):
    pass


class RunSchedule(Command, frozen=True, tag=156):
    """Runs the schedule now, whatever its times are, also if it is paused. Its overlap policy holds."""

    namespace: str
    name: str


class ArmSchedule(Command, frozen=True, tag=157):
    """The leader's word on the times of a schedule. It means nothing unless they follow what the schedule has."""

    namespace: str
    name: str
    revision: int
    after_ms: int  # the last time that is armed, or else covered
    times: tuple[tuple[int, int], ...]  # (time, number of the cron expression), ascending
    skipped: int = 0  # missed times that are not run
    skipped_ms: int = 0  # the newest of them
    refill_below: int = 0
    exhausted: bool = False  # there are no times after these
    look_again_ms: int = 0  # when, if there are no times that are near enough


class PutEventHandler(Command, frozen=True, tag=160):
    """Creates the handler, or replaces the one of its name."""

    namespace: str
    document: bytes


class DeleteEventHandler(Command, frozen=True, tag=161):
    namespace: str
    name: str


class PublishEvent(Command, frozen=True, tag=162):
    namespace: str
    event: str
    message_id: str  # "": it is not compared with others
    payload: bytes  # a JSON object
    trace: str = ""  # see model.Execution
    correlation_id: str = ""  # "": that of the payload, if it names one
    source: str = ""  # the service that publishes it


class DecideEvent(Command, frozen=True, tag=163):
    """The leader has evaluated a handler's condition."""

    number: int  # the event's
    handler: str
    revision: int  # the handler's
    holds: bool
    error: str = ""  # why there is no answer


# --- the system's own --------------------------------------------------------------------------------------------


class FireTimers(Command, frozen=True, tag=60):
    """Time has passed: timers that are due at the entry's log time fire, in bounded batches."""


class Continue(Command, frozen=True, tag=61):
    """Nothing but the occasion to take up messages."""


class Checkpoint(Command, frozen=True, tag=62):
    """Every replica says the hash of its content at this index."""


class RaiseBehaviour(Command, frozen=True, tag=63):
    level: int


# --- the service registry ----------------------------------------------------------------------------------------


class RegisterService(Command, frozen=True, tag=180):
    """Registers a service, or replaces its record."""

    namespace: str
    document: bytes


class DeleteService(Command, frozen=True, tag=181):
    namespace: str
    name: str


# --- deleting and keeping ----------------------------------------------------------------------------------------


class DeleteWorkflow(Command, frozen=True, tag=120):
    """Removes an ended execution with everything that belongs to it."""

    namespace: str
    workflow_id: str
    effects: DeleteEffects


class SetRetention(Command, frozen=True, tag=121):
    """Changes the cluster's policy; 0: no limit, UNCHANGED: as it is."""

    age_ms: int
    count: int
    bytes: int


class PurgeItem(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """An execution that the leader found to be kept for long enough; whether it is so, is decided when applied."""

    namespace: str
    workflow_id: str
    ended_ms: int  # as the leader saw it
    rule: PurgeRule
    observed: int = 0


class PurgeExecutions(Command, frozen=True, tag=122):
    items: tuple[PurgeItem, ...]


# --- updates of what runs ----------------------------------------------------------------------------------------


class UpdateVariables(Command, frozen=True, tag=124):
    namespace: str
    workflow_id: str
    variables: bytes  # a JSON object, merged into them


class UpdateTask(Command, frozen=True, tag=125):
    """Says for a pending task what its worker, or nobody, has said."""

    namespace: str
    workflow_id: str
    reference: str
    status: TaskStatus  # IN_PROGRESS: only the output is merged
    output: bytes  # a JSON object, merged into what there is
    reason: str = ""


AnyCommand = (
    RegisterWorkflows
    | RegisterTasks
    | StartWorkflow
    | SignalWorkflow
    | PauseWorkflow
    | ResumeWorkflow
    | TerminateWorkflow
    | RetryWorkflow
    | RestartWorkflow
    | RerunWorkflow
    | SkipTask
    | PushMessage
    | MigrateWorkflow
    | RetryCompensation
    | SkipCompensation
    | AbandonCompensation
    | OpenClientSession
    | OpenSession
    | UpdateSession
    | CloseSession
    | ExpireSession
    | PollTasks
    | NotePollers
    | CompleteTask
    | RecordHeartbeat
    | ReleaseTask
    | ExpireDeadline
    | PutSchedule
    | DeleteSchedule
    | PauseSchedule
    | ResumeSchedule
    | PauseScheduling
    | ResumeScheduling
    | RunSchedule
    | ArmSchedule
    | PutEventHandler
    | DeleteEventHandler
    | PublishEvent
    | DecideEvent
    | AcknowledgeEvents
    | ReceiveEvents
    | FireTimers
    | Continue
    | Checkpoint
    | RaiseBehaviour
    | RegisterService
    | DeleteService
    | RegisterSchemas
    | DeleteSchema
    | SecretCommand
    | DeleteWorkflowDefinition
    | DeleteTaskDefinition
    | DeleteWorkflow
    | SetRetention
    | PurgeExecutions
    | AddTaskLogs
    | UpdateVariables
    | UpdateTask
    | BlobCommand
)
