"""What attempts have logged: rows of their execution, of which the oldest go when there are too many.

A log is for people and never a reason to fail: what is too much is cut, and how much was cut is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.engine import limits
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import Table, TaskAttempt, TaskLog
from orchestrator.engine.step import Step

Lines = tuple[tuple[int, str], ...]
"""(time in milliseconds as the worker says, text)"""


def add(step: Step, attempt: TaskAttempt, lines: Lines) -> None:
    """Keeps the lines, and drops the oldest of the execution's as far as the limit demands."""
    if not lines:
        return
    kept = [(time_ms, text[: limits.LOG_LINE_CHARS]) for time_ms, text in lines[-limits.LOG_LINES :]]
    sizes = [len(text.encode("utf-8", "surrogatepass")) for _, text in kept]
    first, size = 0, sum(sizes)
    while size > limits.LOG_BYTES:
        size -= sizes[first]
        first += 1
    row = TaskLog(step.x.next_number, attempt.sequence, tuple(kept[first:]), size)
    step.write(Table.TASK_LOG, (step.x.namespace, step.x.workflow_id, row.number), row)
    step.change(
        next_number=row.number + 1,
        log_lines=step.x.log_lines + len(row.lines),
        log_bytes=step.x.log_bytes + size,
        log_lines_dropped=step.x.log_lines_dropped + len(lines) - len(row.lines),
    )
    _drop_oldest(step)


def _drop_oldest(step: Step) -> None:
    for number in sorted(step.hot.logs):
        if step.x.log_lines <= limits.LOG_LINES and step.x.log_bytes <= limits.LOG_BYTES:
            return
        row = step.hot.logs[number]
        step.write(Table.TASK_LOG, (step.x.namespace, step.x.workflow_id, number), None)
        step.change(
            log_lines=step.x.log_lines - len(row.lines),
            log_bytes=step.x.log_bytes - row.bytes,
            log_lines_dropped=step.x.log_lines_dropped + len(row.lines),
        )


class LogLine(NamedTuple):
    number: int  # of its row
    position: int  # in its row
    attempt: TaskAttempt
    time_ms: int
    text: str


def lines_after(hot: ExecutionState, number: int, position: int) -> Iterator[LogLine]:
    """The lines behind a place, (0, 0) for all, in the order in which they came."""
    for row_number in sorted(hot.logs):
        row = hot.logs[row_number]
        for at, (time_ms, text) in enumerate(row.lines):
            if (row_number, at) >= (number, position):
                yield LogLine(row_number, at, hot.tasks[row.task_sequence], time_ms, text)
