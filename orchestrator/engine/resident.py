"""Rows that are always in memory: what is registered, who works and asks, what waits, and what is counted.

As the rows of executions (see ``model``) they are immutable values, encoded by position.
"""

from __future__ import annotations

from orchestrator.engine.model import Row, SessionKind, TimerKind


class WorkflowDefinitionRow(Row, frozen=True):
    """A registered workflow definition, as the JSON text that was given."""

    namespace: str
    name: str
    version: int
    document: bytes
    registered_ms: int


class TaskDefinitionRow(Row, frozen=True):
    """A registered task definition, as the JSON text that was given."""

    namespace: str
    name: str
    document: bytes
    registered_ms: int


class ServiceRow(Row, frozen=True):
    """A record of the service registry, as the JSON text that was given."""

    namespace: str
    name: str
    document: bytes
    registered_ms: int


class SchemaRow(Row, frozen=True):
    """A registered JSON schema: its record, as the JSON text that was given."""

    namespace: str
    name: str
    version: int
    document: bytes
    registered_ms: int


class SecretRow(Row, frozen=True):
    """A secret. Its value is sealed before it becomes a command, and opened when a task that names it is handed out."""

    namespace: str
    name: str
    version: int
    key_id: str  # of the key it is sealed with
    sealed: bytes
    created_ms: int
    updated_ms: int


class Bundle(Row, frozen=True):
    """What an execution was started with: definition and effective task definitions as one JSON text."""

    digest: bytes
    document: bytes
    executions: int  # that refer to it


class Session(Row, frozen=True):
    """A worker's session: leases go to it while it has free slots."""

    id: str
    kind: SessionKind
    namespace: str
    domain: str
    worker_id: str
    task_names: tuple[str, ...]
    slots: int
    used: int  # leases that hold a slot, fenced ones that were not released included
    timeout_ms: int
    opened_ms: int
    last_token: int = 0  # the newest lease: sessions with equally many free slots take turns by it


class Lease(Row, frozen=True):
    """An attempt handed to a session. It holds the session's slot until it is completed, released or lost."""

    token: int
    session_id: str
    namespace: str
    workflow_id: str
    task_sequence: int
    task_id: str
    name: str  # of the task, or of the queue of system work that it came from
    leased_ms: int
    response_timeout_ms: int  # 0: none
    fenced: bool = False  # the attempt has ended without this worker
    started: bool = False  # its execution has taken it up: it may be delivered
    settling: bool = False  # its workflow compensates: the worker is told to stop, a result still counts
    queue: str = ""  # that it came from, if that is not called like the task


class Ready(Row, frozen=True):
    """An attempt that waits for a worker. Queues are (namespace, domain, name), by priority and number."""

    number: int
    namespace: str
    domain: str
    name: str
    priority: int
    workflow_id: str
    task_sequence: int
    task_id: str
    queued_ms: int
    poll_timeout_ms: int  # 0: none
    response_timeout_ms: int
    limits: tuple[int, ...] = ()  # of an inline task definition: at once, in a window, the window in ms
    queue: str = ""  # where it waits, if that is not called like the task


class Timer(Row, frozen=True):
    """Fires once, never early in log time."""

    number: int
    fire_ms: int
    kind: TimerKind
    namespace: str
    workflow_id: str  # or the client session's id
    task_sequence: int = 0
    name: str = ""  # TASK_RATE, POLLER: the task's; SCHEDULE: the schedule's; no execution is concerned
    domain: str = ""  # POLLER


class ClientSession(Row, frozen=True):
    """Remembers the results of a client's requests until the client has seen them."""

    id: str
    namespace: str
    opened_ms: int
    used_ms: int
    lowest_unacknowledged: int
    results: tuple[tuple[int, bytes], ...]  # (sequence, encoded result), ascending
    idle_timer: int


class Request(Row, frozen=True):
    """The remembered result of a plain client's request."""

    id: str
    time_ms: int
    result: bytes


class TaskRate(Row, frozen=True):
    """What was handed out of a task whose rate is limited, for as long as it counts."""

    namespace: str
    name: str
    given: tuple[tuple[int, int], ...]  # (when they cease to count, how many), ascending; never empty
    timer: int


class IdempotencyKey(Row, frozen=True):
    """The newest execution that was started with a key: one row for each that has one, so there is little in it."""

    workflow_id: str
    has_ended: bool = False


class Retention(Row, frozen=True):
    """For how long executions are kept after their end, where their definition does not say. 0: no limit."""

    age_ms: int = 7 * 24 * 3_600_000
    count: int = 0  # of each (namespace, name), the newest
    bytes: int = 10 << 30  # of a node's database; applies to all


class WorkflowGroup(Row, frozen=True):
    """The executions of a workflow that share a rate limit key."""

    namespace: str
    name: str
    key: str
    running: int  # places taken; at least 1


class WaitingExecution(Row, frozen=True):
    """An execution that waits until fewer than `at_once` of its group run. The lowest number is the next."""

    number: int
    group: bytes
    namespace: str
    workflow_id: str
    at_once: int


class Poller(Row, frozen=True):
    """Somebody polls a queue of a domain, without a session of its own."""

    namespace: str
    domain: str
    name: str
    seen_ms: int
    timer: int
