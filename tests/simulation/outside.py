"""The services that nodes call for workflows: slow, failing, or without an answer; and definitions that call them."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any

from orchestrator.integrations.executors import ExecutorFactory
from orchestrator.integrations.work import Ended, Kind, Outcome, Work
from orchestrator.testing.machine import Machine

LONGEST_SECONDS = 25.0
LIMITS = ("concurrentExecLimit", "rateLimitPerFrequency", "rateLimitFrequencyInSeconds")


class Outside:
    """What all nodes reach."""

    def __init__(self, dice: random.Random, trace: Callable[[str, str], None], violated: Callable[[str], None]) -> None:
        self.dice = dice
        self.trace = trace
        self.violated = violated
        # From when on every call is answered soon.
        self.is_calm = False
        self.calls = 0
        self._made: dict[tuple[str, int], str] = {}

    def executors(self, machine: Machine) -> ExecutorFactory:
        """Those of the nodes on the machine, one after the other."""
        return lambda config, surroundings: {Kind.HTTP: _Caller(self, machine)}

    def called(self, work: Work, node: str) -> None:
        """Under one token an attempt is executed once: by one node, in one life of it."""
        self.calls += 1
        self.trace(node, f"calls for {work.task_id} under {work.fencing_token}")
        before = self._made.setdefault((work.task_id, work.fencing_token), node)
        if before != node:
            self.violated(f"the call for {work.task_id} under {work.fencing_token} is made by {before} and by {node}")


class _Caller:
    """The executor of one node, from its start to its end."""

    def __init__(self, outside: Outside, machine: Machine) -> None:
        self._outside = outside
        self._node = f"{machine.name}#{machine.boots}"

    async def execute(self, work: Work) -> Outcome:
        outside, dice = self._outside, self._outside.dice
        outside.called(work, self._node)
        roll = 1.0 if outside.is_calm else dice.random()
        if roll < 0.05:
            await asyncio.sleep(dice.uniform(5, LONGEST_SECONDS))
        elif roll < 0.7:
            await asyncio.sleep(dice.expovariate(3))
        if not outside.is_calm and dice.random() < 0.15:
            return Outcome(ended=Ended.FAILED, reason="502", error_code="HTTP_502", outcome_unknown=dice.random() < 0.5)
        if not outside.is_calm and dice.random() < 0.03:
            return Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, reason="404", error_code="HTTP_404")
        nonce = f"{self._node}-{dice.getrandbits(40):x}"
        return Outcome(
            ended=Ended.COMPLETED, output=f'{{"nonce":"{nonce}","token":{work.fencing_token}}}'.encode()
        )

    async def close(self) -> None:
        pass


def with_calls(document: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """The definition, with calls instead of some of the workers' tasks, compensations included."""
    made = copy.deepcopy(document)
    _convert(made["tasks"], dice)
    return made


def _convert(tasks: list[dict[str, Any]], dice: random.Random) -> None:
    for task in tasks:
        if task["type"] == "SIMPLE" and dice.random() < 0.6:
            _call(task, f"call_{task['name']}")
        undo = task.get("compensateWith")
        if undo is not None and dice.random() < 0.5:
            _call(undo, "call_undo")
        for branch in (*task.get("forkTasks", ()), *task.get("decisionCases", {}).values()):
            _convert(branch, dice)
        _convert(task.get("defaultCase", []), dice)


def _call(task: dict[str, Any], name: str) -> None:
    task["type"], task["name"] = "HTTP", name
    task["inputParameters"] = {**task.get("inputParameters", {}), "uri": "http://there"}
    definition = {key: value for key, value in task["taskDefinition"].items() if key not in LIMITS}
    task["taskDefinition"] = {**definition, "name": name}
