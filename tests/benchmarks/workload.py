"""What is executed, as a user would write it: needs nothing but the SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator_client import Workflow, task


@dataclass
class Parcel:
    """About 100 bytes of JSON."""

    number: int
    text: str = "x" * 72


@task()
async def first(parcel: Parcel) -> Parcel:
    return parcel


@task()
async def second(parcel: Parcel) -> Parcel:
    return parcel


@task()
async def third(parcel: Parcel) -> Parcel:
    return parcel


@task()
async def branch(n: int) -> dict[str, int]:
    return {"n": n}


TASKS = (first, second, third, branch)

W3 = Workflow("bench-w3", version=1, input=Parcel)
W3.returns(number=W3.step(third, W3.step(second, W3.step(first, W3.input))).number)

W1 = Workflow("bench-w1", version=1, input=Parcel)
W1.returns(number=W1.step(first, W1.input).number)

WAITING = Workflow("bench-waiting", version=1, input=Parcel)
WAITING.wait(duration_ms=24 * 3_600_000)

FAN_OUT: dict[str, Any] = {
    "name": "bench-fan-out", "version": 1, "schemaVersion": 2,
    "tasks": [
        {
            "name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN_DYNAMIC",
            "inputParameters": {"forkTaskName": branch.name, "forkTaskInputs": "${workflow.input.items}"},
        },
        {"name": "join", "taskReferenceName": "join", "type": "JOIN"},
    ],
    "outputParameters": {"joined": "${join.output}"},
}

LOOP: dict[str, Any] = {
    "name": "bench-loop", "version": 1, "schemaVersion": 2,
    "tasks": [
        {
            "name": "loop", "taskReferenceName": "loop", "type": "DO_WHILE",
            "inputParameters": {"count": "${workflow.input.count}", "keepLastN": 10},
            "loopCondition": "$.loop['iteration'] < $.count",
            "loopOver": [
                {
                    "name": "keep", "taskReferenceName": "keep", "type": "SET_VARIABLE",
                    "inputParameters": {"reached": "${loop.output.iteration}"},
                },
            ],
        },
    ],
    "outputParameters": {"reached": "${workflow.variables.reached}"},
}
