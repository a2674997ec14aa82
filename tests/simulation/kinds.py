"""Definitions of what ends without a node's scripts: loops, dynamic tasks, other workflows, events."""

from __future__ import annotations

import random
from typing import Any

from tests.engine.scenario import NAMES, Definitions

CHILD = "k0"
TOLD = "told"
"""What the handlers of events start: an execution for each event."""

LIST = [1, 2, 3]


class Kinds(Definitions):
    """Those that `for_workers` leaves out, but for what people and scripts do."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, for_workers=True)

    def _kinds(self, depth: int) -> list[str]:
        kinds = [*super()._kinds(depth), "DYNAMIC", "EVENT", "EVENT"]
        if self._name != CHILD:
            kinds += ["SUB_WORKFLOW", "SUB_WORKFLOW", "START_WORKFLOW"]
        return [*kinds, *(["DO_WHILE"] * 3 + ["FORK_JOIN_DYNAMIC"] * 3 if depth else [])]

    def _dynamic(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task.update(dynamicTaskNameParam="n", inputParameters={"n": self._rng.choice(("n0", "n1", "NOOP"))})
        return [task]

    def _event(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["sink"] = f"conductor:{TOLD}"
        return [task]

    def _sub_workflow(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["subWorkflowParam"] = {"name": CHILD}
        task["optional"] = self._rng.random() < 0.3
        return [task]

    def _start_workflow(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["inputParameters"] = {"startWorkflow": {"name": CHILD, "correlationId": "nobody waits"}}
        return [task]

    def _do_while(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        rng, first = self._rng, len(self._made)
        task["loopOver"] = self._sequence(depth - 1)
        self._looped += self._made[first:]
        task["items"] = rng.choice(([], [1, 2], "${workflow.input.list}"))
        if rng.random() < 0.4:
            task["inputParameters"] = {"keepLastN": rng.randint(1, 2)}
        task["optional"] = rng.random() < 0.2
        return [task]

    def _fork_join_dynamic(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        rng, reference = self._rng, task["taskReferenceName"]
        if rng.random() < 0.5:
            task["inputParameters"] = {
                "forkTaskName": rng.choice(NAMES[:3]), "forkTaskInputs": rng.choice(([], [1, 2], LIST)),
            }
        else:
            undo = {"name": "undo", "type": "SIMPLE"}
            tasks = [
                {"name": "n0", "taskReferenceName": f"{reference}x", "type": "SIMPLE", "compensateWith": undo},
                {"name": "n1", "taskReferenceName": f"{reference}y", "type": "SIMPLE", "optional": True},
                {"name": "l", "taskReferenceName": f"{reference}z", "type": "DO_WHILE", "items": [1, 2],
                 "loopOver": [{"name": "n2", "taskReferenceName": f"{reference}b", "type": "SIMPLE"}]},
            ]
            task["inputParameters"] = {"tasks": rng.sample(tasks, rng.randint(0, 3)), "inputs": {}}
            task.update(dynamicForkTasksParam="tasks", dynamicForkTasksInputParamName="inputs")
        self._count += 1
        join = {"name": "JOIN", "taskReferenceName": f"j{self._count}", "type": "JOIN"}
        self._made.append(str(join["taskReferenceName"]))
        return [task, join]


def definitions(rng: random.Random) -> list[dict[str, Any]]:
    """Two to be started, and those that they start."""
    nothing = {"name": "nothing", "taskReferenceName": "nothing", "type": "NOOP"}
    told = {"name": TOLD, "version": 1, "schemaVersion": 2, "tasks": [nothing]}
    return [Kinds(rng).make("e0"), Kinds(rng).make("e1"), Kinds(rng).make(CHILD), told]


def handlers() -> list[dict[str, Any]]:
    """One for the events of each of them."""
    start = {"action": "start_workflow", "start_workflow": {"name": TOLD, "correlationId": TOLD}}
    return [
        {"name": f"on-{name}", "event": f"conductor:{name}:{TOLD}", "active": True, "actions": [start]}
        for name in ("e0", "e1", CHILD)
    ]
