"""What was promised and what was done: a test writes down what it is told, and compares it with the cluster at the end.

A start is acknowledged, refused (certain to have had no effect) or unknown. Workers write down each execution of each
attempt, with its tokens. The check names everything that is wrong, not only the first.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.verify.attempts import Ran, wrong_steps
from orchestrator_client import Client, Execution, NotFound, TaskContext

CHECKS_AT_ONCE = 32
FAULTS_SHOWN = 25


class Ledger:
    """The book of one test."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, Any] = {}  # workflow id -> the output that it must come to
        self.acknowledged_at: list[float] = []
        self.finished: dict[str, Any] = {}  # workflow id -> the output that a client was told
        self.ran: list[Ran] = []

    def acknowledge(self, workflow_id: str, expected: Any) -> None:
        if workflow_id in self.acknowledged:
            raise AssertionError(f"{workflow_id} was acknowledged twice")
        self.acknowledged[workflow_id] = expected
        self.acknowledged_at.append(time.monotonic())

    def finish(self, workflow_id: str, output: Any) -> None:
        self.finished[workflow_id] = output

    def runs(self, ctx: TaskContext) -> None:
        """A worker begins to execute this attempt."""
        self.ran.append(Ran.of(ctx))

    def longest_pause_s(self, since: float) -> float:
        """The longest time between two acknowledgements after `since`."""
        times = [since, *(at for at in self.acknowledged_at if at > since)]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=float("inf"))

    async def check(self, client: Client, *, attempts_max: int = 1) -> None:
        """Every acknowledged execution is there, has ended well, once, with the right output.

        `attempts_max` is how many attempts a step may have needed; with 1 no step was ever executed twice.
        """
        gate = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def look(workflow_id: str) -> Execution | None:
            async with gate:
                try:
                    return await client.get(workflow_id, tasks=True)
                except NotFound:
                    return None

        found = await asyncio.gather(*map(look, self.acknowledged))
        by_workflow: defaultdict[str, list[Ran]] = defaultdict(list)
        for ran in self.ran:
            by_workflow[ran.workflow_id].append(ran)
        faults = list(self._twice(execution for execution in found if execution is not None))
        for workflow_id, execution in zip(self.acknowledged, found, strict=True):
            if execution is None:
                faults.append(f"{workflow_id}: acknowledged, and lost")
            else:
                said = [*self._wrong_end(execution), *wrong_steps(execution, by_workflow[workflow_id], attempts_max)]
                faults += [f"{workflow_id}: {fault}" for fault in said]
        shown = "\n".join(faults[:FAULTS_SHOWN])
        assert not faults, f"{len(faults)} faults in {len(found)} executions:\n{shown}"

    def _wrong_end(self, execution: Execution) -> Iterator[str]:
        expected = self.acknowledged[execution.workflow_id]
        if execution.status != "COMPLETED":
            yield f"is {execution.status} ({execution.reason}), not COMPLETED"
        elif execution.output != expected:
            yield f"came to {execution.output}, not {expected}"
        told = self.finished.get(execution.workflow_id, expected)
        if told != expected:
            yield f"a client was told {told}, not {expected}"

    def _twice(self, executions: Iterable[Execution]) -> Iterator[str]:
        """Of all things that must be unique over everything, those that are not."""
        tasks = [task for execution in executions for task in execution.tasks if task.fencing_token]
        for what, values in (
            ("fencing tokens given to two attempts", [task.fencing_token for task in tasks]),
            ("task ids given to two attempts", [task.task_id for task in tasks]),
            ("leases executed twice", [ran.fencing_token for ran in self.ran]),
        ):
            doubled = [value for value, times in Counter(values).items() if times > 1]
            if doubled:
                yield f"{what}: {doubled[:5]}"
