"""Random definitions and random events, from one source of randomness, so that a run can be repeated."""

from __future__ import annotations

import random
from typing import Any

from msgspec.structs import replace

from orchestrator.engine import system
from orchestrator.engine.choices import DeadlineKind, DeleteEffects, IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    AbandonCompensation,
    AddTaskLogs,
    AnyCommand,
    CloseSession,
    CompleteTask,
    DeleteWorkflow,
    ExpireDeadline,
    ExpireSession,
    OpenSession,
    PauseWorkflow,
    PollTasks,
    RecordHeartbeat,
    ReleaseTask,
    RerunWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryCompensation,
    RetryWorkflow,
    SignalWorkflow,
    SkipCompensation,
    SkipTask,
    StartWorkflow,
    TerminateWorkflow,
    UpdateSession,
    UpdateTask,
    UpdateVariables,
)
from orchestrator.engine.model import CompensationState, SessionKind, Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from tests.engine.driver import Driver, workflow

NAMES = ("n0", "n1", "n2", "undo")
QUEUES = (*NAMES, "n0-gold", "n1-gold", "n2-gold")
SYSTEM = ("system/http", "system/script")
TIMED = ("WAIT", "HUMAN", "DO_WHILE", "SUB_WORKFLOW")
ENDS = (TaskStatus.COMPLETED, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR)
OUTPUTS = (b'{"v":1}', b"{}", b"", b'{"big":"' + b"x" * 5000 + b'"}', b"[]")


