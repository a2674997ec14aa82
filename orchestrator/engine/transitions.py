"""Which status may follow which: tables, and the only place that says so.

Whoever changes a status asks `check_task` or `check_workflow`; the diagrams of DESIGN.md are tested against the tables.
"""

from __future__ import annotations

from typing import Final

from orchestrator.engine.model import TaskStatus as T
from orchestrator.engine.model import WorkflowStatus as W

TASK_TERMINAL: Final = frozenset(
    (
        T.COMPLETED,
        T.COMPLETED_WITH_ERRORS,
        T.SKIPPED,
        T.FAILED,
        T.FAILED_WITH_TERMINAL_ERROR,
        T.TIMED_OUT,
        T.CANCELED,
    )
)
TASK_SUCCESSFUL: Final = frozenset((T.SCHEDULED, T.IN_PROGRESS, T.COMPLETED, T.COMPLETED_WITH_ERRORS, T.SKIPPED))
TASK_RETRIABLE: Final = frozenset((T.FAILED, T.TIMED_OUT))
WORKFLOW_TERMINAL: Final = frozenset((W.COMPLETED, W.FAILED, W.TIMED_OUT, W.TERMINATED))

TASK: dict[T, tuple[T, ...]] = {
    T.SCHEDULED: (
        T.IN_PROGRESS,
        T.COMPLETED,
        T.SKIPPED,
        T.FAILED,
        T.FAILED_WITH_TERMINAL_ERROR,
        T.TIMED_OUT,
        T.CANCELED,
    ),
    T.IN_PROGRESS: (
        # Its worker wants to be asked again, after a while.
        T.SCHEDULED,
        T.COMPLETED,
        T.COMPLETED_WITH_ERRORS,
        T.FAILED,
        T.FAILED_WITH_TERMINAL_ERROR,
        T.TIMED_OUT,
        T.CANCELED,
    ),
    # A JOIN or a loop some of whose tasks an operator runs again.
    T.COMPLETED: (T.IN_PROGRESS,),
    T.COMPLETED_WITH_ERRORS: (T.IN_PROGRESS,),
    T.SKIPPED: (),
    # An optional task that failed for good counts as completed with errors.
    # A JOIN that did not end well is reopened in place when an operator retries the workflow.
    T.FAILED: (T.COMPLETED_WITH_ERRORS, T.IN_PROGRESS),
    T.FAILED_WITH_TERMINAL_ERROR: (T.COMPLETED_WITH_ERRORS, T.IN_PROGRESS),
    T.TIMED_OUT: (T.COMPLETED_WITH_ERRORS, T.IN_PROGRESS),
    T.CANCELED: (T.COMPLETED_WITH_ERRORS, T.IN_PROGRESS),
}

WORKFLOW: dict[W, tuple[W, ...]] = {
    W.RUNNING: (W.PAUSED, W.COMPENSATING, W.COMPLETED, W.FAILED, W.TIMED_OUT, W.TERMINATED),
    W.PAUSED: (W.RUNNING, W.COMPENSATING, W.FAILED, W.TIMED_OUT, W.TERMINATED),
    W.COMPENSATING: (W.PAUSED, W.FAILED, W.TIMED_OUT, W.TERMINATED),
    # A parent undoes what a sub-workflow has done; an operator restarts.
    W.COMPLETED: (W.COMPENSATING, W.RUNNING),
    # Only an operator's word leads out of a terminal status: a retry, or a delete that compensates first.
    W.FAILED: (W.RUNNING, W.COMPENSATING),
    W.TIMED_OUT: (W.RUNNING, W.COMPENSATING),
    W.TERMINATED: (W.RUNNING, W.COMPENSATING),
}

_task_pairs: Final = frozenset((before, after) for before, many in TASK.items() for after in many)
_workflow_pairs: Final = frozenset((before, after) for before, many in WORKFLOW.items() for after in many)


class ImpossibleTransition(Exception):
    """A handler asked for a change of status that the tables do not have: an error of ours."""


def check_task(before: T, after: T) -> None:
    if (before, after) not in _task_pairs:
        raise ImpossibleTransition(f"task: {before.name} -> {after.name}")


def check_workflow(before: W, after: W) -> None:
    if (before, after) not in _workflow_pairs:
        raise ImpossibleTransition(f"workflow: {before.name} -> {after.name}")
