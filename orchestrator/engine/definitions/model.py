"""A definition as the engine walks it: flat, by reference name, with every default filled in.

Compiled from a bundle (the definition and the task definitions as they were at start); never stored.
Durations are milliseconds; 0 means off unless said otherwise.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from orchestrator.engine.definitions.schemas import PayloadSchema
from orchestrator.engine.expressions import Template


class TaskType(StrEnum):
    """The task types that can be executed. Any other name of a type is that of a worker's task (SIMPLE)."""

    SIMPLE = "SIMPLE"
    # Called by the nodes themselves.
    HTTP = "HTTP"
    GRPC = "GRPC"
    INLINE = "INLINE"
    JSON_JQ_TRANSFORM = "JSON_JQ_TRANSFORM"
    # Operators.
    SWITCH = "SWITCH"
    DO_WHILE = "DO_WHILE"
    FORK_JOIN = "FORK_JOIN"
    FORK_JOIN_DYNAMIC = "FORK_JOIN_DYNAMIC"
    JOIN = "JOIN"
    EXCLUSIVE_JOIN = "EXCLUSIVE_JOIN"
    DYNAMIC = "DYNAMIC"
    SUB_WORKFLOW = "SUB_WORKFLOW"
    START_WORKFLOW = "START_WORKFLOW"
    WAIT = "WAIT"
    HUMAN = "HUMAN"
    EVENT = "EVENT"
    PULL_WORKFLOW_MESSAGES = "PULL_WORKFLOW_MESSAGES"
    SET_VARIABLE = "SET_VARIABLE"
    TERMINATE = "TERMINATE"
    NOOP = "NOOP"
    # Made by the engine, not by definitions: the payloads of a workflow itself are looked at.
    SCHEMA_CHECK = "SCHEMA_CHECK"


WORKED = frozenset((TaskType.SIMPLE, TaskType.HTTP, TaskType.GRPC))
"""Types that have an effect outside: whether a lost attempt took place is not known."""

STRUCTURAL = frozenset(
    (TaskType.SWITCH, TaskType.DO_WHILE, TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC, TaskType.JOIN)
) | {TaskType.EXCLUSIVE_JOIN}
"""Types that are never tried again by themselves."""

UNCHECKED = STRUCTURAL | {TaskType.DYNAMIC, TaskType.TERMINATE}
"""Types whose payloads are those of others, or say how the walk goes on: no schema holds for them."""

INPUT_CHECK = "$input"
OUTPUT_CHECK = "$output"
"""The references of the tasks that look at the payloads of the workflow itself."""


class RetryLogic(StrEnum):
    FIXED = "FIXED"
    LINEAR_BACKOFF = "LINEAR_BACKOFF"
    EXPONENTIAL_BACKOFF = "EXPONENTIAL_BACKOFF"


class TimeoutPolicy(StrEnum):
    RETRY = "RETRY"
    TIME_OUT_WF = "TIME_OUT_WF"
    ALERT_ONLY = "ALERT_ONLY"


class CompensationOrder(StrEnum):
    REVERSE = "REVERSE"
    PARALLEL = "PARALLEL"


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often and when a task is tried again."""

    count: int = 3  # retries, not attempts
    logic: RetryLogic = RetryLogic.FIXED
    delay_ms: int = 60_000
    scale_factor: float = 1.0  # LINEAR_BACKOFF only
    max_delay_ms: int = 0
    jitter_ms: int = 0
    # Nobody said how often: what a lost node has begun is done again by another, as a few losses are free.
    forgives_losses: bool = False


class Timeouts(msgspec.Struct, frozen=True):
    """How long a task may take, and what then."""

    task_ms: int = 0  # one attempt, from its start
    total_ms: int = 0  # all attempts, from the first scheduling
    response_ms: int = 3_600_000  # silence while in progress
    poll_ms: int = 0  # scheduled and never taken
    policy: TimeoutPolicy = TimeoutPolicy.TIME_OUT_WF


class TaskLimits(msgspec.Struct, frozen=True):
    """How many attempts of a task may be handed out, in the whole cluster; 0 is no limit."""

    at_once: int = 0  # leases
    in_window: int = 0  # hand-outs in any span of time as long as the window
    window_ms: int = 1_000


NO_LIMITS = TaskLimits()


class RateLimit(msgspec.Struct, frozen=True):
    """How many executions of a workflow may run at once under one key."""

    key: Template
    at_once: int  # at least 1


class Script(msgspec.Struct, frozen=True):
    """What a node evaluates. `body`: it is the body of a function, which returns its value. `in_input`: it stands in
    the input of the task, where references in it have been resolved."""

    expression: str
    body: bool = False
    in_input: bool = False

    @property
    def key(self) -> str:
        return "scriptExpression" if self.body else "expression"


class Switch(msgspec.Struct, frozen=True):
    """value-param: the case is the input parameter named by `expression`; otherwise a script says it."""

    evaluator: str
    expression: str
    output_key: str  # of the chosen case, in a list
    cases: dict[str, tuple[str, ...]]  # case -> references of the branch, in order; may be empty
    default: tuple[str, ...]


class Loop(msgspec.Struct, frozen=True):
    """A DO_WHILE. `items`: it goes through the list that its input has as `_items`, too."""

    condition: str  # a script; "": none
    items: bool
    body: tuple[str, ...]  # the outermost sequence of an iteration
    inside: tuple[str, ...]  # every reference whose output belongs to an iteration's, those of inner loops left out
    seen: tuple[str, ...]  # every reference in it, whose newest output its condition sees
    # Whether the condition can be told from the number of the iteration and the newest outputs of the body alone.
    is_condition_local: bool = True


class DynamicFork(msgspec.Struct, frozen=True):
    """The input parameters that say what is forked: tasks and inputs, or, in the old form, both in one."""

    tasks: str = ""
    inputs: str = ""
    both: str = ""


class Change(StrEnum):
    """The changes of a task's state that `onStateChange` may tell."""

    SCHEDULED = "onScheduled"
    STARTED = "onStart"
    SUCCEEDED = "onSuccess"
    FAILED = "onFailed"
    CANCELLED = "onCancelled"


