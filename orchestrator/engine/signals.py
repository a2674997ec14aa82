"""Signals: kept until a WAIT of their name takes them, the oldest first, whichever of the two comes first."""

from __future__ import annotations

from orchestrator.engine import attempts
from orchestrator.engine.model import Signal, Table, TaskAttempt, TaskStatus
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step


def take(step: Step, attempt: TaskAttempt) -> None:
    """A WAIT begins: it takes the oldest signal of its name, if there is one."""
    for number in sorted(step.hot.signals):
        signal = step.hot.signals[number]
        if signal.name == attempt.signal:
            attempts.complete_operator(step, attempt, signal.payload)
            step.write(Table.SIGNAL, (step.x.namespace, step.x.workflow_id, number), None)
            size = len(load(step.hot, signal.payload))
            step.change(signals=step.x.signals - 1, signal_bytes=step.x.signal_bytes - size)
            return


def give(step: Step, signal: Signal, size: int) -> None:
    """A signal has come: the WAIT that began first takes it, or it is kept."""
    for sequence in sorted(step.hot.open):
        attempt = step.hot.tasks[sequence]
        if attempt.signal == signal.name and attempt.status is TaskStatus.IN_PROGRESS:
            attempts.complete_operator(step, attempt, signal.payload)
            return
    step.write(Table.SIGNAL, (step.x.namespace, step.x.workflow_id, signal.number), signal)
    step.change(signals=step.x.signals + 1, signal_bytes=step.x.signal_bytes + size)
