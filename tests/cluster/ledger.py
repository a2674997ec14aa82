"""What was promised and what was done: a test writes down what it is told, and compares it with the cluster at the end.

A start is acknowledged, refused (certain to have had no effect) or unknown. Workers write down each execution of each
attempt, with its tokens. The check names everything that is wrong, not only the first.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator_client import Client, Execution, NotFound, TaskAttempt, TaskContext

CHECKS_AT_ONCE = 32
FAULTS_SHOWN = 25


@dataclass(frozen=True)
class Ran:
    """One execution of an attempt, as its worker saw it."""

    workflow_id: str
    reference: str
    iteration: int
    attempt: int
    task_id: str
    fencing_token: int
    idempotency_key: str

    @classmethod
    def of(cls, ctx: TaskContext) -> Ran:
        return cls(ctx.workflow_id, ctx.reference, ctx.iteration, ctx.attempt, ctx.task_id, ctx.fencing_token,
                   ctx.idempotency_key)

    def line(self) -> str:
        """For a worker in a process of its own."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def lines(cls, file: Path) -> list[Ran]:
        return [cls(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


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


def wrong_steps(execution: Execution, ran: list[Ran], attempts_max: int) -> Iterator[str]:
    """What does not fit between the attempts that the cluster has and those that workers have executed."""
    steps: defaultdict[tuple[str, int], list[TaskAttempt]] = defaultdict(list)
    for task in execution.tasks:
        if task.type == "SIMPLE":
            steps[task.reference, task.iteration].append(task)
    executed: defaultdict[tuple[str, int], list[Ran]] = defaultdict(list)
    for each in ran:
        executed[each.reference, each.iteration].append(each)
    keys = Counter(key for attempts in steps.values() for key in {task.idempotency_key for task in attempts})
    if shared := [key for key, times in keys.items() if times > 1]:
        yield f"steps share the idempotency keys {shared}"
    for step in steps.keys() | executed.keys():
        yield from (f"step {step[0]}: {fault}" for fault in _wrong_step(steps[step], executed[step], attempts_max))


def _wrong_step(attempts: list[TaskAttempt], executed: list[Ran], attempts_max: int) -> Iterator[str]:
    accepted = [task for task in attempts if task.status == "COMPLETED"]
    if len(accepted) > 1:
        yield f"{len(accepted)} completions were accepted"
    if len(attempts) > attempts_max or len(executed) > attempts_max:
        yield f"{len(attempts)} attempts, of which workers executed {len(executed)}; expected at most {attempts_max}"
    keys = {task.idempotency_key for task in attempts} | {each.idempotency_key for each in executed}
    if len(keys) > 1:
        yield f"its attempts carry different idempotency keys: {sorted(keys)}"
    tokens = [each.fencing_token for each in executed]
    if tokens != sorted(tokens):
        yield f"a later execution had a lower fencing token: {tokens}"
    for task in accepted:
        if (task.task_id, task.fencing_token) not in {(each.task_id, each.fencing_token) for each in executed}:
            yield "completed, but no worker executed it"