class Announcement(msgspec.Struct, frozen=True):
    """An event that tells a change."""

    type: str
    payload: Template
    sink: str = ""  # "": the cluster's own, by its type


Announcements = dict[Change, tuple[Announcement, ...]]


class TaskNode(msgspec.Struct, frozen=True):
    """One element of a definition, or one compensation."""

    reference: str
    name: str
    type: str  # a TaskType
    path: str  # where it stands in the document: tasks[2].decisionCases.big[0]
    input: Template  # inputParameters over the task definition's inputTemplate
    retry: RetryPolicy
    timeouts: Timeouts
    start_delay_ms: int = 0
    optional: bool = False
    permissive: bool = False
    pivot: bool = False
    next: str | None = None  # the following reference of its own sequence
    parent: str | None = None  # the SWITCH, FORK_JOIN or DO_WHILE whose branch it stands in
    branch: int = 0  # which branch of the parent
    compensate_with: TaskNode | None = None
    switch: Switch | None = None
    fork: tuple[tuple[str, ...], ...] = ()  # FORK_JOIN: references of each branch; empty branches are left out
    join: str | None = None  # FORK_JOIN, FORK_JOIN_DYNAMIC: the reference of its JOIN
    join_on: tuple[str, ...] = ()  # JOIN, EXCLUSIVE_JOIN
    forked_by: str = ""  # JOIN: the reference of its fork
    reported: str = ""  # the type by which it is shown, if that is another
    loops: int = 0  # how many loops are around it
    loop: Loop | None = None
    script: Script | None = None  # INLINE
    parameter: str = ""  # INLINE with value-param: the input parameter; DYNAMIC: the one that names the task
    dynamic_fork: DynamicFork | None = None
    instead: tuple[str, ...] = ()  # EXCLUSIVE_JOIN: whose output it takes if there is none of those it joins
    async_complete: bool = False  # what it calls only accepts: the end is reported from outside
    sink: str = ""  # EVENT
    sink_expression: Template | None = None  # that gives it
    limits: TaskLimits = NO_LIMITS  # of the inline task definition
    queue: str = ""  # of a worker's task: where it waits, if that is not called like the task
    runtime_metadata: tuple[str, ...] = ()  # of a worker's task: names of the values that go out with its attempts
    announcements: Announcements = {}
    # What its payloads have to keep.
    input_schema: PayloadSchema | None = None
    output_schema: PayloadSchema | None = None


class CompiledDefinition(msgspec.Struct, frozen=True):
    """A whole definition."""

    name: str
    version: int
    first: str | None
    nodes: dict[str, TaskNode]  # by reference name, compensations not included
    top: tuple[str, ...]  # the references of the outermost sequence
    output: Template | None  # None: the last task's output
    input_template: dict[str, bytes]  # put-if-absent defaults of the workflow's input
    variables: bytes  # a JSON object
    timeout_ms: int
    timeout_policy: TimeoutPolicy
    compensation_order: CompensationOrder
    compensation_grace_ms: int
    # How long, and how many of them, executions are kept after their end; 0: the cluster's policy.
    retention_ms: int = 0
    retention_count: int = 0
    restartable: bool = True
    failure_workflow: Template | None = None  # the name of the workflow that is started when this one has failed
    failure_version: int = 0
    rate_limit: RateLimit | None = None
    masked_fields: tuple[str, ...] = ()  # dotted paths
    status_event: str = ""  # by which its statuses are told
    task_event: str = ""  # by which those of its tasks are told
    publishes: bool = False  # whether anything of it is told to a stream, as far as that is known before it runs
