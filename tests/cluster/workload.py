"""Work for a cluster under test: workflows whose output says whether each step took effect once, workers, and load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator_client import Client, Retry, Task, TaskContext, Worker, Workflow, task
from tests.cluster.ledger import Ledger

T = TypeVar("T")
PATIENCE_S = 60.0
POLL_S = 0.02


@dataclass
class Number:
    x: int


def arithmetic(ledger: Ledger, *, work_s: float = 0.005) -> tuple[Workflow, list[Task[..., Any]]]:
    """A workflow of three steps, two of them side by side, which comes to 5 * x + 1; and its tasks."""

    @task
    async def double(x: int, ctx: TaskContext) -> int:
        ledger.runs(ctx)
        await asyncio.sleep(work_s)  # the work itself
        return 2 * x

    @task
    async def increment(x: int, ctx: TaskContext) -> int:
        ledger.runs(ctx)
        await asyncio.sleep(work_s)
        return x + 1

    @task
    async def add(x: int, y: int, ctx: TaskContext) -> int:
        ledger.runs(ctx)
        return x + y

    flow = Workflow("arithmetic", input=Number)
    doubled = flow.step(double, flow.input.x)
    with flow.fork() as fork:
        with fork.branch():
            again = flow.step(double, doubled)
        with fork.branch():
            more = flow.step(increment, flow.input.x)
    flow.returns(total=flow.step(add, again, more))
    return flow, [double, increment, add]


def expected_total(x: int) -> dict[str, int]:
    return {"total": 5 * x + 1}


class Gate:
    """A workflow of one step that is being executed for as long as the test wants."""

    def __init__(self, ledger: Ledger, *, retry: Retry | None = None) -> None:
        self.entered = asyncio.Semaphore(0)
        self.open = asyncio.Event()

        @task(name="guarded", retry=retry or Retry.exponential())
        async def guarded(x: int, ctx: TaskContext) -> int:
            ledger.runs(ctx)
            self.entered.release()
            await self.open.wait()
            return x

        self.task = guarded
        self.workflow = Workflow("gate", input=Number)
        self.workflow.returns(x=self.workflow.step(guarded, self.workflow.input.x))


@asynccontextmanager
async def working(client: Client, tasks: Iterable[Task[..., Any]], **options: Any) -> AsyncIterator[Worker]:
    """A worker in this process, until the block ends."""
    worker = Worker(client, tasks, handle_signals=False, **options)
    running = asyncio.create_task(worker.run())
    try:
        await within(worker.connected(), "the worker's session")
        yield worker
    finally:
        await worker.stop(timeout_s=5)
        await running


class Load:
    """Starts workflows and waits for their results, `width` at a time; everything goes into the ledger."""

    def __init__(self, client: Client, ledger: Ledger, workflow: Workflow, *, width: int = 12,
                 prefix: str = "load") -> None:
        self._client = client
        self._ledger = ledger
        self._workflow = workflow
        self._prefix = prefix
        self._next = 0
        self._stopping = False
        self._width = width
        self._lanes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(self._width)]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        self._stopping = True
        if error is not None:
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)
        await within(asyncio.gather(*self._lanes, return_exceptions=error is not None), "the load to end", 120)

    async def progress(self, more: int = 30) -> None:
        """Returns when this many more workflows have ended than when it was called."""
        goal = len(self._ledger.finished) + more
        await eventually(lambda: self._ended() >= goal, f"{more} more workflows to end under load")

    def _ended(self) -> int:
        for lane in self._lanes:
            if lane.done() and not lane.cancelled():
                lane.result()  # a failure of the load is the test's
        return len(self._ledger.finished)

    async def _lane(self) -> None:
        while not self._stopping:
            x, self._next = self._next, self._next + 1
            run = await self._client.start(self._workflow, Number(x), id=f"{self._prefix}-{x}")
            self._ledger.acknowledge(run.workflow_id, expected_total(x))
            result = await run.result(timeout_s=PATIENCE_S)
            self._ledger.finish(run.workflow_id, {"total": result.total})


async def eventually(probe: Callable[[], T | Awaitable[T]], what: str, timeout_s: float = PATIENCE_S) -> T:
    """The probe's first true answer; fails by saying what was waited for and what was answered last."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout_s
    while True:
        answer: Any = probe()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer  # type: ignore[no-any-return]  # it is the probe's
        if clock() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}; the last answer was {answer!r}")
        await asyncio.sleep(POLL_S)


async def within(awaitable: Awaitable[T], what: str, timeout_s: float = PATIENCE_S) -> T:
    """The result, if it comes in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await awaitable
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}") from None