class Definitions:
    """Makes definitions that are valid, of all elements that are built.

    `for_workers`: only of those that need neither what nodes do, nor people, nor other definitions.
    """

    def __init__(self, rng: random.Random, *, for_workers: bool = False) -> None:
        self._rng = rng
        self._for_workers = for_workers
        self._count = 0
        self._made: list[str] = []
        self._looped: list[str] = []
        self._name = ""

    def make(self, name: str) -> dict[str, Any]:
        rng = self._rng
        self._name = name
        fields: dict[str, Any] = {}
        if rng.random() < 0.3:
            fields["timeoutSeconds"] = rng.randint(1, 200)
            fields["timeoutPolicy"] = rng.choice(("TIME_OUT_WF", "ALERT_ONLY"))
        if rng.random() < 0.4:
            fields["compensationOrder"] = "PARALLEL"
        if rng.random() < 0.25:
            key = rng.choice(("all", "${workflow.input.case}"))
            fields["rateLimitConfig"] = {"rateLimitKey": key, "concurrentExecLimit": rng.randint(1, 2)}
        if rng.random() < 0.3:
            fields["compensationGraceSeconds"] = rng.randint(0, 5)
        tasks = self._sequence(3)
        if rng.random() < 0.5 and self._made:
            fields["outputParameters"] = {"x": f"${{{rng.choice(self._made)}.output}}", "n": "${workflow.variables.n}"}
        return workflow(name, *tasks, **fields)

    def _sequence(self, depth: int) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = []
        for _ in range(self._rng.randint(1, 3)):
            tasks.extend(self._element(depth))
        return tasks

    def _kinds(self, depth: int) -> list[str]:
        kinds = ["SIMPLE"] * 6 + ["NOOP", "SET_VARIABLE", "WAIT"]
        if not self._for_workers:
            kinds += ["INLINE", "HTTP", "HUMAN", "DYNAMIC"]
        if self._name.startswith("d") and not self._for_workers:
            kinds += ["SUB_WORKFLOW", "SUB_WORKFLOW", "START_WORKFLOW"]
        if depth:
            kinds += ["SWITCH", "SWITCH", "FORK_JOIN", "FORK_JOIN"]
        if depth and not self._for_workers:
            kinds += ["DO_WHILE", "DO_WHILE", "FORK_JOIN_DYNAMIC"]
        return kinds

    def _element(self, depth: int) -> list[dict[str, Any]]:
        kinds = self._kinds(depth)
        if self._rng.random() < 0.04:
            kinds = ["TERMINATE"]
        kind = self._rng.choice(kinds)
        self._count += 1
        reference = f"r{self._count}"
        task: dict[str, Any] = {"name": kind, "taskReferenceName": reference, "type": kind}
        if kind in TIMED and self._rng.random() < 0.2:
            policy = self._rng.choice(("RETRY", "TIME_OUT_WF", "ALERT_ONLY"))
            task["taskDefinition"] = {
                "name": "timed", "timeoutSeconds": 4, "timeoutPolicy": policy, "retryCount": 1, "retryDelaySeconds": 1
            }
        made: list[dict[str, Any]] = getattr(self, f"_{kind.lower()}")(task, depth)
        self._made.append(reference)
        return made

    def _simple(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        rng = self._rng
        task["name"] = rng.choice(NAMES[:3])
        task["taskDefinition"] = {
            "name": task["name"],
            "retryCount": rng.randint(0, 2),
            "retryDelaySeconds": rng.randint(0, 3),
            "retryLogic": rng.choice(("FIXED", "LINEAR_BACKOFF", "EXPONENTIAL_BACKOFF")),
            "backoffJitterMs": rng.choice((0, 500)),
            "responseTimeoutSeconds": 10,
            "timeoutSeconds": rng.choice((0, 20)),
            "totalTimeoutSeconds": rng.choice((0, 25)),
            "pollTimeoutSeconds": rng.choice((0, 30)),
            "timeoutPolicy": rng.choice(("RETRY", "TIME_OUT_WF", "ALERT_ONLY")),
            "concurrentExecLimit": rng.choice((0, 0, 0, 1)),
            "rateLimitPerFrequency": rng.choice((0, 0, 0, 2)),
            "rateLimitFrequencyInSeconds": 2,
        }
        if not self._for_workers:
            task["taskDefinition"]["isolationGroupId"] = rng.choice(("", "", "gold"))
        if self._made:
            task["inputParameters"] = {"from": f"${{{rng.choice(self._made)}.output}}", "v": "${workflow.variables}"}
        chance = rng.random()
        if chance < 0.4:
            task["compensateWith"] = {
                "name": "undo",
                "type": "SIMPLE",
                "taskDefinition": {"name": "undo", "retryCount": rng.randint(0, 2), "retryDelaySeconds": 1},
            }
        elif chance < 0.45:
            task["pivot"] = True
        task["optional"] = rng.random() < 0.2
        task["permissive"] = rng.random() < 0.2
        if rng.random() < 0.2:
            task["startDelay"] = rng.randint(1, 5)
        return [task]

    def _noop(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        return [task]

    def _set_variable(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["inputParameters"] = {"n": self._rng.randint(0, 9)}
        return [task]

    def _wait(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        how = self._rng.choice(({"duration": "5 seconds"}, {"signal": "go"}, {}, {"duration": "9s", "signal": "go"}))
        task["inputParameters"] = how
        return [task]

    def _terminate(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        status = self._rng.choice(("COMPLETED", "FAILED", "TERMINATED"))
        task["inputParameters"] = {"terminationStatus": status, "compensate": self._rng.random() < 0.5}
        return [task]

    def _switch(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        case = "${workflow.input.case}" if self._rng.random() < 0.5 else self._rng.choice("abz")
        task.update(evaluatorType="value-param", expression="case", inputParameters={"case": case})
        task["decisionCases"] = {"a": self._sequence(depth - 1), "b": []}
        if self._rng.random() < 0.5:
            task["defaultCase"] = self._sequence(depth - 1)
        if not self._for_workers and self._rng.random() < 0.3:
            task.update(evaluatorType="javascript", expression="$.case")
        return [task]

    def _fork_join(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        first, looped = len(self._made), len(self._looped)
        branches = [self._sequence(depth - 1) for _ in range(self._rng.randint(1, 3))]
        # What is in a loop can't be joined, only the loop.
        inside = [reference for reference in self._made[first:] if reference not in self._looped[looped:]]
        task["forkTasks"] = branches
        self._count += 1
        join = {"name": "JOIN", "taskReferenceName": f"j{self._count}", "type": "JOIN"}
        roll = self._rng.random()
        if roll < 0.4:
            join["joinOn"] = [branch[-1]["taskReferenceName"] for branch in branches]  # type: ignore[assignment]
        elif roll < 0.85 and inside:
            join["joinOn"] = self._rng.sample(inside, self._rng.randint(1, len(inside)))  # type: ignore[assignment]
        self._made.append(str(join["taskReferenceName"]))
        return [task, join]

    def _do_while(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        rng, first = self._rng, len(self._made)
        task["loopOver"] = self._sequence(depth - 1)
        self._looped += self._made[first:]
        how = rng.choice(("condition", "items", "both"))
        if how != "items":
            task["loopCondition"] = rng.choice(("$.x", f"$.{task['taskReferenceName']}['iteration'] < 3"))
        if how != "condition":
            task["items"] = rng.choice(([], [1, 2], "${workflow.input.list}"))
        if rng.random() < 0.4:
            task["inputParameters"] = {"keepLastN": rng.randint(1, 2)}
        task["optional"] = rng.random() < 0.2
        return [task]

    def _fork_join_dynamic(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        rng = self._rng
        if rng.random() < 0.5:
            inputs = rng.choice(([], [1, 2]))
            task["inputParameters"] = {"forkTaskName": rng.choice(NAMES[:3]), "forkTaskInputs": inputs}
        else:
            undo = {"name": "undo", "type": "SIMPLE"}
            reference = task["taskReferenceName"]
            tasks = [
                {"name": "n0", "taskReferenceName": f"{reference}x", "type": "SIMPLE", "compensateWith": undo},
                {"name": "n1", "taskReferenceName": f"{reference}y", "type": "SIMPLE", "optional": True},
                {"name": "l", "taskReferenceName": f"{reference}z", "type": "DO_WHILE", "loopCondition": "$.x",
                 "loopOver": [{"name": "n2", "taskReferenceName": f"{reference}b", "type": "SIMPLE"}]},
            ]
            chosen = rng.sample(tasks, rng.randint(0, 3))
            task["inputParameters"] = {"tasks": chosen, "inputs": {f"{reference}x": {"k": 1}}}
            task.update(dynamicForkTasksParam="tasks", dynamicForkTasksInputParamName="inputs")
        self._count += 1
        join = {"name": "JOIN", "taskReferenceName": f"j{self._count}", "type": "JOIN"}
        self._made.append(str(join["taskReferenceName"]))
        return [task, join]

    def _inline(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["inputParameters"] = {"expression": "$.v", "v": "${workflow.input.case}"}
        task["optional"] = self._rng.random() < 0.5
        return [task]

    def _http(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task.update(inputParameters={"uri": "http://x/"}, retryCount=self._rng.randint(0, 1))
        if self._rng.random() < 0.4:
            task["compensateWith"] = {"name": "undo", "type": "SIMPLE"}
        task["asyncComplete"] = self._rng.random() < 0.2
        return [task]

    def _human(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        return [task]

    def _dynamic(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        name = self._rng.choice(("n0", "n1", "NOOP", "nothing", "HUMAN"))
        task.update(dynamicTaskNameParam="n", inputParameters={"n": name})
        return [task]

    def _sub_workflow(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["subWorkflowParam"] = {"name": self._rng.choice(("c0", "c0", "nothing"))}
        task["optional"] = self._rng.random() < 0.3
        if self._rng.random() < 0.2:
            task["compensateWith"] = {"name": "undo", "type": "SIMPLE"}
        return [task]

    def _start_workflow(self, task: dict[str, Any], depth: int) -> list[dict[str, Any]]:
        task["inputParameters"] = {"startWorkflow": {"name": self._rng.choice(("c0", "nothing"))}}
        return [task]


class Events:
    """What may happen to a driver's replica: drawn at random, or such that everything comes to an end."""

    def __init__(self, rng: random.Random, ids: list[str]) -> None:
        self._rng = rng
        self._ids = ids
        self._sessions = 0
        self._told: list[CompleteTask] = []

    def open_workers(self, driver: Driver) -> None:
        if not any(session.namespace == "$system" for session in driver.state.sessions.values()):
            self._open_node(driver)
        while len(driver.state.sessions) < 3:
            self._sessions += 1
            kind = SessionKind.STREAM
            name = f"s{self._sessions}"
            command = OpenSession(name, kind, "default", "", "w", QUEUES, self._rng.randint(1, 4), 10_000)
            driver.ok(command)

    def _open_node(self, driver: Driver, name: str = "node") -> None:
        self._sessions += 1
        name = f"{name}{self._sessions}"
        driver.ok(OpenSession(name, SessionKind.STREAM, "$system", "", name, SYSTEM, 4, 10_000))

    def _everyone(self, driver: Driver) -> list[str]:
        """The executions that were started, and those that they have started."""
        stored = [key[1] for table, key in driver.database if table is Table.EXECUTION]
        hot = [workflow_id for _, workflow_id in driver.state.hot_keys()]
        there = [one for one in map(str, {*hot, *stored}) if not driver.is_gone(one)]
        return sorted({*self._ids, *there})

    def any(self, driver: Driver) -> None:
        """One thing that may happen."""
        rng = self._rng
        roll = rng.random()
        workflow_id = rng.choice(self._everyone(driver))
        if rng.random() < 0.1 and workflow_id in self._ids:
            self._delete(driver, workflow_id)
        leases = sorted(driver.state.leases)
        if roll < 0.5 and leases:
            driver.do(self._result(driver, rng.choice(leases)[0], rng.choice(ENDS), rng.choice(OUTPUTS)))
        elif roll < 0.65:
            driver.wait(rng.choice((100, 1_000, 5_000, 31_000)))
        else:
            for command in self._commands(driver, workflow_id, leases):
                driver.do(command)

    def _delete(self, driver: Driver, workflow_id: str) -> None:
        """Deleted, it begins anew: sometimes in the same entry, where it is still being deleted."""
        driver.wait(1)
        delete = DeleteWorkflow("default", workflow_id, self._rng.choice(tuple(DeleteEffects)))
        start = StartWorkflow("default", "d0", 0, workflow_id, IfExists.FAIL, b"{}")
        driver.entry(*([delete, start] if self._rng.random() < 0.5 else [delete]))
        if driver.is_gone(workflow_id):
            driver.ok(start)

    def _commands(self, driver: Driver, workflow_id: str, leases: list[Any]) -> list[AnyCommand]:
        rng, one = self._rng, ("default", workflow_id)
        choices: list[AnyCommand] = [
            PauseWorkflow(*one),
            ResumeWorkflow(*one),
            ResumeWorkflow(*one),
            SignalWorkflow(*one, "go", b'{"s":1}'),
            RetryWorkflow(*one, rng.random() < 0.5),
            RestartWorkflow(*one, rng.random() < 0.5, rng.choice(tuple(DeleteEffects))),
            RerunWorkflow(*one, self._task_of(driver, workflow_id), effects=rng.choice(tuple(DeleteEffects))),
            SkipTask(*one, f"r{rng.randint(1, 9)}", b'{"skipped":1}'),
            RetryCompensation(*one),
            SkipCompensation(*one),
            AbandonCompensation(*one, "enough"),
            UpdateVariables(*one, b'{"n":4}'),
            UpdateTask(*one, f"r{rng.randint(1, 9)}", rng.choice((TaskStatus.IN_PROGRESS, *ENDS)), b'{"u":1}'),
            PollTasks("p", "default", "", "poller", QUEUES, rng.randint(1, 2)),
        ]
        if rng.random() < 0.3:
            choices.append(TerminateWorkflow(*one, "stop", rng.choice(list(TerminateCompensation))))
        if self._told:
            choices.append(rng.choice(self._told))
        for (token,) in leases[:3]:
            lease = driver.state.leases[token,]
            choices.append(ExpireDeadline(DeadlineKind.RESPONSE, token))
            lines = ((1, "x" * rng.choice((3, 5_000, 5_000))),) * rng.choice((1, 40, 400))
            choices.append(AddTaskLogs(lease.namespace, lease.workflow_id, lease.task_id, token, lines))
            choices.append(ReleaseTask(lease.session_id, token))
            choices.append(
                RecordHeartbeat(lease.namespace, lease.workflow_id, lease.task_id, token, b'{"at":1}')
            )
        choices += [ExpireDeadline(DeadlineKind.POLL, number) for (number,) in sorted(driver.state.ready)[:2]]
        for (session_id,) in sorted(driver.state.sessions):
            choices.append(rng.choice((ExpireSession, CloseSession))(session_id))
            choices.append(UpdateSession(session_id, (), rng.randint(0, 4)))
        return [rng.choice(choices)]

    def _task_of(self, driver: Driver, workflow_id: str) -> str:
        tasks = [] if driver.is_gone(workflow_id) else sorted(driver.hot(workflow_id).by_task_id)
        return self._rng.choice(tasks) if tasks and self._rng.random() < 0.8 else ""

    def _result(self, driver: Driver, token: int, status: TaskStatus, output: bytes) -> CompleteTask:
        lease = driver.state.leases[token,]
        if lease.name == "system/script" and status is TaskStatus.COMPLETED and output != OUTPUTS[-1]:
            output = self._rng.choice((b'{"result":true}', b'{"result":"a"}', b'{"result":false}'))
        if status is not TaskStatus.COMPLETED and not system.is_queue(lease.name) and self._rng.random() < 0.3:
            status = TaskStatus.IN_PROGRESS
        told = CompleteTask(
            lease.namespace, lease.workflow_id, lease.task_id, token, status, output, "r", "e", callback_ms=2_000
        )
        self._told = [*self._told[-20:], told]
        return told

    def settle(self, driver: Driver) -> None:
        """Everybody behaves from now on: each workflow must come to an end."""
        for _ in range(400):
            self._sessions += 1
            name = f"good{self._sessions}"
            if not any(key[0].startswith("good") for key in driver.state.sessions):
                driver.ok(OpenSession(name, SessionKind.STREAM, "default", "", "w", QUEUES, 8, 10_000))
            if not any(key[0].startswith("steady") for key in driver.state.sessions):
                self._open_node(driver, "steady")
            for workflow_id in self._everyone(driver):
                if not driver.is_gone(workflow_id):
                    self._nudge(driver, workflow_id)
            for (token,) in sorted(driver.state.leases):
                if (token,) in driver.state.leases:
                    lease = driver.state.leases[token,]
                    output = b'{"result":false}' if lease.name == "system/script" else b'{"ok":true}'
                    command = self._result(driver, token, TaskStatus.COMPLETED, b"[]")
                    result = driver.do(replace(command, output=output))
                    assert not isinstance(result, Rejected)
            there = [workflow_id for workflow_id in self._everyone(driver) if not driver.is_gone(workflow_id)]
            ended = all(driver.header(workflow_id).status in WORKFLOW_TERMINAL for workflow_id in there)
            if ended and not driver.state.leases:
                return
            driver.wait(5_000)
        raise AssertionError(f"not at an end: {[driver.header(workflow_id) for workflow_id in self._ids]}")

    def _nudge(self, driver: Driver, workflow_id: str) -> None:
        header, one = driver.header(workflow_id), ("default", workflow_id)
        if header.status is WorkflowStatus.PAUSED:
            driver.ok(ResumeWorkflow(*one))
        if driver.is_gone(workflow_id):
            return
        header = driver.header(workflow_id)
        if header.compensation is CompensationState.STUCK:
            kind = self._rng.choice((RetryCompensation, SkipCompensation))
            driver.ok(kind(*one))
        if driver.is_gone(workflow_id):
            return
        hot = driver.hot(workflow_id)
        for sequence in sorted(hot.open):
            signal = hot.tasks[sequence].signal if sequence in hot.open else ""
            if signal and header.status is WorkflowStatus.RUNNING:
                driver.do(SignalWorkflow(*one, signal, b"{}"))


def play(
    seed: int,
    events: int,
    driver: Driver | None = None,
    *,
    restart_every: int = 0,
    evict: bool = False,
    messages: int = 1000,
) -> Driver:
    """A whole run: a few workflows, many events, and an orderly end."""
    rng = random.Random(seed)
    driver = driver or Driver(check=not evict)
    driver.evict = evict
    driver.messages_per_entry = messages
    driver.register(Definitions(rng).make("c0"), *[Definitions(rng).make(f"d{number}") for number in range(2)])
    for name in NAMES[:2]:
        driver.register_task(name=name, retryCount=rng.randint(0, 1), retryDelaySeconds=1)
    ids = [f"w{number}" for number in range(3)]
    happening = Events(rng, ids)
    happening.open_workers(driver)
    for workflow_id in ids:
        given = b'{"list":[1,2,3],"case":"' + rng.choice("abz").encode() + b'"}'
        driver.start(f"d{rng.randint(0, 1)}", workflow_id, given, priority=rng.randint(0, 2))
    for number in range(events):
        happening.any(driver)
        driver.verify_waiting()
        if rng.random() < 0.2:
            happening.open_workers(driver)
        if restart_every and number % restart_every == restart_every - 1:
            driver = driver.restart()
    happening.settle(driver)
    return driver
