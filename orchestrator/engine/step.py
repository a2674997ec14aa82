"""One step: reads and writes over the state that become real together, or not at all.

Rows are written through at once, so that what is read is always what was written, and the first old value of each is
kept: discarding a step puts them back. The header of the step's execution and its agenda are kept aside and written
once, when the step is finished.
"""

from __future__ import annotations

from typing import Any, cast

from msgspec.structs import replace

from orchestrator.engine import announcing, limits
from orchestrator.engine.announcing import Told
from orchestrator.engine.effects import AnyEffect, ExecutionChanged, ExecutionDeleted
from orchestrator.engine.errors import being_cleared, not_found
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.identifiers import Identifiers
from orchestrator.engine.messages import Message
from orchestrator.engine.model import (
    AgendaItem,
    AgendaKind,
    Execution,
    ExecutionKey,
    Meta,
    RowKey,
    Table,
    TaskAttempt,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.plan import Plan, plan_of
from orchestrator.engine.queues import QueueKey
from orchestrator.engine.resident import Ready, Timer
from orchestrator.engine.state import Changed, State, marks_in
from orchestrator.engine.transitions import WORKFLOW_TERMINAL


class Step:
    """The unit of work of one command or message."""

    __slots__ = (
        "_header",
        "_meta",
        "_plan",
        "agenda",
        "budget",
        "effects",
        "freed_names",
        "freed_sessions",
        "hot",
        "ids",
        "is_beside",
        "key",
        "now",
        "queued",
        "queueing",
        "rated",
        "ready_queues",
        "removed",
        "state",
        "tasks_before",
        "told",
        "undo",
        "undo_agenda",
        "x",
    )

    # The header of the step's execution, with what the step has changed so far, and its rows. Only to be read after
    # `open` or `create`.
    x: Execution
    hot: ExecutionState

    def __init__(self, state: State, ids: Identifiers) -> None:
        self.state = state
        self.ids = ids
        self.now = state.meta.log_time_ms
        self.key: ExecutionKey | None = None
        self.removed: ExecutionKey | None = None
        self.effects: list[AnyEffect] = []
        # What was there before: tasks of the step's execution, and rows of all other tables.
        self.tasks_before: dict[int, TaskAttempt | None] = {}
        self.undo: dict[Table, dict[RowKey, Any]] = {}
        self.budget = limits.TRANSITIONS_PER_STEP
        self.is_beside = False  # the execution has something left to do, which a message sees to
        self.agenda: list[AgendaItem] = []
        self.undo_agenda: list[int] = []
        self.ready_queues: dict[QueueKey, None] = {}
        self.freed_sessions: dict[str, None] = {}
        self.freed_names: dict[tuple[str, str], None] = {}  # (namespace, task name) of leases that are gone
        self.rated: dict[tuple[str, str], None] = {}  # (namespace, task name) of what was handed out
        self.queued: list[int] = []
        self.told: list[Told] = []  # events to be raised at the end of the step
        self.queueing: dict[int, Ready] = {}  # by sequence: attempts that are to be leased or queued
        self._header: Execution | None = None
        self._meta = state.meta
        self._plan: Plan | None = None

    @property
    def level(self) -> int:
        """The cluster's behaviour level: what this code does otherwise than the release before depends on it."""
        return self.state.meta.behaviour_level

    # --- the execution

    def open(self, namespace: str, workflow_id: str) -> bool:
        """Makes it the step's execution; False if there is none, or it is being deleted."""
        hot = self.state.execution((namespace, workflow_id))
        if hot is None or hot.execution.deleted:
            return False
        self.take(hot)
        return True

    def take(self, hot: ExecutionState) -> None:
        """Makes it the step's execution, whether or not it is being deleted."""
        x = hot.execution
        self.key = (x.namespace, x.workflow_id)
        self.hot = hot
        self.x = self._header = x
        agenda = x.agenda
        if agenda:
            self.agenda.extend(agenda)
        if x.undo_agenda:
            self.undo_agenda.extend(x.undo_agenda)
        if agenda or x.ending is not None:
            self.is_beside = True
            self.budget = min(self.budget, limits.TRANSITIONS_BESIDE)

    def require(self, namespace: str, workflow_id: str) -> None:
        """Opens the execution or refuses the command."""
        if not self.open(namespace, workflow_id):
            not_found(workflow_id)
        if self.x.clearing:
            being_cleared(workflow_id)

    def create(self, execution: Execution) -> None:
        self.key = (execution.namespace, execution.workflow_id)
        self.write(Table.EXECUTION, self.key, execution)
        hot = self.state.execution(self.key)
        assert hot is not None
        self.hot = hot
        # Nobody else has it: if the step is discarded, it is gone.
        self.x = execution

    def remove(self) -> None:
        """The step's execution is gone, its other rows before: the step has none any more."""
        assert self.key is not None
        self.write(Table.EXECUTION, self.key, None)
        self.effects.append(ExecutionDeleted(*self.key))
        self.removed, self.key = self.key, None

    def change(self, **fields: Any) -> None:
        """Changes the header of the step's execution."""
        header = self.header
        for name, value in fields.items():
            setattr(header, name, value)

    @property
    def header(self) -> Execution:
        """The header of the step's execution, to be changed in place."""
        if self.x is self._header:
            self.x = replace(self.x)
        return self.x

    def plan_changed(self) -> None:
        """The step's execution runs another definition."""
        self._plan = None

    @property
    def plan(self) -> Plan:
        """What the step's execution runs."""
        if self._plan is None:
            self._plan = plan_of(self.state, self.x.bundle)
        return self._plan

    @property
    def phase(self) -> WorkflowStatus:
        """The status, as if the execution were not paused."""
        return self.x.paused_from or self.x.status

    @property
    def is_over(self) -> bool:
        """Whether the execution has ended, or will as soon as its open attempts are cancelled."""
        return self.x.status in WORKFLOW_TERMINAL or self.x.ending is not None

    @property
    def has_new_status(self) -> bool:
        """Whether the execution, which is not gone, has another status than before the step, or than at its start."""
        if self.key is None:
            return False
        before = WorkflowStatus.RUNNING if self._header is None else self._header.status
        return self.x.status is not before

    @property
    def goes_on_after_end(self) -> bool:
        """Whether the execution had ended before the step, and goes on."""
        if self._header is None or self._header.status not in WORKFLOW_TERMINAL:
            return False
        return self.x.status not in WORKFLOW_TERMINAL

    # --- rows

    def write(self, table: Table, key: RowKey, row: Any) -> None:
        """Puts or deletes a row of any table but TASK."""
        self._keep(table, key, self.state.write(table, key, row))

    def _keep(self, table: Table, key: RowKey, old: Any) -> None:
        """What was there before the step, which is what comes first."""
        of_table = self.undo.get(table)
        if of_table is None:
            self.undo[table] = {key: old}
        elif key not in of_table:
            of_table[key] = old

    def put_task(self, attempt: TaskAttempt) -> TaskAttempt:
        sequence = attempt.sequence
        before = self.hot.put_task(sequence, attempt)
        if sequence not in self.tasks_before:
            self.tasks_before[sequence] = before
        if self.x.tells:
            told = announcing.of_task(self.plan, self.hot, self.x, self.state.triggers, before, attempt)
            self.told += told
            self.budget -= len(told)
        return attempt

    def is_own(self, attempt: TaskAttempt) -> bool:
        """Whether the step has made this row itself and nobody is to be told of its changes: then, and only until the
        step is committed, it may be changed in place."""
        sequence = attempt.sequence
        if self.x.tells or sequence not in self.tasks_before or self.hot.tasks.get(sequence) is not attempt:
            return False
        return self.tasks_before[sequence] is not attempt

    def remove_task(self, attempt: TaskAttempt) -> None:
        self.queueing.pop(attempt.sequence, None)
        self.tasks_before.setdefault(attempt.sequence, self.hot.put_task(attempt.sequence, None))

    def task(self, sequence: int) -> TaskAttempt | None:
        return self.hot.tasks.get(sequence)

    @property
    def meta(self) -> Meta:
        """The META row, to be changed in place."""
        state = self.state
        if state.meta is self._meta:
            state.meta = replace(self._meta)
        return state.meta

    def timer_number(self) -> int:
        """A number that no timer has had."""
        meta = self.meta
        meta.next_timer += 1
        return meta.next_timer - 1

    def ready_number(self) -> int:
        """A number that nothing waiting has had."""
        meta = self.meta
        meta.next_ready += 1
        return meta.next_ready - 1

    def arm(self, kind: TimerKind, after_ms: int, sequence: int = 0) -> int:
        """A timer for the step's execution, or one of its attempts; answers its number."""
        number = self.timer_number()
        self.write(
            Table.TIMER,
            (number,),
            Timer(number, self.now + after_ms, kind, self.x.namespace, self.x.workflow_id, sequence),
        )
        return number

    def disarm(self, number: int) -> None:
        if (number,) in self.state.timers:
            self.write(Table.TIMER, (number,), None)

    def send(self, message: Message) -> None:
        """Puts a message into the inbox, for a later step."""
        meta = self.meta
        number = meta.next_message
        meta.next_message = number + 1
        self.write(Table.MESSAGE, (number,), message)

    def note(self, kind: AgendaKind, sequence: int, reference: str = "") -> None:
        """Adds to what the execution still has to do to itself."""
        self.agenda.append((kind, sequence, reference))

    # --- the end of the step

    def write_header(self) -> None:
        """Writes the header of the execution, if the step has changed anything about it."""
        if self.key is None:
            return
        x = self.x
        if self.agenda or self.undo_agenda or x.agenda or x.undo_agenda:
            agenda, undo_agenda = tuple(self.agenda), tuple(self.undo_agenda)
            if agenda != x.agenda or undo_agenda != x.undo_agenda:
                x = self.header
                x.agenda, x.undo_agenda = agenda, undo_agenda
        if x is self._header and not self.tasks_before:
            return
        if x.updated_ms != self.now:
            x = self.header
            x.updated_ms = self.now
        self._keep(Table.EXECUTION, self.key, self.hot.execution)
        self.hot.execution = x
        namespace, workflow_id = self.key
        terminal, before = x.status in WORKFLOW_TERMINAL, self._header
        ended = terminal and (before is None or before.status not in WORKFLOW_TERMINAL)
        self.effects.append(ExecutionChanged(namespace, workflow_id, terminal, before is None, ended))

    def commit(self, changed: Changed) -> int:
        """Keeps the step; notes the rows that it changed, of all but executions, and answers how many rows changed."""
        state = self.state
        rows = 0
        for table, of_table in self.undo.items():
            resident = state.resident.get(table)
            if resident is None:
                rows += self._commit_rows(table, of_table)
                continue
            noted = marks_in(changed, table)
            marked = marks_in(state.unflushed, table)
            for key, old in of_table.items():
                existed, is_there = old is not None, key in resident
                if existed or is_there:
                    rows += 1
                    _mark(noted, key, existed, is_there)
                    _mark(marked, key, existed, is_there)
        if self.tasks_before:
            rows += self._commit_tasks()
        if state.meta is not self._meta:
            rows += 1
            _note_meta(state, changed)
        if self.key is not None:
            state.touch(self.key)
        return rows

    def _commit_rows(self, table: Table, of_table: dict[RowKey, Any]) -> int:
        """Of one of an execution's tables."""
        state = self.state
        rows = 0
        for key, old in of_table.items():
            existed = old is not None
            if existed or state.read(table, key) is not None:
                state.mark_row(table, key, existed)
                rows += 1
        return rows

    def _commit_tasks(self) -> int:
        tasks = self.hot.tasks
        marks = self.state.marks_of(self.removed or cast(ExecutionKey, self.key))
        rows = 0
        for sequence, old in self.tasks_before.items():
            existed = old is not None
            if existed or sequence in tasks:
                marks.setdefault((Table.TASK, sequence), existed)
                rows += 1
        return rows

    def discard(self) -> None:
        """Nothing has happened."""
        undo, read = self.undo, self.state.read
        removed = {table for table in undo if any(read(table, key) is None for key in undo[table])}
        if any(sequence not in self.hot.tasks for sequence in self.tasks_before):
            removed.add(Table.TASK)
        if self.removed is None:
            self._put_tasks_back(self.key)
        for table, of_table in reversed(self.undo.items()):
            for key, old in reversed(of_table.items()):
                self.state.write(table, key, old)
        if self.removed is not None:
            self._put_tasks_back(self.removed)
        hot = None if self.key is None else self.state.execution(self.key)
        if hot is not None:
            hot.put_in_order(removed)
            if self.tasks_before:
                # Numbers of rows that were made come again, for others.
                hot.derived.clear()
        if self.removed is not None:
            self.state.put_back(self.removed, self.hot)
        self.state.meta = self._meta
        self.tasks_before.clear()
        self.undo.clear()
        self.effects.clear()

    def _put_tasks_back(self, key: ExecutionKey | None) -> None:
        if not self.tasks_before:
            return
        assert key is not None
        hot = self.state.execution(key)
        assert hot is not None
        for sequence, old in reversed(self.tasks_before.items()):
            hot.put_task(sequence, old)


def advance_time(state: State, changed: Changed, time_ms: int) -> None:
    """What begins each entry: no step, for nothing can go wrong."""
    state.meta = replace(state.meta, log_time_ms=time_ms)
    _note_meta(state, changed)


def _note_meta(state: State, changed: Changed) -> None:
    marks_in(changed, Table.META).setdefault((), True)
    marks_in(state.unflushed, Table.META).setdefault((), True)


def _mark(marks: dict[RowKey, bool], key: RowKey, existed: bool, is_there: bool) -> None:
    """Notes a row that changed, but for one that has come and gone since there are marks."""
    if key not in marks:
        marks[key] = existed
    elif not is_there and not marks[key]:
        del marks[key]
