"""Drives one state machine as the applier does: entries of commands, messages drained, invariants checked each time."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from orchestrator.engine import behaviour, invariants
from orchestrator.engine.blob_rows import BlobRow
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import (
    AnyCommand,
    CompleteTask,
    Continue,
    FireTimers,
    OpenSession,
    RaiseBehaviour,
    RegisterTasks,
    RegisterWorkflows,
    RequestIdentity,
    StartWorkflow,
)
from orchestrator.engine.effects import AnyEffect, Cancel, Deliver
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.explain import STEP_OF_THE_LOG, explain
from orchestrator.engine.machine import Machine
from orchestrator.engine.messages import AnyMessage
from orchestrator.engine.model import (
    EXECUTION_TABLES,
    Execution,
    Expansion,
    Meta,
    PayloadRow,
    Row,
    RowKey,
    SagaRecord,
    SessionKind,
    Signal,
    Table,
    TaskAttempt,
    TaskLog,
    TaskStatus,
)
from orchestrator.engine.resident import (
    Bundle,
    ClientSession,
    IdempotencyKey,
    Lease,
    Poller,
    Ready,
    Request,
    Retention,
    SchemaRow,
    SecretRow,
    ServiceRow,
    Session,
    TaskDefinitionRow,
    TaskRate,
    Timer,
    WaitingExecution,
    WorkflowDefinitionRow,
    WorkflowGroup,
)
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.engine.state import State
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.engine.triggers import rows as trigger_rows

START_MS = 1_700_000_000_000

ROWS: dict[Table, Any] = {
    Table.META: Meta,
    Table.EXECUTION: Execution,
    Table.TASK: TaskAttempt,
    Table.RECORD: SagaRecord,
    Table.SIGNAL: Signal,
    Table.PAYLOAD: PayloadRow,
    Table.TASK_LOG: TaskLog,
    Table.EXPANSION: Expansion,
    Table.WORKFLOW_DEFINITION: WorkflowDefinitionRow,
    Table.TASK_DEFINITION: TaskDefinitionRow,
    Table.BUNDLE: Bundle,
    Table.SESSION: Session,
    Table.LEASE: Lease,
    Table.READY: Ready,
    Table.TIMER: Timer,
    Table.MESSAGE: AnyMessage,
    Table.CLIENT_SESSION: ClientSession,
    Table.REQUEST: Request,
    Table.SCHEDULE: trigger_rows.ScheduleRow,
    Table.SCHEDULE_RUN: trigger_rows.ScheduleRun,
    Table.SCHEDULED: trigger_rows.ScheduledExecution,
    Table.SCHEDULING: trigger_rows.Scheduling,
    Table.EVENT_HANDLER: trigger_rows.EventHandlerRow,
    Table.EVENT: trigger_rows.EventRow,
    Table.EVENT_RUN: trigger_rows.EventRun,
    Table.EVENT_SEEN: trigger_rows.EventSeen,
    Table.OUTBOX: trigger_rows.OwedEvent,
    Table.STREAM: trigger_rows.StreamRow,
    Table.AWAITING: trigger_rows.AwaitingTask,
    Table.KEPT_EVENT: trigger_rows.KeptEvent,
    Table.TRAIL: trigger_rows.TrailEntry,
    Table.TASK_RATE: TaskRate,
    Table.IDEMPOTENCY: IdempotencyKey,
    Table.WORKFLOW_GROUP: WorkflowGroup,
    Table.WAITING: WaitingExecution,
    Table.POLLER: Poller,
    Table.SERVICE: ServiceRow,
    Table.SCHEMA: SchemaRow,
    Table.SECRET: SecretRow,
    Table.RETENTION: Retention,
    Table.BLOB: BlobRow,
}


class Driver:
    """One replica under test. `database` is what was flushed: encoded rows by table and key."""

    def __init__(self, *, check: bool = True, level: int = behaviour.LOWEST) -> None:
        self.state = State("cluster-under-test", 0)
        self.machine = Machine(self.state)
        self.now_ms = START_MS
        self.index = 0
        self.check = check
        self.messages_per_entry = 1000
        self.lags = False  # what an entry has not taken up waits for the next one
        self.evict = False  # after each entry, whatever can be evicted goes
        self.effects: list[AnyEffect] = []
        self.database: dict[tuple[Table, RowKey], bytes] = {}
        self.held: dict[int, Deliver] = {}  # what workers were given, by token
        if level != self.state.meta.behaviour_level:
            self.ok(RaiseBehaviour(level))

    # --- entries

    def entry(self, *items: AnyCommand | tuple[AnyCommand, RequestIdentity]) -> list[AnyResult]:
        """One log entry, then entries to continue until the inbox is empty, unless the driver lags."""
        self.index += 1
        self.machine.begin_entry(self.index, 1, self.now_ms)
        results = []
        self.effects = []
        for item in items:
            command, identity = item if isinstance(item, tuple) else (item, None)
            key = self.machine.execution_needed(command)
            if key is not None:
                self.heat(key)
            outcome = self.machine.apply(command, identity)
            results.append(outcome.result)
            assert not _is_internal(outcome.result) or not self.check, outcome.result
            self._perform(outcome.effects)
            self.verify()
        for _ in range(self.messages_per_entry):
            key = self.machine.next_message()
            if key is None:
                break
            self.heat(key)
            outcome = self.machine.apply_message()
            assert not _is_internal(outcome.result) or not self.check, outcome.result
            self._perform(outcome.effects)
            self.verify()
        self.machine.end_entry(blake2b(self.index.to_bytes(8, "big"), digest_size=16).digest())
        if self.evict:
            self._evict()
        if self.machine.next_message() is not None and not self.lags:
            kept = self.effects
            self.entry(Continue())
            self.effects = kept + self.effects
        return results

    def do(self, command: AnyCommand, identity: RequestIdentity | None = None) -> AnyResult:
        return self.entry((command, identity) if identity is not None else command)[0]

    def ok(self, command: AnyCommand) -> Any:
        result = self.do(command)
        assert not isinstance(result, Rejected), result
        return result

    def _perform(self, effects: list[AnyEffect]) -> None:
        self.effects.extend(effects)
        for effect in effects:
            if isinstance(effect, Deliver):
                self.held[effect.token] = effect
            elif isinstance(effect, Cancel) and effect.fenced:
                self.held.pop(effect.token, None)

    def verify(self) -> None:
        if self.check:
            found = invariants.breaches(self.state)
            assert not found, "\n".join(found)

    def verify_waiting(self) -> None:
        """What has not ended waits for something, and says for what."""
        if self.machine.next_message() is not None:
            return
        for key in self.state.hot_keys():
            hot = self.state.execution(key)
            assert hot is not None
            if hot.execution.status in WORKFLOW_TERMINAL or hot.execution.deleted:
                continue
            said = [one.waits_for for one in explain(self.state, hot)]
            assert said, key
            assert STEP_OF_THE_LOG not in said, (key, said)

    def wait(self, ms: int) -> None:
        """Lets log time pass, firing every timer at its time."""
        target = self.now_ms + ms
        while True:
            timer = self.state.next_timer()
            if timer is None or timer.fire_ms > target:
                break
            self.now_ms = max(self.now_ms, timer.fire_ms)
            self.ok(FireTimers())
        self.now_ms = target

    # --- storage

    def flush(self) -> None:
        for table, key, row, _ in self.state.take_changes():
            if row is None:
                del self.database[table, key]
            else:
                self.database[table, key] = msgspec.msgpack.encode(row)

    def heat(self, key: tuple[str, str]) -> None:
        if self.state.is_known(key):
            return
        rows = [
            (table, row_key, decode(table, data))
            for (table, row_key), data in self.database.items()
            if table in EXECUTION_TABLES and row_key[:2] == key
        ]
        if rows:
            self.state.admit(key, rows)

    def is_gone(self, workflow_id: str) -> bool:
        """Whether there is no such execution, neither in memory nor in the database."""
        key = ("default", workflow_id)
        is_cold = not self.state.is_known(key) and (Table.EXECUTION, key) in self.database
        return self.state.execution(key) is None and not is_cold

    def _evict(self) -> None:
        self.flush()
        for key in self.state.eviction_candidates(1_000):
            assert self.state.evict(key)
        assert self.state.hot_count == 0
        assert self.state.hot_bytes == 0

    def restart(self, *, cold: bool = False) -> Driver:
        """A new replica from what was flushed; with all executions hot, or none."""
        self.flush()
        other = Driver(check=self.check and not cold)
        other.database = dict(self.database)
        other.now_ms, other.index, other.held = self.now_ms, self.index, dict(self.held)
        for (table, key), data in self.database.items():
            if table is Table.META or table >= Table.WORKFLOW_DEFINITION:
                other.state.restore(table, key, decode(table, data))
        other.state.restore_done()
        other.messages_per_entry = self.messages_per_entry
        other.machine.chain = self.machine.chain
        if not cold:
            for table, key in self.database:
                if table is Table.EXECUTION:
                    other.heat((str(key[0]), str(key[1])))
        return other

    # --- shorthands

    def register(self, *documents: dict[str, Any]) -> None:
        self.ok(RegisterWorkflows("default", tuple(msgspec.json.encode(document) for document in documents), True))

    def register_task(self, **fields: Any) -> None:
        self.ok(RegisterTasks("default", (msgspec.json.encode(fields),)))

    def start(self, name: str, workflow_id: str = "w", given: bytes = b"{}", **fields: Any) -> AnyResult:
        return self.do(StartWorkflow("default", name, 0, workflow_id, IfExists.FAIL, given, **fields))

    def worker(self, session_id: str, *names: str, slots: int = 1, domain: str = "") -> None:
        self.ok(
            OpenSession(session_id, SessionKind.STREAM, "default", domain, f"worker-{session_id}", names, slots, 10_000)
        )

    def hot(self, workflow_id: str = "w") -> ExecutionState:
        self.heat(("default", workflow_id))
        hot = self.state.execution(("default", workflow_id))
        assert hot is not None
        return hot

    def header(self, workflow_id: str = "w") -> Execution:
        return self.hot(workflow_id).execution

    def latest(self, reference: str, workflow_id: str = "w") -> TaskAttempt:
        attempt = self.hot(workflow_id).latest(reference)
        assert attempt is not None, f"no attempt of {reference}"
        return attempt

    def undoing(self, reference: str, workflow_id: str = "w") -> TaskAttempt:
        """The newest attempt to compensate the step."""
        hot = self.hot(workflow_id)
        for number in sorted(hot.records, reverse=True):
            if hot.records[number].reference == reference:
                attempt = hot.latest_undoing(number)
                assert attempt is not None, f"{reference} is not being compensated"
                return attempt
        raise AssertionError(f"{reference} is owed nothing")

    def give(
        self,
        attempt: TaskAttempt | str,
        output: bytes = b"{}",
        status: TaskStatus = TaskStatus.COMPLETED,
        reason: str = "",
        workflow_id: str = "w",
        token: int | None = None,
    ) -> Any:
        """The worker's result for an attempt."""
        if isinstance(attempt, str):
            attempt = self.latest(attempt, workflow_id)
        used = attempt.fencing_token if token is None else token
        result = self.ok(CompleteTask("default", workflow_id, attempt.task_id, used, status, output, reason, ""))
        self.held.pop(used, None)
        return result

    def fail(self, attempt: TaskAttempt | str, reason: str = "broken", workflow_id: str = "w") -> Any:
        return self.give(attempt, b"", TaskStatus.FAILED, reason, workflow_id)

    def rows(self) -> dict[tuple[Table, RowKey], Row]:
        """Every row there is, as the database would hold it."""
        self.flush()
        return {mark: decode(mark[0], data) for mark, data in sorted(self.database.items())}


def _is_internal(result: AnyResult) -> bool:
    return isinstance(result, Rejected) and result.code is Code.INTERNAL


def decode(table: Table, data: bytes) -> Any:
    return msgspec.msgpack.decode(data, type=ROWS[table])


def workflow(name: str, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": name, "version": 1, "schemaVersion": 2, "tasks": list(tasks), **fields}


def simple(reference: str, undo: str = "", **fields: Any) -> dict[str, Any]:
    """A worker's task; `undo`: the name of its compensation."""
    task: dict[str, Any] = {"name": reference, "taskReferenceName": reference, "type": "SIMPLE", **fields}
    if undo:
        task["compensateWith"] = {"name": undo, "type": "SIMPLE"}
    return task
