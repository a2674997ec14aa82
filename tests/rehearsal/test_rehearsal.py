"""One test per rule of tests of workflows with mocked outcomes; the rule is its docstring."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec
import pytest

from orchestrator.engine.behaviour import LOWEST, STREAMS
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import RegisterWorkflows, StartWorkflow
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import CompensationState, Table, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.queries import output, resolved_input
from orchestrator.engine.results import Rejected
from orchestrator.integrations.work import Ended, Outcome, Work
from orchestrator.rehearsal import stage
from orchestrator.rehearsal.mocks import Mock, Mocks
from orchestrator.rehearsal.rehearsal import Rehearsal, Rehearsed
from tests.engine.driver import START_MS, Driver, simple, workflow

HOUR_MS = 3_600_000
DONE = Mock(output=b'{"done":true}')
FAILS = Mock(TaskStatus.FAILED, reason="broken", error_code="BROKEN")


class Scripts:
    """Evaluates as it is told; says what it was asked."""

    def __init__(self, *values: Any) -> None:
        self.asked: list[Work] = []
        self._values = deque(values)

    async def evaluate(self, work: Work) -> Outcome:
        await asyncio.sleep(0)
        self.asked.append(work)
        return Outcome(ended=Ended.COMPLETED, output=msgspec.json.encode({"result": self._values.popleft()}))


@pytest.fixture
def driver() -> Driver:
    return Driver()


def mocks(sub_workflows: dict[str, Mocks] | None = None, **outcomes: Mock | list[Mock]) -> Mocks:
    lists = {ref: deque(one if isinstance(one, list) else [one]) for ref, one in outcomes.items()}
    return Mocks(lists, sub_workflows or {})


def rehearse(driver: Driver, given: Mocks, scripts: Scripts | None = None, **fields: Any) -> Rehearsed:
    result = anyhow(driver, given, scripts, **fields)
    assert not isinstance(result, Rejected), result
    return result


def anyhow(
    driver: Driver, given: Mocks, scripts: Scripts | None = None, *, name: str = "flow", **fields: Any
) -> Rehearsed | Rejected:
    given_to = {"namespace": "default", "version": 0, "workflow_id": "", "if_exists": IfExists.FAIL, "input": b"{}"}
    start = StartWorkflow(name=name, **{**given_to, **fields})

    async def run() -> Rehearsed | Rejected:
        rehearsal = Rehearsal(driver.state, driver.now_ms, (scripts or Scripts()).evaluate)
        return await rehearsal.run(start, given)

    return asyncio.run(run())


def attempts(hot: ExecutionState, reference: str) -> list[TaskAttempt]:
    return [attempt for _, attempt in sorted(hot.tasks.items()) if attempt.reference == reference]


def statuses(rehearsed: Rehearsed, which: int = 0) -> list[tuple[str, str]]:
    tasks = rehearsed.executions[which].tasks
    return [(tasks[sequence].reference, tasks[sequence].status.name) for sequence in sorted(tasks)]


def status(rehearsed: Rehearsed, which: int = 0) -> WorkflowStatus:
    return rehearsed.executions[which].execution.status


def seconds(rehearsed: Rehearsed) -> float:
    """How much virtual time has passed until the end."""
    header = rehearsed.executions[0].execution
    return (header.ended_ms - header.created_ms) / 1000


def wait(reference: str, **parameters: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": "WAIT", "inputParameters": parameters}


def script(reference: str, expression: str = "$.n") -> dict[str, Any]:
    parameters = {"evaluatorType": "javascript", "expression": expression, "n": 1}
    return {"name": reference, "taskReferenceName": reference, "type": "INLINE", "inputParameters": parameters}


def sub(reference: str, name: str = "child") -> dict[str, Any]:
    parameter = {"name": name, "version": 1}
    return {"name": reference, "taskReferenceName": reference, "type": "SUB_WORKFLOW", "subWorkflowParam": parameter}


# --- mocks


def test_mocks_are_the_outcomes_of_tasks(driver: Driver) -> None:
    """A task with a mock comes to what the mock says, and the tasks behind it see its output."""
    seen = simple("b", inputParameters={"of_a": "${a.output.done}"})
    driver.register(workflow("flow", simple("a"), seen, outputParameters={"all": "${b.output.x}"}))
    rehearsed = rehearse(driver, mocks(a=DONE, b=Mock(output=b'{"x":7}')))
    [hot] = rehearsed.executions
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert hot.load(hot.execution.output) == b'{"all":7}'
    [b] = attempts(hot, "b")
    assert resolved_input(rehearsed.state, hot, b) == b'{"of_a":true}'
    assert (rehearsed.without_mock, rehearsed.unused) == ([], [])


def test_outcomes_of_a_task_are_taken_in_order(driver: Driver) -> None:
    """The outcomes of a reference are taken one after the other: a retry takes the next one."""
    driver.register(workflow("flow", simple("a", retryCount=2)))
    rehearsed = rehearse(driver, mocks(a=[FAILS, FAILS, DONE]))
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert [attempt.reason for attempt in attempts(rehearsed.executions[0], "a")] == ["broken", "broken", ""]
    assert seconds(rehearsed) == 120  # two delays of the default policy


def test_a_task_without_a_mock_stays_as_it_is(driver: Driver) -> None:
    """What has no mock, or none any more, waits; the answer says so, and everything else has gone on."""
    driver.register(
        workflow(
            "flow",
            {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN",
             "forkTasks": [[simple("a", retryCount=1)], [wait("w", duration="1 hour"), simple("b")]]},
            {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["a", "b"]},
        )
    )
    rehearsed = rehearse(driver, mocks(a=FAILS, b=DONE, nobody=DONE))
    assert status(rehearsed) is WorkflowStatus.RUNNING
    assert dict(statuses(rehearsed)) == {
        "f": "COMPLETED", "j": "IN_PROGRESS", "a": "SCHEDULED", "w": "COMPLETED", "b": "COMPLETED"
    }
    assert rehearsed.without_mock == ["a"]
    assert rehearsed.unused == ["nobody"]


@pytest.mark.parametrize("kind", ["HTTP", "GRPC"])
def test_calls_are_never_made(driver: Driver, kind: str) -> None:
    """HTTP and GRPC tasks call nobody: a mock says what came of the call, and without one they wait."""
    given = {"uri": "http://localhost:1/", "method": "GET", "service": "s"}
    call = {"name": "call", "taskReferenceName": "call", "type": kind, "inputParameters": given}
    driver.register(workflow("flow", call))
    scripts = Scripts()
    assert rehearse(driver, mocks(), scripts).without_mock == ["call"]
    assert status(rehearse(driver, mocks(call=DONE), scripts)) is WorkflowStatus.COMPLETED
    assert not scripts.asked


def test_in_progress_adds_to_the_output(driver: Driver) -> None:
    """IN_PROGRESS is no end: the output is merged, and the next outcome of the list follows."""
    driver.register(workflow("flow", simple("a"), {"name": "h", "taskReferenceName": "h", "type": "HUMAN"}))
    half = Mock(TaskStatus.IN_PROGRESS, b'{"half":1}', execution_ms=1000)
    rehearsed = rehearse(driver, mocks(a=[half, DONE], h=[half, DONE]))
    [hot] = rehearsed.executions
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    [human] = attempts(hot, "h")
    assert output(rehearsed.state, hot, human) == b'{"half":1,"done":true}'
    assert seconds(rehearsed) == 2


def test_waits_and_humans_are_told(driver: Driver) -> None:
    """A mock of a WAIT for a signal, or of a HUMAN, is what somebody says of it; without one they wait."""
    driver.register(workflow("flow", wait("w", signal="go"), {"name": "h", "taskReferenceName": "h", "type": "HUMAN"}))
    assert rehearse(driver, mocks()).without_mock == ["w"]
    assert rehearse(driver, mocks(w=DONE)).without_mock == ["h"]
    rehearsed = rehearse(driver, mocks(w=DONE, h=FAILS))
    assert status(rehearsed) is WorkflowStatus.FAILED
    assert statuses(rehearsed) == [("w", "COMPLETED"), ("h", "FAILED")]


@pytest.mark.parametrize("level", [LOWEST, STREAMS])
def test_a_wait_for_an_event_is_told_like_others(level: int) -> None:
    """No event comes in a test: a mock says what would have been given."""
    driver = Driver(level=level)
    driver.register(workflow("flow", wait("w", event="paid", correlationKey="k")))
    assert rehearse(driver, mocks()).without_mock == ["w"]
    rehearsed = rehearse(driver, mocks(w=DONE))
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert rehearsed.state.resident[Table.AWAITING] == {}


def test_iterations_of_a_loop_have_mocks_together_or_each(driver: Driver) -> None:
    """In a loop `work` is the list of all iterations, and `work__2` that of the second one, which comes first."""
    loop = {
        "name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "$.l.iteration < 3",
        "loopOver": [simple("work")],
    }
    driver.register(workflow("flow", loop))
    numbered = [Mock(output=b'{"n":%d}' % number) for number in (1, 2, 3)]
    scripts = Scripts(True, True, False)
    rehearsed = rehearse(driver, mocks(work=[numbered[0], numbered[2]], work__2=numbered[1]), scripts)
    [hot] = rehearsed.executions
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    told = {ref: output(rehearsed.state, hot, attempts(hot, ref)[0]) for ref in ("work__1", "work__2", "work__3")}
    assert told == {"work__1": b'{"n":1}', "work__2": b'{"n":2}', "work__3": b'{"n":3}'}


# --- what is evaluated


def test_scripts_are_evaluated_as_always(driver: Driver) -> None:
    """Scripts, queries and conditions are evaluated, by whatever evaluates them for the node."""
    cases = {"x": [simple("a")], "y": [simple("b")]}
    switch = {
        "name": "s", "taskReferenceName": "s", "type": "SWITCH", "evaluatorType": "javascript", "expression": "$.n",
        "inputParameters": {"n": "${i.output.result}"}, "decisionCases": cases,
    }
    driver.register(workflow("flow", script("i", "$.n + 1"), switch))
    scripts = Scripts(2, "y")
    rehearsed = rehearse(driver, mocks(b=DONE), scripts)
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert [work.kind for work in scripts.asked] == ["system/script", "system/script"]
    assert b'"expression":"$.n + 1"' in scripts.asked[0].parameters
    assert b'"n":2' in scripts.asked[1].input
    assert dict(statuses(rehearsed)) == {"i": "COMPLETED", "s": "COMPLETED", "b": "COMPLETED"}


def test_a_mock_stands_in_for_a_script_but_not_for_a_condition(driver: Driver) -> None:
    """An INLINE with a mock is not evaluated; a SWITCH is, whatever mock it has."""
    switch = {
        "name": "s", "taskReferenceName": "s", "type": "SWITCH", "evaluatorType": "javascript", "expression": "$.n",
        "decisionCases": {"x": [simple("a")]},
    }
    driver.register(workflow("flow", script("i"), switch))
    scripts = Scripts("x")
    rehearsed = rehearse(driver, mocks(i=DONE, s=DONE, a=DONE), scripts)
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert [work.reference for work in scripts.asked] == ["s"]
    assert rehearsed.unused == ["s"]


# --- time


def test_time_is_virtual(driver: Driver) -> None:
    """Timers fire, and executions take as long as their mocks say, in no time."""
    driver.register(workflow("flow", wait("w", duration="2 days"), simple("a")))
    rehearsed = rehearse(driver, mocks(a=Mock(queue_wait_ms=HOUR_MS, execution_ms=HOUR_MS // 2)))
    assert rehearsed.executions[0].execution.created_ms == START_MS
    assert seconds(rehearsed) == 49.5 * 3600
    [a] = attempts(rehearsed.executions[0], "a")
    assert a.started_ms - a.scheduled_ms == HOUR_MS


@pytest.mark.parametrize(
    ("limit", "mock", "code"),
    [
        ({"timeoutSeconds": 60, "responseTimeoutSeconds": 59}, Mock(execution_ms=60_000), "RESPONSE_TIMEOUT"),
        ({"timeoutSeconds": 60, "responseTimeoutSeconds": 0}, Mock(execution_ms=60_000), "TASK_TIMEOUT"),
        ({"pollTimeoutSeconds": 60}, Mock(queue_wait_ms=60_000), "POLL_TIMEOUT"),
        ({"totalTimeoutSeconds": 60}, Mock(queue_wait_ms=30_000, execution_ms=30_000), "TOTAL_TIMEOUT"),
    ],
)
def test_a_mock_that_takes_too_long_times_out(driver: Driver, limit: dict[str, int], mock: Mock, code: str) -> None:
    """A mock that waits or takes as long as a timeout is timed out, and its outcome does not count."""
    driver.register_task(name="a", retryCount=0, timeoutPolicy="TIME_OUT_WF", **limit)
    driver.register(workflow("flow", simple("a")))
    rehearsed = rehearse(driver, mocks(a=mock))
    [a] = attempts(rehearsed.executions[0], "a")
    assert (a.status.name, a.error_code) == ("TIMED_OUT", code)
    assert status(rehearsed) is WorkflowStatus.TIMED_OUT


def test_time_does_not_pass_for_a_timeout_alone(driver: Driver) -> None:
    """A workflow whose tasks wait for mocks does not time out: nothing that could go on does."""
    driver.register(workflow("flow", simple("a"), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF"))
    assert status(rehearse(driver, mocks())) is WorkflowStatus.RUNNING
    late = rehearse(driver, mocks(a=Mock(execution_ms=60_000)))
    assert status(late) is WorkflowStatus.TIMED_OUT


# --- sagas and sub-workflows


def test_compensations_have_mocks_like_any_task(driver: Driver) -> None:
    """A workflow that fails compensates; what undoes a step has a reference, and so mocks."""
    driver.register(workflow("flow", simple("a", "undo_a"), simple("b", retryCount=0)))
    rehearsed = rehearse(driver, mocks(a=DONE, b=FAILS, a__compensation=DONE))
    assert status(rehearsed) is WorkflowStatus.FAILED
    assert rehearsed.executions[0].execution.compensation is CompensationState.COMPLETE
    waiting = rehearse(driver, mocks(a=DONE, b=FAILS))
    assert status(waiting) is WorkflowStatus.COMPENSATING
    assert waiting.without_mock == ["a__compensation"]


def test_sub_workflows_have_mocks_of_their_own(driver: Driver) -> None:
    """The tasks of a sub-workflow take the mocks given for the task that starts it; references stand behind its own."""
    driver.register(workflow("child", simple("a"), simple("b")), workflow("flow", sub("s"), simple("a")))
    inner = mocks(a=DONE, b=DONE, c=DONE)
    rehearsed = rehearse(driver, mocks({"s": inner}, a=DONE))
    assert [held.execution.name for held in rehearsed.executions] == ["flow", "child"]
    assert (status(rehearsed), status(rehearsed, 1)) == (WorkflowStatus.COMPLETED, WorkflowStatus.COMPLETED)
    assert rehearsed.unused == ["s/c"]
    assert rehearse(driver, mocks({"s": mocks(a=DONE)}, a=DONE)).without_mock == ["s/b"]
    assert rehearse(driver, mocks(a=DONE)).without_mock == ["s/a"]


def test_what_is_started_and_forgotten_goes_no_further(driver: Driver) -> None:
    """What a START_WORKFLOW starts is not a part of the workflow: it begins, and is not played."""
    asked = {"startWorkflow": {"name": "child", "input": {}}}
    start = {"name": "s", "taskReferenceName": "s", "type": "START_WORKFLOW", "inputParameters": asked}
    driver.register(workflow("child", script("i"), wait("w", duration="1 day")), workflow("flow", start))
    scripts = Scripts()
    rehearsed = rehearse(driver, mocks(i=DONE), scripts)
    assert [held.execution.name for held in rehearsed.executions] == ["flow"]
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert not scripts.asked
    assert rehearsed.unused == ["i"]


# --- nothing is touched


def test_nothing_of_the_cluster_changes(driver: Driver) -> None:
    """It happens in a state of its own: executions, sessions, events and definitions stay as they are."""
    event = {"name": "e", "taskReferenceName": "e", "type": "EVENT", "sink": "conductor:x"}
    driver.register(workflow("flow", event, simple("a")), workflow("child", simple("a")))
    driver.worker("s", "a", slots=5)
    driver.start("flow", "w")
    before = driver.rows()
    rehearsed = rehearse(driver, mocks(a=DONE), workflow_id="w")
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert driver.rows() == before
    assert driver.state.highest_version[("default", "flow")] == [1]


def test_definitions_may_be_there_for_one_test_only(driver: Driver) -> None:
    """Definitions given with a test take the place of those that are registered, in it alone."""
    driver.register(workflow("child", simple("a")), workflow("flow", sub("s")))
    other = msgspec.json.encode(workflow("child", simple("b")))

    async def run() -> Rehearsed | Rejected:
        rehearsal = Rehearsal(driver.state, driver.now_ms, Scripts().evaluate)
        assert await rehearsal.register(RegisterWorkflows("default", (other,), True)) is None
        refused = await rehearsal.register(RegisterWorkflows("default", (b"{}",), True))
        assert isinstance(refused, Rejected)
        start = StartWorkflow("default", "flow", 0, "", IfExists.FAIL, b"{}")
        return await rehearsal.run(start, mocks({"s": mocks(b=DONE)}))

    rehearsed = asyncio.run(run())
    assert isinstance(rehearsed, Rehearsed)
    assert status(rehearsed) is WorkflowStatus.COMPLETED
    assert rehearse(driver, mocks()).without_mock == ["s/a"]


def test_what_can_not_be_started_is_refused_as_a_start_is(driver: Driver) -> None:
    """A definition that does not exist, or is invalid, is refused with the reason that a start has."""
    refused = anyhow(driver, mocks(), name="nothing")
    assert isinstance(refused, Rejected)
    assert refused.reason == "WORKFLOW_DEFINITION_NOT_FOUND"
    refused = anyhow(driver, mocks(), name="", document=b'{"name":"x"}')
    assert isinstance(refused, Rejected)
    assert refused.reason == "DEFINITION_INVALID"


# --- bounds


def test_it_gives_way_after_each_step(driver: Driver) -> None:
    """A node's event loop has its turn after each step: nobody waits for a test."""
    driver.register(workflow("flow", *(simple(f"t{number}") for number in range(50))))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> Any:
        beside = asyncio.create_task(others())
        rehearsal = Rehearsal(driver.state, driver.now_ms, Scripts().evaluate)
        start = StartWorkflow("default", "flow", 0, "", IfExists.FAIL, b"{}")
        result = await rehearsal.run(start, mocks(**{f"t{number}": DONE for number in range(50)}))
        beside.cancel()
        return result

    assert status(asyncio.run(run())) is WorkflowStatus.COMPLETED
    assert turns > 100


