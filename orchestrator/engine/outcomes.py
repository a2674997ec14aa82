"""The one door through which an execution leaves RUNNING: with its debts paid first, or at once."""

from __future__ import annotations

from orchestrator.engine import ending, saga
from orchestrator.engine.model import Payload, WorkflowStatus
from orchestrator.engine.step import Step


def end_badly(
    step: Step,
    outcome: WorkflowStatus,
    reason: str,
    failed_task: str = "",
    *,
    output: Payload = b"",
    compensate: bool = True,
) -> None:
    """FAILED, TIMED_OUT or TERMINATED, after compensation where something is owed."""
    if not compensate:
        step.change(undo_children=False)
    if compensate and saga.is_owed(step):
        saga.enter(step, outcome, reason, failed_task, output)
    else:
        ending.begin(step, outcome, reason, failed_task, output)


def complete(step: Step, *, output: Payload = b"", reason: str = "") -> None:
    step.change(undo_children=False)
    ending.begin(step, WorkflowStatus.COMPLETED, reason, "", output)
