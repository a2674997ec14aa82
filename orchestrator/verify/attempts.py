"""Attempts of tasks, as their workers saw them, beside those that the cluster knows: what does not fit."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator_client import Execution, TaskAttempt, TaskContext


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
