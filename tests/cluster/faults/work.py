"""The workflows that clients start and workers execute, under faults: what each must come to is known beforehand."""

from __future__ import annotations

from typing import Any

from orchestrator.verify.attempts import Ran
from orchestrator_client import Task, TaskContext, Workflow
from tests.cluster.ledger import Ledger
from tests.cluster.workload import Number, arithmetic


class RanFile(Ledger):
    """A worker's own book: a line for each attempt that it begins to execute, there also after a kill."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = open(path, "a", buffering=1)  # noqa: SIM115, PTH123 - open as long as the process lives

    def runs(self, ctx: TaskContext) -> None:
        self._file.write(Ran.of(ctx).line())


def workflows(ledger: Ledger) -> tuple[Workflow, Workflow, list[Task[..., Any]]]:
    """Steps alone; one that waits for two signals of one name; and the tasks of both."""
    steps, tasks = arithmetic(ledger)
    add = next(each for each in tasks if each.name == "add")
    signalled = Workflow("signalled", input=Number)
    first = signalled.wait(signal="go", ref="one", type=Number)
    second = signalled.wait(signal="go", ref="two", type=Number)
    total = signalled.step(add, first.x, second.x)
    signalled.returns(first=first.x, second=second.x, total=total)
    return steps, signalled, tasks


def expected_signals(first: int, second: int) -> dict[str, int]:
    return {"first": first, "second": second, "total": first + second}
