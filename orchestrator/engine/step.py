"""One step: reads and writes over the state that become real together, or not at all.

Rows are written through at once, so that what is read is always what was written, and the first old value of each is
kept: discarding a step puts them back. The header of the step's execution and its agenda are kept aside and written
once, when the step is finished.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec.structs import replace

from orchestrator.engine import limits
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
    RowKey,
    Table,
    TaskAttempt,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.plan import Plan, plan_of
from orchestrator.engine.queues import QueueKey
from orchestrator.engine.resident import Timer
from orchestrator.engine.state import State
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
        "key",
        "now",
        "queued",
        "rated",
        "ready_queues",
        "removed",
        "state",
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
        self.undo: dict[tuple[Table, RowKey], Any] = {}
        self.budget = limits.TRANSITIONS_PER_STEP
        self.agenda: deque[AgendaItem] = deque()
        self.undo_agenda: deque[int] = deque()
        self.ready_queues: dict[QueueKey, None] = {}
        self.freed_sessions: dict[str, None] = {}
        self.freed_names: dict[tuple[str, str], None] = {}  # (namespace, task name) of leases that are gone
        self.rated: dict[tuple[str, str], None] = {}  # (namespace, task name) of what was handed out
        self.queued: list[int] = []
        self._header: Execution | None = None
        self._meta = state.meta
        self._plan: Plan | None = None

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
        namespace, workflow_id = hot.execution.namespace, hot.execution.workflow_id
        self.key = (namespace, workflow_id)
        self.hot = hot
        self.x = self._header = hot.execution
        if self.x.agenda:
            self.agenda.extend(self.x.agenda)
        if self.x.undo_agenda:
            self.undo_agenda.extend(self.x.undo_agenda)
        if self.x.agenda or self.x.ending is not None:
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
        self.x = execution

    def remove(self) -> None:
        """The step's execution is gone, its other rows before: the step has none any more."""
        assert self.key is not None
        self.write(Table.EXECUTION, self.key, None)
        self.effects.append(ExecutionDeleted(*self.key))
        self.removed, self.key = self.key, None

    def change(self, **fields: Any) -> None:
        """Changes the header of the step's execution."""
        self.x = replace(self.x, **fields)

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
    def goes_on_after_end(self) -> bool:
        """Whether the execution had ended before the step, and goes on."""
        if self._header is None or self._header.status not in WORKFLOW_TERMINAL:
            return False
        return self.x.status not in WORKFLOW_TERMINAL

    # --- rows

    def write(self, table: Table, key: RowKey, row: Any) -> None:
        old = self.state.write(table, key, row)
        self.undo.setdefault((table, key), old)

    def put_task(self, attempt: TaskAttempt) -> TaskAttempt:
        self.write(Table.TASK, (self.x.namespace, self.x.workflow_id, attempt.sequence), attempt)
        return attempt

    def task(self, sequence: int) -> TaskAttempt | None:
        return self.hot.tasks.get(sequence)

    def count(self, **differences: int) -> None:
        """Adds to counters of the META row."""
        meta = self.state.meta
        self.state.meta = replace(meta, **{name: getattr(meta, name) + by for name, by in differences.items()})

    def arm(self, kind: TimerKind, after_ms: int, sequence: int = 0) -> int:
        """A timer for the step's execution, or one of its attempts; answers its number."""
        number = self.state.meta.next_timer
        self.count(next_timer=1)
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
        number = self.state.meta.next_message
        self.count(next_message=1)
        self.write(Table.MESSAGE, (number,), message)

    def note(self, kind: AgendaKind, sequence: int, reference: str = "") -> None:
        """Adds to what the execution still has to do to itself."""
        self.agenda.append((kind, sequence, reference))

    # --- the end of the step

    def write_header(self) -> None:
        """Writes the header of the execution, if the step has changed anything about it."""
        if self.key is None:
            return
        agenda, undo_agenda = tuple(self.agenda), tuple(self.undo_agenda)
        if agenda != self.x.agenda or undo_agenda != self.x.undo_agenda:
            self.change(agenda=agenda, undo_agenda=undo_agenda)
        if self.x is self._header and not any(mark[0] is Table.TASK for mark in self.undo):
            return
        if self.x.updated_ms != self.now:
            self.change(updated_ms=self.now)
        self.write(Table.EXECUTION, self.key, self.x)
        terminal = self.x.status in WORKFLOW_TERMINAL
        self.effects.append(ExecutionChanged(*self.key, terminal, started=self._header is None))

    def commit(self) -> dict[tuple[Table, RowKey], bool]:
        """Keeps the step; answers each row that it changed, with whether it was there before."""
        state = self.state
        changed: dict[tuple[Table, RowKey], bool] = {}
        for (table, key), old in self.undo.items():
            if old is None and state.read(table, key) is None:
                continue
            changed[table, key] = old is not None
            state.mark(table, key, old is not None)
        if state.meta is not self._meta:
            changed[Table.META, ()] = True
            state.mark(Table.META, (), True)
        if self.key is not None:
            state.touch(self.key)
        return changed

    def discard(self) -> None:
        """Nothing has happened."""
        removed = {table for table, key in self.undo if self.state.read(table, key) is None}
        for (table, key), old in reversed(self.undo.items()):
            self.state.write(table, key, old)
        hot = None if self.key is None else self.state.execution(self.key)
        if hot is not None:
            hot.put_in_order(removed)
        if self.removed is not None:
            self.state.put_back(self.removed, self.hot)
        self.state.meta = self._meta
        self.undo.clear()
        self.effects.clear()
