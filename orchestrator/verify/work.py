"""The workflows that callers start and workers execute: what each must come to is known beforehand.

All names, of workflows, tasks and executions, begin with the prefix of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.verify.models import MAILBOX_SIGNALS
from orchestrator_client import (
    CompensationContext,
    Execution,
    Retry,
    Task,
    TaskContext,
    TerminalError,
    Workflow,
    WorkflowStatus,
    task,
)

Mode = Literal["good", "fail", "unknown", "terminated"]
FLAKY_FAILURES = 2
TIMER_MS = 700
MEANT = "is meant to fail"
CALM = Retry.fixed(delay_ms=100, attempts=8)
UNDOING = Retry.fixed(delay_ms=200, attempts=50)
COMPENSATED = ("reserve", "charge")


@dataclass
class Number:
    x: int
    # How long the work takes.
    ms: int = 0


@dataclass
class Order:
    x: int
    mode: str
    ms: int = 0


@dataclass
class Nothing:
    pass


@contextlib.contextmanager
def only_news() -> Iterator[None]:
    """Workers of this process log no failures that are a part of the work."""
    log = logging.getLogger("orchestrator_client.task")
    log.addFilter(_is_news)
    try:
        yield
    finally:
        log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and MEANT in str(record.exc_info[1]))


class Book:
    """Where a worker writes what it does."""

    def begins(self, ctx: TaskContext) -> None:
        """An attempt."""

    def effect(self, ctx: TaskContext, key: str, *, undone: bool = False) -> None:
        """What a service would have done, or undone, once for this key."""


class Work:
    """The definitions under one prefix; workers give the book in which their tasks write."""

    def __init__(self, prefix: str, book: Book | None = None) -> None:
        self.prefix = prefix
        self._book = book or Book()
        self._step_tasks = self._make_steps()
        self._again_task = self._make_again()
        self._saga_tasks = self._make_saga()
        self.tasks = [*self._step_tasks, self._again_task, *self._saga_tasks]
        self.workflows: dict[str, Workflow] = {
            name: make() for name, make in {
                "steps": self._steps, "flaky": self._flaky, "timer": self._timer, "hold": self._hold,
                "saga": self._saga, "again": self._again, "register": self._register, "mailbox": self._mailbox,
            }.items()
        }
        self.workflows["once"] = self.workflows["steps"]

    def name(self, short: str) -> str:
        return f"{self.prefix}-{short}"

    def task_names(self) -> list[str]:
        return [each["name"] for task in self.tasks for each in task.definitions()]

    def workflow_names(self) -> list[str]:
        return sorted({workflow.name for workflow in self.workflows.values()})

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _make_steps(self) -> list[Task[..., Any]]:
        book = self._book

        @task(name=self.name("double"), retry=CALM)
        async def double(x: int, ms: int, ctx: TaskContext) -> int:
            book.begins(ctx)
            await asyncio.sleep(ms / 1000)  # the work itself
            return 2 * x

        @task(name=self.name("add"), retry=CALM)
        async def add(x: int, y: int, ctx: TaskContext) -> int:
            book.begins(ctx)
            return x + y

        @task(name=self.name("flaky"), retry=CALM)
        async def flaky(x: int, ctx: TaskContext) -> int:
            book.begins(ctx)
            if ctx.attempt <= FLAKY_FAILURES:
                raise RuntimeError(f"attempt {ctx.attempt} {MEANT}")
            return x + 1

        return [double, add, flaky]

    def _make_again(self) -> Task[..., Any]:
        book = self._book

        @task(name=self.name("again"), retry=Retry.none())
        async def again(x: int, ctx: TaskContext) -> int:
            book.begins(ctx)
            if ctx.fencing_token % 2:  # which of its attempts fail is nobody's choice, and the same for all to see
                raise TerminalError("MEANT", f"this attempt {MEANT}")
            return x

        return again

    def _make_saga(self) -> list[Task[..., Any]]:
        book = self._book

        @task(name=self.name("reserve"), retry=CALM)
        async def reserve(x: int, ctx: TaskContext) -> int:
            book.begins(ctx)
            book.effect(ctx, ctx.idempotency_key)
            return x

        @reserve.compensation(name=self.name("release"), retry=UNDOING)
        async def release(x: int, ctx: CompensationContext) -> None:
            book.begins(ctx)
            book.effect(ctx, ctx.step.idempotency_key, undone=True)

        @task(name=self.name("charge"), retry=CALM)
        async def charge(x: int, mode: str, ms: int, ctx: TaskContext) -> int:
            book.begins(ctx)
            await asyncio.sleep(ms / 1000)
            book.effect(ctx, ctx.idempotency_key)
            if mode == "unknown":
                raise TerminalError("NO_ANSWER", "nobody knows", outcome_unknown=True)
            return x

        @charge.compensation(name=self.name("refund"), retry=UNDOING)
        async def refund(x: int, ctx: CompensationContext) -> None:
            book.begins(ctx)
            book.effect(ctx, ctx.step.idempotency_key, undone=True)

        @task(name=self.name("ship"), retry=CALM)
        async def ship(x: int, mode: str, ctx: TaskContext) -> int:
            book.begins(ctx)
            if mode == "fail":
                raise TerminalError("NO_TRUCKS", "all trucks are out")
            return x + 1

        return [reserve, charge, ship]

    # -- workflows -------------------------------------------------------------------------------------------------

    def _steps(self) -> Workflow:
        double, add, _ = self._step_tasks
        flow = Workflow(self.name("steps"), input=Number)
        with flow.fork() as fork:
            with fork.branch():
                left = flow.step(double, flow.input.x, flow.input.ms, ref="left")
            with fork.branch():
                right = flow.step(double, flow.input.x, 0, ref="right")
        flow.returns(total=flow.step(add, left, right, ref="total"))
        return flow

    def _flaky(self) -> Workflow:
        flow = Workflow(self.name("flaky"), input=Number)
        flow.returns(total=flow.step(self._step_tasks[2], flow.input.x, ref="flaky"))
        return flow

    def _timer(self) -> Workflow:
        double, _, _ = self._step_tasks
        flow = Workflow(self.name("timer"), input=Number)
        flow.wait(duration_ms=TIMER_MS, ref="timer")
        flow.returns(total=flow.step(double, flow.input.x, 0, ref="after"))
        return flow

    def _hold(self) -> Workflow:
        """A step that is with its worker for long, so that many a leader dies meanwhile."""
        double, _, _ = self._step_tasks
        flow = Workflow(self.name("hold"), input=Number)
        flow.returns(total=flow.step(double, flow.input.x, flow.input.ms, ref="hold"))
        return flow

    def _saga(self) -> Workflow:
        reserve, charge, ship = self._saga_tasks
        flow = Workflow(self.name("saga"), input=Order)
        flow.step(reserve, flow.input.x, ref="reserve")
        flow.step(charge, flow.input.x, flow.input.mode, flow.input.ms, ref="charge")
        flow.returns(total=flow.step(ship, flow.input.x, flow.input.mode, ref="ship"))
        return flow

    def _again(self) -> Workflow:
        flow = Workflow(self.name("again"), input=Number)
        flow.returns(total=flow.step(self._again_task, flow.input.x, ref="again"))
        return flow

    def _register(self) -> Workflow:
        flow = Workflow(self.name("register"), input=Nothing)
        flow.wait(signal="never", ref="never")
        return flow

    def _mailbox(self) -> Workflow:
        flow = Workflow(self.name("mailbox"), input=Nothing)
        taken = {f"m{number}": flow.wait(signal="mail", ref=f"m{number}").x for number in range(MAILBOX_SIGNALS)}
        flow.returns(**taken)
        return flow


@dataclass(frozen=True)
class Expected:
    """What an execution may come to."""

    statuses: tuple[str, ...]
    output: dict[str, Any] | None = None


def expected(kind: str, argument: dict[str, Any], *, terminated: bool) -> Expected:
    """`terminated`: somebody has asked for it, with compensation; it may have come too late."""
    x = argument.get("x", 0)
    totals: dict[str, Callable[[int], int]] = {
        "steps": lambda x: 4 * x, "flaky": lambda x: x + 1, "timer": lambda x: 2 * x, "hold": lambda x: 2 * x,
        "saga": lambda x: x + 1, "again": lambda x: x,
    }
    output = {"total": totals[kind](x)}
    if kind == "saga" and argument["mode"] in ("fail", "unknown"):
        return Expected((WorkflowStatus.FAILED, *([WorkflowStatus.TERMINATED] if terminated else [])))
    if kind == "again":
        return Expected((WorkflowStatus.COMPLETED, WorkflowStatus.FAILED, WorkflowStatus.TIMED_OUT), output)
    statuses = (WorkflowStatus.COMPLETED, *([WorkflowStatus.TERMINATED] if terminated else []))
    return Expected(statuses, output)


# Executions as the models know them.


def shown(execution: Execution) -> dict[str, Any]:
    """One that goes on by itself."""
    ended = execution.status.ended
    status = "RUNNING" if execution.status == "PAUSED" else str(execution.status)
    return {"is": "shown", "status": status, "output": json.dumps(execution.output, sort_keys=True) if ended else None}


def mail(execution: Execution) -> dict[str, Any]:
    waits = sorted((task for task in execution.tasks if task.type == "WAIT"), key=lambda task: task.sequence)
    taken = [task.output["x"] for task in waits if task.status == "COMPLETED" and isinstance(task.output, dict)]
    return {"is": "shown", "status": str(execution.status), "taken": taken}


def value(execution: Execution) -> dict[str, Any]:
    variables = execution.variables if isinstance(execution.variables, dict) else {}
    return {"is": "shown", "status": str(execution.status), "value": variables.get("x")}
