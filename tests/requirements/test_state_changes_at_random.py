"""Whatever happens to random workflows: each change of each task is told, once, and the last is what it is."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.engine import limits
from orchestrator.engine.definitions.model import Change
from orchestrator.engine.model import TaskStatus
from tests.engine.driver import Driver
from tests.engine.scenario import play
from tests.requirements.listening import heard, listen

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "40"))
LETTERS = {"onScheduled": "s", "onStart": "b", "onSuccess": "e", "onFailed": "e", "onCancelled": "e"}
# Scheduled, begun, ended; opened again and ended again. What is skipped, or has no room, only ends.
LIFE = re.compile("(s(b?e(be)*)?|sb|sb?e(be)*b|e)")


class Telling(Driver):
    """Every task announces all changes of its state, every workflow its statuses, and somebody listens."""

    def register(self, *documents: dict[str, Any]) -> None:
        for document in documents:
            document.update(workflowStatusListenerEnabled=True, workflowStatusListenerSink="conductor")
            for task in tasks_in(document["tasks"]):
                whose = task.get("taskReferenceName", "step")
                payload = {"n": "${workflow.variables.n}", "own": [f"${{{whose}.output}}", f"${{{whose}.input}}"]}
                task["onStateChange"] = {",".join(Change): [{"type": "t", "payload": payload}]}
            listen(self, f"conductor:{document['name']}:t", f"conductor:{document['name']}:status")
        super().register(*documents)

    def restart(self, *, cold: bool = False) -> Driver:
        other = super().restart(cold=cold)
        other.__class__ = Telling
        return other


def tasks_in(value: Any) -> list[dict[str, Any]]:
    """Of a definition, with those of all branches and the compensations."""
    if isinstance(value, list):
        return [task for each in value for task in tasks_in(each)]
    found = [value] if "taskReferenceName" in value else []
    for key in ("forkTasks", "loopOver", "defaultCase"):
        found += tasks_in(value.get(key, []))
    for branch in value.get("decisionCases", {}).values():
        found += tasks_in(branch)
    return [*found, *([value["compensateWith"]] if "compensateWith" in value else [])]


def check(driver: Driver) -> None:
    lives: dict[str, list[tuple[str, str]]] = {}
    statuses: dict[str, str] = {}
    for _, told in heard(driver):
        if "taskId" in told:
            lives.setdefault(told["taskId"], []).append((told["stateChange"], told["taskStatus"]))
        else:
            # The others are deleted now and then, and begin anew.
            assert told["workflowId"] in ("w0", "w1", "w2") or statuses.get(told["workflowId"]) != told["status"]
            statuses[told["workflowId"]] = told["status"]
    assert lives
    for life in lives.values():
        assert LIFE.fullmatch("".join(LETTERS[change] for change, _ in life)), life
    for key in driver.state.hot_keys():
        hot = driver.hot(key[1])
        assert statuses.get(key[1], "RUNNING") == hot.execution.status.name
        for attempt in hot.tasks.values():
            # Neither what a fork was given, nor the undoing of a sub-workflow by itself, announces anything.
            if not attempt.expansion and (attempt.type != "SUB_WORKFLOW" or not attempt.compensates):
                is_forgiven = attempt.status is TaskStatus.COMPLETED_WITH_ERRORS
                assert lives[attempt.task_id][-1][1] == attempt.status.name or is_forgiven, attempt


def quickly(**more: Any) -> settings:
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(deadline=None, derandomize="ENGINE_EXAMPLES" not in os.environ, suppress_health_check=slow, **more)


@quickly(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32), events=st.integers(0, 60))
def test_each_change_is_told_once(seed: int, events: int) -> None:
    check(play(seed, events, Telling()))


@quickly(max_examples=max(EXAMPLES // 4, 1))
@given(seed=st.integers(0, 2**32), every=st.integers(1, 7))
def test_so_it_is_across_changes_of_the_leader(seed: int, every: int) -> None:
    plain = play(seed, 30, Telling())
    restored = play(seed, 30, Telling(), restart_every=every)
    check(restored)
    assert heard(restored) == heard(plain)
    assert restored.rows() == plain.rows()


@quickly(max_examples=max(EXAMPLES // 4, 1))
@given(seed=st.integers(0, 2**32), events=st.integers(0, 60), bound=st.integers(1, 4))
def test_so_it_is_in_small_steps(seed: int, events: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(limits, "TRANSITIONS_PER_STEP", bound)
        check(play(seed, events, Telling(), messages=bound))
