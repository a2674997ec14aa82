"""Operators in operators, drawn at random, come to the same when the leader is killed between any two entries.

A few workflows, and a sample of the kills of each. The larger form, `RANDOM_WORKFLOWS=100 pytest -k random_workflows`,
takes so many workflows, and every kill of each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from orchestrator.testing import fail
from orchestrator_client import TerminalError, WrongState, task
from tests.testing_kit.exactness import Json, Story, a, b, c, check_each_kill, d, element, step, undone, workflow

MORE = int(os.environ.get("RANDOM_WORKFLOWS", "0"))
FEW, KILLS = 5, 8


@task(name="y")
async def fragile(n: Any) -> Json:
    return {"n": n}


@task(name="x")
async def broken(n: Any) -> Json:
    return {"n": n}


class Definitions:
    """Draws workflows whose outcome does not depend on which branch of a fork is faster."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._count = 0
        self._steps: tuple[Callable[..., Json], ...] = (step, undone, undone)

    def whole(self) -> Json:
        """It fails at its end as often as not, and undoes what it has done."""
        tasks = self.sequence(3)
        if self._rng.random() < 0.5:
            tasks.append(step("x"))
        return workflow("flow", *tasks)

    def fragile(self) -> Json:
        """It fails at first, and nothing of it can be undone."""
        self._steps = (step,)
        return workflow("flow", *self.sequence(2), step("y"), *self.sequence(3))

    def sequence(self, depth: int) -> list[Json]:
        nested: list[Callable[[int], list[Json]]] = [self._loop, self._fork, self._fan, self._switch, self._sub]
        flat: list[Callable[[int], list[Json]]] = [self._step, self._step, self._script, self._wait, self._optional]
        kinds = self._rng.choices([*flat, *nested] if depth > 1 else flat, k=self._rng.randint(1, 3))
        return [made for kind in kinds for made in kind(depth - 1)]

    def _named(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _step(self, depth: int) -> list[Json]:
        kind = self._rng.choice(self._steps)
        return [kind(self._rng.choice("abcd"), self._count, reference=self._named("t"))]

    def _script(self, depth: int) -> list[Json]:
        given = {"n": self._count, "evaluatorType": "javascript", "expression": "$.n * 2"}
        made = element("INLINE", self._named("i"), given)
        if self._rng.random() < 0.5:
            return [made]
        kept = {self._named("k"): f"${{{made['name']}.output.result}}"}
        return [made, element("SET_VARIABLE", self._named("v"), kept)]

    def _wait(self, depth: int) -> list[Json]:
        return [element("WAIT", self._named("w"), {"duration": self._rng.choice(("1s", "90s"))})]

    def _optional(self, depth: int) -> list[Json]:
        return [step("x", reference=self._named("o"), optional=True)]

    def _loop(self, depth: int) -> list[Json]:
        reference, count = self._named("l"), self._rng.randint(1, 3)
        given = {"keepLastN": 1} if self._rng.random() < 0.4 else None
        how: Json = {"items": list(range(count))}
        if self._rng.random() < 0.5:
            how = {"loopCondition": f"$.{reference}['iteration'] < {count}"}
        return [element("DO_WHILE", reference, given, loopOver=self.sequence(depth), **how)]

    def _fork(self, depth: int) -> list[Json]:
        branches = [self.sequence(depth) for _ in range(self._rng.randint(1, 3))]
        joined = [branch[-1]["taskReferenceName"] for branch in branches]
        join = element("JOIN", self._named("j"), joinOn=joined)
        return [element("FORK_JOIN", self._named("f"), forkTasks=branches), join]

    def _fan(self, depth: int) -> list[Json]:
        if self._rng.random() < 0.5:
            given: Json = {"forkTaskName": "a", "forkTaskInputs": [{"n": n} for n in range(self._rng.randint(0, 3))]}
            return [element("FORK_JOIN_DYNAMIC", self._named("f"), given), element("JOIN", self._named("j"))]
        tasks = [made for _ in range(self._rng.randint(1, 2)) for made in self._step(0)]
        forked = element(
            "FORK_JOIN_DYNAMIC",
            self._named("f"),
            {"tasks": tasks, "inputs": {made["taskReferenceName"]: {"n": 1} for made in tasks}},
            dynamicForkTasksParam="tasks",
            dynamicForkTasksInputParamName="inputs",
        )
        return [forked, element("JOIN", self._named("j"))]

    def _switch(self, depth: int) -> list[Json]:
        how: Json = {"evaluatorType": "value-param", "expression": "v"}
        if self._rng.random() < 0.5:
            how = {"evaluatorType": "javascript", "expression": "$.v"}
        cases = {"1": self.sequence(depth), "2": self.sequence(depth)}
        how |= {"decisionCases": cases, "defaultCase": self.sequence(depth)}
        return [element("SWITCH", self._named("s"), {"v": self._rng.randint(1, 3)}, **how)]

    def _sub(self, depth: int) -> list[Json]:
        inner = workflow(self._named("child"), *self.sequence(depth))
        return [element("SUB_WORKFLOW", self._named("s"), subWorkflowParam={"workflowDefinition": inner})]


@pytest.mark.parametrize("seed", range(MORE or FEW))
def test_random_workflows(seed: int) -> None:
    definition = Definitions(random.Random(seed)).whole()

    async def tell(story: Story) -> None:
        story.serve(a, b, c, d, fail(broken, TerminalError("NO")))
        await story.register(definition)
        await (await story.cluster.client.start("flow", {}, id="w")).wait(3600)

    check_each_kill(tell, seed=seed, at_most=None if MORE else KILLS, in_order=False)


@pytest.mark.parametrize("seed", range(MORE or FEW))
def test_random_workflows_that_run_again(seed: int) -> None:
    """They are retried, rerun from a task, and restarted; what is refused is refused each time.

    The task stands in no fork: what was made after it does not depend on which branch was faster.
    """
    rng = random.Random(seed)
    definitions = Definitions(rng)
    definition = rng.choice((definitions.fragile, definitions.whole))()
    effects = rng.choice(("keep", "compensate_first"))
    outer = [made["taskReferenceName"] for made in definition["tasks"]]
    place = rng.random()

    async def tell(story: Story) -> list[str]:
        story.serve(a, b, c, d, fail(broken, TerminalError("NO")), fail(fragile, TerminalError("NOT YET"), times=1))
        await story.register(definition)
        run = await story.cluster.client.start("flow", {}, id="w")
        ends: list[str] = []

        async def then(operation: Awaitable[None] | None) -> list[Any]:
            try:
                if operation is not None:
                    await operation
            except WrongState as error:
                ends.append(error.reason)
            await run.wait(3600)
            await story.cluster.advance(seconds=5)
            seen = await run.get(tasks=True)
            ends.append(f"{seen.status} {seen.run} {seen.compensation.state}")
            return [one for one in seen.tasks if one.reference in outer and not one.compensates]

        await then(None)
        tasks = await then(run.retry())
        await then(run.rerun(tasks[int(place * len(tasks))].task_id, effects=effects))
        await then(run.restart(effects=effects))
        return ends

    check_each_kill(tell, seed=seed, at_most=None if MORE else KILLS, in_order=False)
