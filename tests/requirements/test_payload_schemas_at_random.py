"""Whatever happens while payloads are looked at, in whatever order: the invariants hold, and there is an end.

Nodes and workers come and go, tell that a schema is kept or violated, or say nothing; operators do what they may.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from orchestrator.engine import system
from orchestrator.engine.choices import DeadlineKind, DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    ExpireDeadline,
    OpenSession,
    PauseWorkflow,
    ReleaseTask,
    RerunWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryCompensation,
    RetryWorkflow,
    TerminateWorkflow,
    UpdateTask,
)
from orchestrator.engine.model import CompensationState, SessionKind, TaskStatus, WorkflowStatus
from orchestrator.engine.resident import Lease
from orchestrator.engine.results import Rejected
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import element, fork

ANYTHING = {"name": "anything", "data": {}}
BOTH = {"inputSchema": ANYTHING, "outputSchema": ANYTHING, "enforceSchema": True}
NAMES = ("a", "b", "c", "d", "undo_a", "undo_b")


def checked(reference: str, undo: str = "", **fields: Any) -> dict[str, Any]:
    definition = {"name": reference, "retryCount": 1, "retryDelaySeconds": 1, "totalTimeoutSeconds": 900, **BOTH}
    return simple(reference, undo, taskDefinition=definition, **fields)


def child() -> dict[str, Any]:
    return workflow("child", checked("b", "undo_b"), **BOTH)


def flow(dice: random.Random) -> dict[str, Any]:
    """With something of everything that goes on while something else is looked at."""
    sub = element("SUB_WORKFLOW", "sub", subWorkflowParam={"name": "child"}, taskDefinition={"name": "sub", **BOTH})
    waits = element("WAIT", "waits", {"duration": "5s"}, taskDefinition={"name": "waits", **BOTH})
    loop = element("DO_WHILE", "loop", {"items": [1, 2]}, loopOver=[checked("c", optional=dice.random() < 0.5)])
    ends = element("TERMINATE", "ends", {"terminationStatus": "COMPLETED", "workflowOutput": {"n": 1}})
    last = [checked("d")] if dice.random() < 0.5 else [checked("d"), ends]
    branches = [[checked("a", "undo_a"), sub], [waits, loop], last]
    dice.shuffle(branches)
    return workflow("flow", *fork(*branches), **BOTH, failureWorkflow="child" if dice.random() < 0.3 else "")


class Play:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.driver = Driver()
        self.sessions = 0
        self.driver.register(child(), flow(self.dice))
        self.driver.start("flow")
        self.driver.wait(1)

    def serve(self) -> None:
        """There is a node, and there are workers."""
        served = {session.namespace for session in self.driver.state.sessions.values()}
        for namespace, names in ((system.NAMESPACE, (system.SCHEMA,)), ("default", NAMES)):
            if namespace not in served:
                self.sessions += 1
                kind, name = SessionKind.STREAM, f"s{self.sessions}"
                self.driver.ok(OpenSession(name, kind, namespace, "", name, names, self.dice.randint(1, 3), 10_000))

    def leases(self) -> list[Lease]:
        return [lease for _, lease in sorted(self.driver.state.leases.items()) if lease.started]

    def answer(self, lease: Lease, *, well: bool) -> None:
        if lease.fenced:
            self.driver.do(ReleaseTask(lease.session_id, lease.token))
            return
        not_done = (TaskStatus.IN_PROGRESS,) if lease.name in NAMES else ()
        bad = self.dice.choice((TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR, *not_done))
        status = TaskStatus.COMPLETED if well else bad
        code = "" if well else "SCHEMA_VIOLATION"
        of = (lease.namespace, lease.workflow_id, lease.task_id, lease.token)
        self.driver.do(CompleteTask(*of, status, b'{"n":1}', "" if well else "it is bad", code))

    def something(self) -> None:
        driver, dice = self.driver, self.dice
        what = dice.random()
        leases = self.leases()
        if what < 0.55 and leases:
            self.answer(dice.choice(leases), well=dice.random() < 0.85)
        elif what < 0.60 and leases:
            lease = dice.choice(leases)
            driver.do(ReleaseTask(lease.session_id, lease.token))
        elif what < 0.64 and leases:
            driver.do(ExpireDeadline(DeadlineKind.RESPONSE, dice.choice(leases).token))
        elif what < 0.69 and driver.state.sessions:
            driver.ok(CloseSession(dice.choice(sorted(driver.state.sessions))[0]))
        elif what < 0.82:
            self.serve()
        elif what < 0.86:
            driver.wait(dice.choice((1, 1_000, 5_000)))
        elif what < 0.88:
            self.driver = driver.restart()
        else:
            driver.do(self.operation())

    def operation(self) -> Any:
        dice = self.dice
        executions = sorted({attempt.child for attempt in self.driver.hot().tasks.values() if attempt.child})
        known = [one for one in executions if self.driver.state.execution(("default", one)) is not None]
        of = ("default", dice.choice(["w", *known]))
        attempts = list(self.driver.hot(of[1]).tasks.values())
        if not attempts:
            return PauseWorkflow(*of)
        attempt = dice.choice(attempts)
        status = dice.choice((TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.FAILED))
        return dice.choice(
            (
                PauseWorkflow(*of),
                ResumeWorkflow(*of),
                RetryWorkflow(*of, resume_sub_workflows=dice.random() < 0.5),
                RestartWorkflow(*of, effects=DeleteEffects.KEEP),
                RerunWorkflow(*of, task_id=attempt.task_id, effects=DeleteEffects.KEEP),
                UpdateTask(*of, attempt.reference, status, b'{"u":1}'),
                UpdateTask(*of, attempt.reference, status, b'{"u":1}'),
                TerminateWorkflow(*of, "enough", TerminateCompensation.RUN),
                RetryWorkflow(*of),
            )
        )

    def to_the_end(self) -> None:
        """From now on everything goes well."""
        for _ in range(40):
            self.serve()
            for key, hot in list(self.driver.state.hot_executions()):
                if hot.execution.paused_from is not None:
                    self.driver.ok(ResumeWorkflow(*key))
                if hot.execution.compensation is CompensationState.STUCK:
                    self.driver.ok(RetryCompensation(*key))
            for lease in self.leases():
                if (lease.token,) in self.driver.state.leases:
                    self.answer(lease, well=True)
            self.driver.wait(5_000)
            if all(hot.execution.status in WORKFLOW_TERMINAL for _, hot in self.driver.state.hot_executions()):
                return
        raise AssertionError(f"it does not end: {self.driver.header()}, {list(self.driver.hot().tasks.values())}")


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_it_ends(seed: int) -> None:
    play = Play(seed)
    assert not isinstance(play.driver.start("flow", "other"), Rejected)
    for _ in range(play.dice.randint(20, 90)):
        play.something()
    play.to_the_end()
    assert not play.driver.state.ready
    assert all(lease.fenced for lease in play.leases())
    for workflow_id in ("w", "other"):
        hot = play.driver.hot(workflow_id)
        if hot.execution.status is not WorkflowStatus.COMPLETED:
            assert set(hot.records) == set(hot.execution.done), "what was done has been undone"
