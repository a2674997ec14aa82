"""The rows of one execution while it is hot, and what is found in them quickly.

Indexes are corrected with each row, in both directions, and answer by rows alone.
"""

from __future__ import annotations

from bisect import insort
from typing import Any

from orchestrator.engine.model import (
    Execution,
    Expansion,
    Payload,
    PayloadRow,
    Row,
    SagaRecord,
    Signal,
    Table,
    TaskAttempt,
    TaskLog,
)
from orchestrator.engine.transitions import TASK_TERMINAL

_NUMBERED = frozenset(
    (Table.TASK, Table.RECORD, Table.SIGNAL, Table.PAYLOAD, Table.EXPANSION, Table.TASK_LOG)
)


def instance_of(base: str, iterations: tuple[int, ...]) -> str:
    """The reference name of a task in an iteration of the loops around it."""
    return base + "".join([f"__{number}" for number in iterations]) if iterations else base


def base_of(attempt: TaskAttempt) -> str:
    """The reference name that the attempt's task has in its definition."""
    if not attempt.iterations:
        return attempt.reference
    return attempt.reference[: -len(instance_of("", attempt.iterations))]


def _drop_from(index: dict[Any, dict[int, None]], key: Any, sequence: int) -> None:
    """As if it had never been there: a replica that reads the rows anew knows of no empty entry."""
    del index[key][sequence]
    if not index[key]:
        del index[key]


class ExecutionState:
    """The rows of one hot execution, and indexes over them."""

    __slots__ = (
        "attempts_of",
        "by_task_id",
        "derived",
        "dirty",
        "execution",
        "expansions",
        "logs",
        "named",
        "of_iterations",
        "open",
        "payloads",
        "records",
        "signals",
        "size",
        "tasks",
        "undoing",
    )

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.tasks: dict[int, TaskAttempt] = {}
        self.records: dict[int, SagaRecord] = {}
        self.signals: dict[int, Signal] = {}
        self.payloads: dict[int, PayloadRow] = {}
        self.logs: dict[int, TaskLog] = {}
        self.expansions: dict[int, Expansion] = {}
        # By reference with the iterations of loops, and by the reference in the definition: sequences, ascending.
        # Compensations are not included.
        self.attempts_of: dict[str, list[int]] = {}
        self.named: dict[str, dict[int, None]] = {}
        self.of_iterations: dict[tuple[int, ...], dict[int, None]] = {}  # the attempts in loops
        self.undoing: dict[int, list[int]] = {}  # record -> sequences of the attempts that undo it, ascending
        self.by_task_id: dict[str, int] = {}
        self.open: dict[int, None] = {}  # sequences of attempts that are not terminal
        self.derived: dict[Any, Any] = {}  # what was computed from rows that never change
        self.dirty = False
        self.size = 0

    def rows(self, table: Table) -> dict[Any, Any]:
        """Those of one table, by number; not for the header."""
        if table is Table.TASK:
            return self.tasks
        if table is Table.PAYLOAD:
            return self.payloads
        if table is Table.RECORD:
            return self.records
        if table is Table.SIGNAL:
            return self.signals
        return self.expansions if table is Table.EXPANSION else self.logs

    def row(self, table: Table, number: int) -> Row | None:
        """The row of the table, as it is."""
        return self.execution if table is Table.EXECUTION else self.rows(table).get(number)

    def put_task(self, sequence: int, row: TaskAttempt | None) -> TaskAttempt | None:
        """Puts or deletes an attempt, corrects the indexes, and answers what was there before."""
        old = self.tasks.get(sequence)
        if row is None:
            self.tasks.pop(sequence, None)
        else:
            self.tasks[sequence] = row
        self._task_changed(old, row)
        return old

    def put_in_order(self, tables: set[Table]) -> None:
        """Rows that were put back stand where a replica that reads them anew has them."""
        for table in tables & _NUMBERED:
            rows = self.rows(table)
            ordered = sorted(rows.items())
            rows.clear()
            rows.update(ordered)

    def load(self, payload: Payload) -> bytes:
        """The JSON text of a payload; `b""` if there is none."""
        return self.payloads[payload].data if isinstance(payload, int) else payload

    def latest(self, reference: str) -> TaskAttempt | None:
        """The newest attempt of a reference, in the iterations that it says."""
        sequences = self.attempts_of.get(reference)
        return self.tasks[sequences[-1]] if sequences else None

    def newest(self, base: str) -> TaskAttempt | None:
        """The newest attempt of a reference of the definition, in whatever iteration."""
        sequences = self.named.get(base)
        return self.tasks[next(reversed(sequences))] if sequences else None

    def latest_undoing(self, record: int) -> TaskAttempt | None:
        """The newest attempt to compensate the record."""
        sequences = self.undoing.get(record)
        return self.tasks[sequences[-1]] if sequences else None

    def _task_changed(self, old: TaskAttempt | None, new: TaskAttempt | None) -> None:
        if new is None:
            if old is not None:
                sequences = self._siblings(old)
                sequences.remove(old.sequence)
                if not old.compensates:
                    _drop_from(self.named, base_of(old), old.sequence)
                    if old.iterations:
                        _drop_from(self.of_iterations, old.iterations, old.sequence)
                if not sequences:
                    # As if there had never been one: a replica that reads the rows anew knows of none either.
                    self._forget(old)
                self.by_task_id.pop(old.task_id, None)
                self.open.pop(old.sequence, None)
            return
        if old is None:
            insort(self._siblings(new), new.sequence)
            if not new.compensates:
                self._name(new)
                if new.iterations:
                    self.of_iterations.setdefault(new.iterations, {})[new.sequence] = None
            self.by_task_id[new.task_id] = new.sequence
        elif old.status is new.status:
            return
        if new.status in TASK_TERMINAL:
            self.open.pop(new.sequence, None)
        else:
            self.open[new.sequence] = None

    def _name(self, attempt: TaskAttempt) -> None:
        base = base_of(attempt)
        named = self.named.setdefault(base, {})
        behind = next(reversed(named), 0) > attempt.sequence
        named[attempt.sequence] = None
        if behind:
            # A step that had removed it was discarded.
            self.named[base] = dict.fromkeys(sorted(named))

    def _siblings(self, attempt: TaskAttempt) -> list[int]:
        if attempt.compensates:
            return self.undoing.setdefault(attempt.compensates, [])
        return self.attempts_of.setdefault(attempt.reference, [])

    def _forget(self, attempt: TaskAttempt) -> None:
        if attempt.compensates:
            del self.undoing[attempt.compensates]
        else:
            del self.attempts_of[attempt.reference]