@pytest.mark.parametrize(("limit", "name"), [("STEPS_MAX", "steps"), ("BYTES_MAX", "bytes")])
def test_it_has_bounds(driver: Driver, monkeypatch: pytest.MonkeyPatch, limit: str, name: str) -> None:
    """Its steps, its tasks and its memory have limits; an error says which one it came to."""
    driver.register(workflow("flow", *(simple(f"t{number}") for number in range(50))))
    monkeypatch.setattr(stage, limit, 40)
    with pytest.raises(stage.RehearsalTooLarge) as caught:
        rehearse(driver, mocks(**{f"t{number}": DONE for number in range(50)}))
    assert (caught.value.limit, caught.value.most) == (name, 40)


def test_tasks_are_bounded_over_all_executions(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of sub-workflows count, too."""
    driver.register(workflow("child", simple("a"), simple("b")), workflow("flow", sub("s"), sub("t")))
    given = {"s": mocks(a=DONE, b=DONE), "t": mocks(a=DONE, b=DONE)}
    assert status(rehearse(driver, mocks(given))) is WorkflowStatus.COMPLETED
    monkeypatch.setattr("orchestrator.rehearsal.rehearsal.TASKS_MAX", 5)
    with pytest.raises(stage.RehearsalTooLarge, match="5 tasks"):
        rehearse(driver, mocks({"s": mocks(a=DONE, b=DONE), "t": mocks(a=DONE, b=DONE)}))
