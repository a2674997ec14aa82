"""Operators and retries do what a deliberately dumb second model does, whatever is defined and whatever happens."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.engine import limits, queries
from orchestrator.engine.choices import DeadlineKind, TerminateCompensation
from orchestrator.engine.commands import (
    ExpireDeadline,
    OpenSession,
    PauseWorkflow,
    ResumeWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.model import SessionKind, TaskStatus, TimerKind, WorkflowStatus
from tests.engine.driver import Driver, workflow
from tests.engine.dumb import Dumb, references

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "250"))
GIVEN = {"case": "a", "list": [1, 2]}
OUTPUTS = ({}, {"v": 1}, {"v": "x", "w": [2]})
RETRIES = {
    "n0": {"name": "n0", "retryCount": 1, "retryDelaySeconds": 3},
    "n1": {"name": "n1", "retryCount": 2, "retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 2},
    "n2": {"name": "n2", "retryCount": 0},
}


class Definitions:
    """Makes definitions of all operators that the second model knows."""

    def __init__(self, rng: random.Random, name: str) -> None:
        self._rng, self._name, self._count = rng, name, 0
        self._made: list[str] = []

    def make(self) -> dict[str, Any]:
        tasks = self._sequence(3 if self._name == "w" else 1, variables=True)
        shown = {one: f"${{{one}.output.v}}" for one in self._rng.sample(self._made, min(3, len(self._made)))}
        return workflow(self._name, *tasks, variables={"n": 0}, outputParameters={"k": 1, **shown})

    def _reference(self) -> str:
        self._count += 1
        return f"{self._name}{self._count}"

    def _sequence(self, depth: int, *, variables: bool) -> list[dict[str, Any]]:
        """`variables`: whether nothing else is going on that could set them, or read them, at the same time."""
        tasks: list[dict[str, Any]] = []
        for _ in range(self._rng.randint(1, 3)):
            kinds = ["simple"] * 5 + ["noop", "wait", "inline"] + ["set_variable"] * variables
            if depth:
                kinds += ["switch", "switch", "fork", "fork", "loop", "loop", "fan"]
            if depth and self._name == "w":
                kinds += ["sub", "sub"]
            kind = self._rng.choice(kinds)
            tasks += getattr(self, f"_{kind}")(depth - 1, variables)
            if kind == "simple" and self._rng.random() < 0.05:
                status = self._rng.choice(("COMPLETED", "FAILED", "TERMINATED"))
                tasks += [self._task("TERMINATE", inputParameters={"terminationStatus": status})]
        return tasks

    def _task(self, kind: str, **fields: Any) -> dict[str, Any]:
        reference = self._reference()
        return {"name": fields.pop("name", reference), "taskReferenceName": reference, "type": kind, **fields}

    def _lenient(self, chance: float) -> dict[str, Any]:
        roll = self._rng.random()
        return {"optional": True} if roll < chance else {"permissive": True} if roll < 2 * chance else {}

    def _simple(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        rng = self._rng
        task = self._task("SIMPLE", name=rng.choice(tuple(RETRIES)), **self._lenient(0.15))
        parameters = {"own": 7}
        if self._made:
            parameters["from"] = f"${{{rng.choice(self._made)}.output.v}}"
        if variables:
            parameters["n"] = "${workflow.variables.n}"
        task["inputParameters"] = parameters
        if rng.random() < 0.4:
            task["taskDefinition"] = {
                "name": task["name"],
                "retryCount": rng.randint(0, 3),
                "retryDelaySeconds": rng.randint(0, 3),
                "retryLogic": rng.choice(("FIXED", "LINEAR_BACKOFF", "EXPONENTIAL_BACKOFF")),
                "backoffScaleFactor": rng.randint(1, 3),
                "maxRetryDelaySeconds": rng.choice((0, 4)),
            }
        if rng.random() < 0.2:
            task["retryCount"] = rng.randint(0, 1)
        if rng.random() < 0.2:
            task["startDelay"] = rng.randint(1, 5)
        self._made.append(task["taskReferenceName"])
        return [task]

    def _inline(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        return [self._task("INLINE", inputParameters={"expression": "1"}, **self._lenient(0.3))]

    def _noop(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        return [self._task("NOOP")]

    def _set_variable(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        return [self._task("SET_VARIABLE", inputParameters={"n": self._rng.randint(1, 9)})]

    def _wait(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        task = self._task("WAIT")
        if self._rng.random() < 0.5:
            return [{**task, "inputParameters": {"duration": f"{self._rng.randint(1, 4)} seconds"}}]
        return [{**task, "inputParameters": {"signal": task["taskReferenceName"]}}]

    def _switch(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        task = self._task("SWITCH", evaluatorType="value-param", expression="case")
        task["inputParameters"] = {"case": self._rng.choice(("a", "b", "z", "${workflow.input.case}"))}
        if self._rng.random() < 0.5:
            task.update(evaluatorType="javascript", expression="$.case", **self._lenient(0.2))
        task["decisionCases"] = {"a": self._sequence(depth, variables=variables), "b": []}
        if self._rng.random() < 0.5:
            task["defaultCase"] = self._sequence(depth, variables=variables)
        return [task]

    def _fork(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        branches = [self._sequence(depth, variables=False) for _ in range(self._rng.randint(1, 3))]
        branches += [[]] * (self._rng.random() < 0.2)
        join, inside = self._task("JOIN"), [one for branch in branches for one in references(branch)]
        # The last of each branch, some of them all, or nobody.
        roll = self._rng.random()
        if roll < 0.4:
            join["joinOn"] = [branch[-1]["taskReferenceName"] for branch in branches if branch]
        elif roll < 0.85:
            join["joinOn"] = self._rng.sample(inside, self._rng.randint(1, len(inside)))
        return [self._task("FORK_JOIN", forkTasks=branches), join]

    def _fan(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        inputs = [{"x": number} for number in range(self._rng.randint(0, 3))]
        given = {"forkTaskName": self._rng.choice(tuple(RETRIES)), "forkTaskInputs": inputs}
        return [self._task("FORK_JOIN_DYNAMIC", inputParameters=given), self._task("JOIN")]

    def _loop(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        task = self._task("DO_WHILE", loopOver=self._sequence(depth, variables=variables), **self._lenient(0.2))
        how = self._rng.choice(("condition", "items", "both"))
        if how != "items":
            task["loopCondition"] = "$.x"
        if how != "condition":
            task["items"] = self._rng.choice(([], [1, 2, 3], "${workflow.input.list}"))
        if self._rng.random() < 0.4:
            task["inputParameters"] = {"keepLastN": self._rng.randint(1, 2)}
        return [task]

    def _sub(self, depth: int, variables: bool) -> list[dict[str, Any]]:
        task = self._task("SUB_WORKFLOW", subWorkflowParam={"name": "c"}, **self._lenient(0.15))
        task["inputParameters"] = {"list": "${workflow.input.list}", "case": self._rng.choice("abz")}
        if self._rng.random() < 0.5:
            task["taskDefinition"] = {"name": task["name"], "retryCount": 1, "retryDelaySeconds": 2}
        return [task]


class Both:
    """The engine and the second model, given the same."""

    def __init__(self, seed: int, pauses: bool = True) -> None:
        self.pauses = pauses
        self.rng = rng = random.Random(seed)
        self.definitions = {name: Definitions(rng, name).make() for name in ("c", "w")}
        # Before any other, so that references of dynamic forks are the same everywhere: a second one names the fork.
        nothing = [
            {"name": "x", "taskReferenceName": "x", "type": "FORK_JOIN_DYNAMIC",
             "inputParameters": {"forkTaskName": "n0", "forkTaskInputs": []}},
            {"name": "y", "taskReferenceName": "y", "type": "JOIN"},
        ]
        for definition in self.definitions.values():
            definition["tasks"][:0] = nothing
        self.driver = Driver()
        self.driver.register(*self.definitions.values())
        for fields in RETRIES.values():
            self.driver.register_task(**fields)
        self.driver.worker("s", *RETRIES, slots=1000)
        system = ("system/script", "system/jq")
        self.driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", system, 1000, 10_000))
        self.driver.start("w", given=json.dumps(GIVEN).encode())
        self.model = Dumb(self.definitions, "w", RETRIES, GIVEN, self.driver.now_ms)

    def pairs(self) -> list[tuple[str, Dumb]]:
        """Each execution of the engine, and what the second model has for it."""
        found, queue = [], [("w", self.model)]
        while queue:
            workflow_id, model = queue.pop()
            found.append((workflow_id, model))
            for reference, many in model.children.items():
                ids = [one.child for one in self.attempts(workflow_id, reference) if one.child]
                queue += zip(ids, many, strict=True)
        return found

    def attempts(self, workflow_id: str, reference: str) -> list[Any]:
        hot = self.driver.hot(workflow_id)
        return [hot.tasks[sequence] for sequence in hot.attempts_of.get(reference, ())]

    def compare(self) -> None:
        self.driver.verify_waiting()
        for workflow_id, model in self.pairs():
            hot = self.driver.hot(workflow_id)
            assert hot.execution.status.name == ("PAUSED" if self._is_paused(model) else model.status)
            statuses = {
                reference: [hot.tasks[sequence].status.name for sequence in sequences]
                for reference, sequences in hot.attempts_of.items()
            }
            assert statuses == {name: [one.status for one in tries] for name, tries in model.tries.items()}
            leased = [lease for lease in self.driver.state.leases.values() if lease.workflow_id == workflow_id]
            held = sorted(hot.tasks[lease.task_sequence].reference for lease in leased if not lease.fenced)
            assert held == model.asked()
            self._compare_values(workflow_id, model)
        by_itself = (TimerKind.TASK_READY, TimerKind.WAIT)
        timers = sorted(one.fire_ms for one in self.driver.state.timers.values() if one.kind in by_itself)
        assert timers == self.model.dues()

    def _is_paused(self, model: Dumb) -> bool:
        return model.is_paused and model.status == "RUNNING"

    def _compare_values(self, workflow_id: str, model: Dumb) -> None:
        driver, hot = self.driver, self.driver.hot(workflow_id)
        for reference, tries in model.tries.items():
            attempt, last = self.attempts(workflow_id, reference)[-1], tries[-1]
            shown = msgspec.json.decode(queries.output(driver.state, hot, attempt) or b"{}")
            if attempt.type == "SIMPLE":
                assert shown == last.output
                assert msgspec.json.decode(queries.resolved_input(driver.state, hot, attempt)) == last.given
            elif attempt.type == "DO_WHILE" and not model.is_paused:
                assert shown["iteration"] == last.output["iteration"]
            elif attempt.type == "JOIN" and last.status in ("COMPLETED", "COMPLETED_WITH_ERRORS"):
                simple = {name for name, one in model.tries.items() if "own" in one[-1].given or "x" in one[-1].given}
                wanted = {name: output for name, output in last.output.items() if name in simple}
                assert {name: output for name, output in shown.items() if name in simple} == wanted
        if model.status not in ("RUNNING", "COMPLETED", "FAILED"):
            return
        if model.status != "RUNNING":
            by_task = any(one.type == "TERMINATE" for one in hot.tasks.values())
            template = {} if by_task else model.definition["outputParameters"]
            shown = msgspec.json.decode(hot.load(hot.execution.output))
            assert shown == {key: model._value(value) for key, value in template.items()}

    def happens(self) -> bool:
        """One thing that may happen, to both; False if nothing can."""
        rng, driver = self.rng, self.driver
        choices: list[tuple[Any, ...]] = []
        for workflow_id, model in self.pairs():
            choices += [(self._answer, workflow_id, model, one) for one in model.asked()]
            choices += [(self._signal, workflow_id, model, one) for one in model.asked("signal")]
        dues = self.model.dues()
        if dues:
            choices.append((self._wait, dues[0]))
        if self.pauses and self.model.status == "RUNNING" and (self.model.is_paused or rng.random() < 0.15):
            choices.append((self._turn,))
        if not choices:
            return False
        if rng.random() < 0.005:
            choices = [(self._terminate,)]
        do, *what = rng.choice(choices)
        do(*what)
        self.model.settle()
        while driver.header().status is WorkflowStatus.COMPENSATING:
            # It may have to wait for its sub-workflows, and does so for all that workers hold. They say nothing.
            driver.wait(30_000)
        return True

    def _answer(self, workflow_id: str, model: Dumb, reference: str) -> None:
        attempt, rng = self.driver.latest(reference, workflow_id), self.rng
        roll, output = rng.random(), dict(rng.choice(OUTPUTS))
        if attempt.type != "SIMPLE":
            output = {"result": rng.choice(("a", "b", "z")) if attempt.type == "SWITCH" else rng.random() < 0.5}
            status = TaskStatus.COMPLETED if roll < 0.96 else TaskStatus.FAILED_WITH_TERMINAL_ERROR
        elif roll < 0.04:
            model.answer(reference, "TIMED_OUT", {})
            self.driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, attempt.fencing_token))
            return
        else:
            status = TaskStatus.COMPLETED if roll < 0.82 else TaskStatus.FAILED
            status = TaskStatus.FAILED_WITH_TERMINAL_ERROR if roll > 0.985 else status
        model.answer(reference, status.name, output)
        self.driver.give(attempt, json.dumps(output).encode(), status, "no", workflow_id)

    def _signal(self, workflow_id: str, model: Dumb, reference: str) -> None:
        attempt = self.driver.latest(reference, workflow_id)
        model.answer(reference, "COMPLETED", {"v": 3})
        self.driver.ok(SignalWorkflow("default", workflow_id, attempt.signal, b'{"v":3}'))

    def _wait(self, due: int) -> None:
        self.driver.wait(due - self.driver.now_ms)
        self.model.clock[0] = due

    def _turn(self) -> None:
        self.model.is_paused = not self.model.is_paused
        self.driver.ok((PauseWorkflow if self.model.is_paused else ResumeWorkflow)("default", "w"))

    def _terminate(self) -> None:
        if self.model.status == "RUNNING":
            self.driver.ok(TerminateWorkflow("default", "w", "stop", TerminateCompensation.SKIP))
            self.model.end("TERMINATED")


def play(seed: int, pauses: bool = True) -> None:
    both = Both(seed, pauses)
    both.compare()
    while both.happens():
        both.compare()
    assert both.model.status != "RUNNING"


@settings(max_examples=EXAMPLES, deadline=None, derandomize="ENGINE_EXAMPLES" not in os.environ)
@given(seed=st.integers(0, 2**32))
def test_the_engine_does_what_a_dumb_model_does(seed: int) -> None:
    """Statuses of all attempts, what workers hold, when something goes on by itself, inputs and outputs: after each
    event, in each execution."""
    play(seed)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ENGINE_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32), bound=st.integers(1, 3))
def test_so_it_does_in_small_steps(seed: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step may do so little that everything goes on in later ones.

    Never paused: in which order it then goes on in several places is no rule.
    """
    with monkeypatch.context() as patched:
        patched.setattr(limits, "TRANSITIONS_PER_STEP", bound)
        play(seed, pauses=False)
