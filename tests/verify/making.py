"""Operations and executions as a run would have them, with all that does not matter filled in."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.verify.attempts import Ran
from orchestrator.verify.history import Operation, Outcome
from orchestrator_client import (
    CompensatedStep,
    CompensationReport,
    CompensationState,
    Execution,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
)

BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
SUBJECT = "verify-register-0x1"
_numbers = itertools.count(1)


def operation(kind: str, invoked: float, completed: float | None, answer: Any = None, *, argument: Any = None,
              subject: str = SUBJECT, outcome: Outcome | None = None, caller: str = "c1.0") -> Operation:
    """Answered if there is an answer, else unknown."""
    known: Outcome = outcome or ("answered" if answer is not None else "unknown")
    return Operation(f"c1-{next(_numbers)}", caller, kind, subject, argument, invoked, completed, known, answer)


def at(ms: float) -> datetime:
    return BEGAN + timedelta(milliseconds=ms)


def attempt(reference: str, token: int, status: str = "COMPLETED", *, began: float = 0, ended: float | None = None,
            worker: str = "w1", key: str = "", kind: str = "SIMPLE", reason: str = "", compensates: str = "",
            number: int = 1) -> TaskAttempt:
    return TaskAttempt(
        task_id=f"task-{token}", reference=reference, name=reference, type=kind, status=TaskStatus(status),
        sequence=token, attempt=number, iteration=0, input={}, output={}, reason=reason, worker_id=worker,
        idempotency_key=key or f"key-{reference}", fencing_token=token, scheduled_time=at(began), start_time=at(began),
        end_time=at(began + 10 if ended is None else ended), compensates=compensates, heartbeat_details=None,
        error_code="",
    )


def ran(task: TaskAttempt, workflow_id: str = "x") -> Ran:
    """What its worker has written of it."""
    return Ran(workflow_id, task.reference, task.iteration, task.attempt, task.task_id, task.fencing_token,
               task.idempotency_key)


def execution(*tasks: TaskAttempt, workflow_id: str = "x", status: str = "COMPLETED", output: Any = None,
              done: tuple[str, ...] = (), left: tuple[str, ...] = (), state: str = "") -> Execution:
    report = CompensationReport(CompensationState(state or ("COMPLETE" if done else "NONE")),
                                [CompensatedStep(each) for each in done], [CompensatedStep(each) for each in left])
    return Execution(
        workflow_id=workflow_id, namespace="default", name="w", version=1, status=WorkflowStatus(status), reason="",
        failed_task="", error_code="", input={}, output=output if output is not None else {}, variables={},
        correlation_id="", priority=0, created_by="", start_time=BEGAN, update_time=BEGAN, end_time=BEGAN, run=1,
        compensation=report, tasks=list(tasks),
    )
