"""Stories that have to end the same wherever the leader is killed: what they come to, and how it is compared.

What a story leaves is everything that can be seen: all executions with all of their attempts, what workers and services
were asked to do, and what the story itself answers. Ids are made of the log's indexes, which a kill moves: they are
replaced by the order in which they are found. So are times, but for those that a schedule says: whole minutes.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.testing import Cluster, every_leader_kill
from orchestrator.testing.scripts import Scripted
from orchestrator.testing.serving import Calls
from orchestrator_client import Execution, Task, TaskAttempt, TaskContext, task

SEED = 11
# Until what is left to do after the story's last answer is done, and the dead node is back.
QUIET_SECONDS = 10.0
IDS = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b")
TIMES = re.compile(r"(\"_executedTime\": )?\b(1[67]\d{11})\b")

Json = dict[str, Any]


def does(name: str) -> Task[..., Any]:
    """A task that says who it is and what it was given, and can be undone by `undo_` with its name."""

    async def step(n: Any, ctx: TaskContext) -> Json:
        return {"did": name, "n": n}

    async def undo(n: Any, done: Any) -> Json:
        return {"undid": name, "n": n}

    made = task(name=name)(step)
    made.compensation(name=f"undo_{name}")(undo)
    return made


a, b, c, d = map(does, "abcd")


@dataclass
class Story:
    """What a story is given."""

    cluster: Cluster
    asked: list[Calls] = field(default_factory=list)
    called: list[Calls] = field(default_factory=list)

    def serve(self, *tasks: Task[..., Any] | Scripted) -> Calls:
        """A worker of these, which notes its calls; of all four if nothing is named."""
        self.asked.append(self.cluster.serve(*(tasks or (a, b, c, d))))
        return self.asked[-1]

    def stub(self, handler: Callable[[Json], Any]) -> Calls:
        """A service that HTTP tasks call."""
        self.called.append(self.cluster.stub("system/http", handler))
        return self.called[-1]

    async def register(self, *definitions: Json) -> None:
        """Also the tasks."""
        await self.cluster.client.register(*definitions, *(one.definition() for one in (a, b, c, d)), overwrite=True)

    async def start(self, *tasks: Json, id: str = "w", given: Json | None = None, **fields: Any) -> Any:
        """An execution of these tasks."""
        return await self.cluster.client.start(workflow("flow", *tasks, **fields), given or {}, id=id)

    async def run(self, *tasks: Json, given: Json | None = None, **fields: Any) -> Execution:
        """Such an execution, at its end."""
        return await self.ended(await self.start(*tasks, given=given, **fields))

    async def ended(self, run: Any) -> Execution:
        execution: Execution = await run.wait(600)
        return execution

    async def until(self, is_so: Callable[[Execution], bool], workflow_id: str = "w") -> Execution:
        """The execution once it is so."""
        async for execution in self.cluster.client.watch(workflow_id, tasks=True):
            if is_so(execution):
                return execution
        raise AssertionError(f"{workflow_id} has ended, and it was never so")

    async def begun(self, reference: str, workflow_id: str = "w") -> Execution:
        """The execution once a task of this reference is in progress, or has ended."""
        return await self.until(
            lambda seen: any(one.reference == reference and one.status != "SCHEDULED" for one in seen.tasks),
            workflow_id,
        )


Told = Callable[[Story], Awaitable[Any]]


def workflow(name: str, *tasks: Json, **fields: Any) -> Json:
    return {"name": name, "version": 1, "schemaVersion": 2, "tasks": list(tasks), **fields}


def element(kind: str, reference: str, given: Json | None = None, **fields: Any) -> Json:
    return {"name": reference, "taskReferenceName": reference, "type": kind, "inputParameters": given or {}, **fields}


def step(name: str, n: Any = None, *, reference: str = "", **fields: Any) -> Json:
    """A task of a worker, which is not retried unless the fields say so, and can be undone if they do."""
    made = element("SIMPLE", reference or name, {"n": n}, **{"retryCount": 0, **fields})
    return {**made, "name": name}


def undone(name: str, n: Any = None, **fields: Any) -> Json:
    return step(name, n, compensateWith={"name": f"undo_{name}", "type": "SIMPLE"}, **fields)


def same_wherever_the_leader_dies(tell: Told) -> Callable[[], None]:
    """Makes a test of a story: whatever it leaves without a kill has to be left with each kill."""

    def test() -> None:
        check_each_kill(tell)

    test.__name__, test.__doc__, test.__module__ = tell.__name__, tell.__doc__, tell.__module__
    return test


def check_each_kill(tell: Told, *, seed: int = SEED, at_most: int | None = None, in_order: bool = True) -> None:
    """Unless `in_order`, branches may overtake each other: effects are compared, and not their order."""
    with Cluster(seed=seed) as undisturbed:
        expected = undisturbed.run(_left(tell, undisturbed, in_order))

    async def told(cluster: Cluster) -> None:
        left = await _left(tell, cluster, in_order)
        assert left == expected, _difference(expected, left)

    every_leader_kill(seed=seed, at_most=at_most)(told)()


async def _left(tell: Told, cluster: Cluster, in_order: bool) -> Any:
    story = Story(cluster)
    answer = await tell(story)
    await cluster.advance(seconds=QUIET_SECONDS)
    client = cluster.client
    ids = [found.workflow_id async for found in client.search()]
    executions = [_shown(await client.get(workflow_id, tasks=True), in_order) for workflow_id in ids]
    for calls in story.asked:
        _check(calls)
    effects = [calls.effects if in_order else sorted(calls.effects) for calls in (*story.asked, *story.called)]
    return _without_ids([answer, sorted(executions, key=_without_ids_of), effects])


def _check(calls: Calls) -> None:
    """No worker has died: each step took effect once, under a key of its own."""
    effective = [call.key for call in calls.all if call.took_effect]
    assert len(effective) == len(set(effective)), calls.all


def _died_with_its_node(attempt: TaskAttempt) -> bool:
    """What nodes execute is executed by another one, in another attempt, when they die; no worker has died."""
    return attempt.type != "SIMPLE" and attempt.reason == "WORKER_LOST"


def _shown(execution: Execution, in_order: bool) -> Json:
    undone = [step.reference for step in execution.compensation.done]
    tasks = sorted(execution.tasks, key=lambda one: (one.reference, one.compensates, one.sequence))
    return {
        "id": execution.workflow_id,
        "name": execution.name,
        "version": execution.version,
        "status": execution.status,
        "reason": execution.reason,
        "failed": execution.failed_task,
        "input": execution.input,
        "output": execution.output,
        "variables": execution.variables,
        "run": execution.run,
        "compensation": execution.compensation.state,
        "done": undone if in_order else sorted(undone),
        "left": [step.reference for step in execution.compensation.left],
        "tasks": [
            {
                "task": f"{one.reference} {one.name} {one.type} {one.attempt} {one.iteration} {one.compensates}",
                "status": one.status,
                "input": one.input,
                "output": one.output,
                "reason": one.reason,
            }
            for one in tasks
            if not _died_with_its_node(one)
        ],
    }


def _difference(expected: Any, left: Any) -> str:
    lines = (json.dumps(one, indent=1, sort_keys=True).splitlines() for one in (expected, left))
    return "\n".join(difflib.unified_diff(*lines, "without a kill", "with one", lineterm="", n=8))


def _without_ids_of(value: Any) -> str:
    return IDS.sub("", json.dumps(value))


def _without_ids(value: Any) -> Any:
    found: dict[str, str] = {}
    text = IDS.sub(lambda match: found.setdefault(match[0], f"<{len(found) + 1}>"), json.dumps(value))
    return json.loads(TIMES.sub(_without_time, text))


def _without_time(match: re.Match[str]) -> str:
    key, time_ms = match.groups(default="")
    return match[0] if not key and int(time_ms) % 60_000 == 0 else f'{key}"a time"'
