"""Operators where something is missing, too large or comes too late: the outcome is said, and nothing is stuck."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.commands import OpenSession, PutEventHandler, SignalWorkflow
from orchestrator.engine.explain import explain
from orchestrator.engine.model import SessionKind, TaskStatus, WorkflowStatus
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import ONE, begin, busy_driver, element, fork, shown_input, switch, text

LARGE = "x" * 150_000
TWICE = "${workflow.input.t}"


@pytest.fixture
def driver() -> Driver:
    driver = busy_driver()
    system = ("system/script", "system/jq", "system/http")
    driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", system, 20, 10_000))
    return driver


def dynamic_fork(given: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [element("FORK_JOIN_DYNAMIC", "f", given, **fields), element("JOIN", "j")]


def ended(driver: Driver, reference: str) -> tuple[TaskStatus, str]:
    attempt = driver.latest(reference)
    return attempt.status, attempt.error_code


def large_input() -> bytes:
    return msgspec.json.encode({"t": LARGE})


# --- EXCLUSIVE_JOIN


def test_an_exclusive_join_waits_until_its_task_has_ended(driver: Driver) -> None:
    """First existing non-skipped task of joinOn; waits until terminal."""
    join = element("EXCLUSIVE_JOIN", "e1", joinOn=["b", "a"])
    choice = switch("s", "z", {"x": [simple("b")]})
    begin(driver, *fork([simple("a"), simple("c")], [choice, join], on=["c", "e1"]))
    assert driver.latest("e1").status is TaskStatus.IN_PROGRESS
    said = {one.reference: one.waits_for for one in explain(driver.state, driver.hot())}
    assert said["e1"] == "the task that it joins: a"
    driver.give("a", b'{"r":1}')
    assert text(driver, "e1") == {"r": 1}
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_an_exclusive_join_fails_with_its_task(driver: Driver) -> None:
    """FAILED if that one failed."""
    tasks = [simple("a", retryCount=0, permissive=True), element("EXCLUSIVE_JOIN", "e1", joinOn=["a"])]
    begin(driver, *tasks)
    driver.fail("a", "broken")
    assert driver.latest("e1").status is TaskStatus.FAILED
    assert driver.latest("e1").reason == "broken"
    assert driver.header().status is WorkflowStatus.FAILED


def test_an_exclusive_join_of_nothing_fails(driver: Driver) -> None:
    """Neither joinOn nor defaultExclusiveJoinTask exists: nothing would ever end it, and it says so."""
    begin(driver, switch("s", "z", {"x": [simple("a")]}), element("EXCLUSIVE_JOIN", "e1", joinOn=["a"]))
    assert driver.latest("e1").status is TaskStatus.FAILED
    assert "none of a" in driver.header().reason


# --- dynamic forks


def test_a_dynamic_fork_of_one_workflow(driver: Driver) -> None:
    """forkTaskWorkflow(+Version): a sub-workflow for each of forkTaskInputs."""
    driver.register(workflow("child", simple("a", inputParameters={"k": "${workflow.input.k}"})))
    driver.register(workflow("child", simple("b"), version=2))
    given = {"forkTaskWorkflow": "child", "forkTaskWorkflowVersion": 1, "forkTaskInputs": [{"k": 1}, {"k": 2}]}
    begin(driver, *dynamic_fork(given))
    children = [one.child for one in driver.hot().tasks.values() if one.child]
    assert [shown_input(driver, "a", child) for child in children] == [{"k": 1}, {"k": 2}]
    for child in children:
        assert driver.latest("j").status is TaskStatus.IN_PROGRESS
        driver.give("a", workflow_id=child)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_dynamic_fork_of_calls(driver: Driver) -> None:
    """forkTaskType: what nodes do themselves can be forked, too."""
    begin(driver, *dynamic_fork({"forkTaskType": "HTTP", "forkTaskInputs": [{"uri": "http://x/"}]}))
    [call] = [one for one in driver.hot().tasks.values() if one.type == "HTTP"]
    assert shown_input(driver, call.reference)["uri"] == "http://x/"
    driver.give(call.reference, b'{"response":{}}')
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_two_dynamic_forks_do_not_share_references(driver: Driver) -> None:
    """Refs `_<name>_<i>`, with the parent ref inserted if another dynamic fork has been made before."""
    given = {"forkTaskName": "a", "forkTaskInputs": [1]}
    second = [element("FORK_JOIN_DYNAMIC", "g", given), element("JOIN", "k")]
    begin(driver, *dynamic_fork(given), *second)
    driver.give("_a_0")
    driver.give("_g_a_0")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_the_references_of_dynamic_forks_are_the_same_in_each_iteration(driver: Driver) -> None:
    given = {"forkTaskName": "a", "forkTaskInputs": [1]}
    second = [element("FORK_JOIN_DYNAMIC", "g", given), element("JOIN", "k")]
    begin(driver, element("DO_WHILE", "l", items=[1, 2], loopCondition="", loopOver=[*dynamic_fork(given), *second]))
    for number in (1, 2):
        driver.give(f"_a_0__{number}")
        driver.give(f"_g_a_0__{number}")
    assert driver.header().status is WorkflowStatus.COMPLETED


PAIR = {"dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs"}
TASK = {"name": "a", "taskReferenceName": "x", "type": "SIMPLE"}


@pytest.mark.parametrize(
    ("given", "fields", "reason"),
    [
        ({"tasks": [TASK], "inputs": [1]}, PAIR, "inputs: it must be an object of inputs by taskReferenceName"),
        ({"tasks": {"x": 1}, "inputs": {}}, PAIR, "tasks: it must be a list of tasks"),
        ({"forkTaskInputs": "${workflow.input.nothing}"}, {}, "forkTaskInputs: it must be a list"),
        ({"all": {"tasks": []}}, {"dynamicForkJoinTasksParam": "all"}, "all: it must be an object with a list of"),
        ({"tasks": [TASK, TASK], "inputs": {}}, PAIR, "'x' is the name of"),
        ({"tasks": [{**TASK, "taskReferenceName": "before"}], "inputs": {}}, PAIR, "the reference of another task"),
        ({"tasks": [{**TASK, "retries": 1}], "inputs": {}}, PAIR, "there is no such field"),
        ({"tasks": [TASK | {"joinOn": 1, "type": "EXCLUSIVE_JOIN"}], "inputs": {}}, PAIR, "it must be a list"),
        (
            {"tasks": [TASK | {"joinOn": ["before"], "type": "EXCLUSIVE_JOIN"}], "inputs": {}},
            PAIR,
            "no task with the reference name 'before'",
        ),
    ],
)
def test_what_can_not_be_forked_ends_the_workflow(
    driver: Driver, given: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    """Invalid or duplicate ref: workflow terminated; the reason says where and why."""
    begin(driver, element("NOOP", "before"), *dynamic_fork(given, **fields))
    assert driver.header().status is WorkflowStatus.FAILED
    assert reason in driver.header().reason
    assert driver.latest("f").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR


def test_a_dynamic_fork_that_is_too_wide_ends_the_workflow(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fan-out 10,000: the reason names the limit."""
    assert limits.FORKED == 10_000
    monkeypatch.setattr(limits, "FORKED", 2)
    begin(driver, *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": [1, 2, 3]}))
    assert driver.header().status is WorkflowStatus.FAILED
    assert "a dynamic fork may have 2 tasks, not 3" in driver.header().reason


def test_a_forked_task_may_be_optional(driver: Driver) -> None:
    """optional: COMPLETED_WITH_ERRORS and go on; so is each of what is forked of one task."""
    driver.register_task(name="a", retryCount=0)
    begin(driver, *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": [1]}, optional=True))
    driver.fail("_a_0")
    assert driver.latest("j").status is TaskStatus.COMPLETED_WITH_ERRORS
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- DYNAMIC


@pytest.mark.parametrize("name", ["HUMAN", "NOOP", "HTTP", "JSON_JQ_TRANSFORM"])
def test_a_dynamic_task_may_be_a_system_task(driver: Driver, name: str) -> None:
    """DYNAMIC replaces itself with a worker/system task."""
    given = {"n": name, "uri": "http://x/", "queryExpression": "."}
    begin(driver, element("DYNAMIC", "d1", given, dynamicTaskNameParam="n"))
    assert driver.latest("d1").type == name
    if name == "HUMAN":
        driver.ok(SignalWorkflow(*ONE, "d1", b"{}"))
    elif name != "NOOP":
        driver.give("d1", b'{"result":1}')
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(("own", "count"), [({}, 2), ({"retryCount": 0}, 0), ({"retryCount": 1}, 1)])
def test_a_dynamic_task_is_tried_as_often_as_it_says_or_else_its_definition(
    driver: Driver, own: dict[str, Any], count: int
) -> None:
    """effective retryCount = workflowTask.retryCount if set, else TaskDef.retryCount."""
    driver.register_task(name="a", retryCount=2, retryDelaySeconds=1)
    begin(driver, element("DYNAMIC", "d1", {"n": "a"}, dynamicTaskNameParam="n", **own))
    for number in range(count + 1):
        assert driver.latest("d1").retry_count == number
        driver.fail("d1")
        driver.wait(1_000)
    assert driver.header().status is WorkflowStatus.FAILED


@pytest.mark.parametrize("value", [None, "", "SUB_WORKFLOW", 7, {"x": 1}])
def test_a_dynamic_task_that_is_nothing_ends_the_workflow(driver: Driver, value: Any) -> None:
    """That def must exist, else workflow terminated."""
    begin(driver, element("DYNAMIC", "d1", {"n": "${workflow.input.n}"}, dynamicTaskNameParam="n"),
          given=msgspec.json.encode({"n": value}))
    assert driver.header().status is WorkflowStatus.FAILED
    assert "DYNAMIC" in driver.header().reason


# --- EVENT


def test_an_event_may_be_ended_from_outside(driver: Driver) -> None:
    """asyncComplete leaves IN_PROGRESS."""
    begin(driver, element("EVENT", "e", {"k": 1}, sink="conductor", asyncComplete=True))
    assert driver.latest("e").status is TaskStatus.IN_PROGRESS
    assert text(driver, "e")["event_produced"] == "conductor:flow:e"
    [waiting] = explain(driver.state, driver.hot())
    assert waiting.waits_for == "the signal 'e', or an update of the task"
    driver.ok(SignalWorkflow(*ONE, "e", b'{"done":true}'))
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_an_event_that_is_too_large_is_not_published(driver: Driver) -> None:
    """An event's payload has the limit of any payload: the task is FAILED and says so."""
    parameters = {"a": "${workflow.input.t}", "b": "y" * (limits.PAYLOAD_BYTES - 150_000 - 40)}
    begin(driver, element("EVENT", "e", parameters, sink="conductor"), given=large_input())
    assert ended(driver, "e") == (TaskStatus.FAILED, "PAYLOAD_INVALID")
    assert "262144" in driver.header().reason


def test_what_no_execution_has_room_for_is_not_published(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has failed was not told to anybody."""
    actions = [{"action": "start_workflow", "start_workflow": {"name": "flow"}}]
    handler = {"name": "h", "event": "conductor:flow:e", "active": True, "actions": actions}
    driver.ok(PutEventHandler("default", msgspec.json.encode(handler)))
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 2_500)
    begin(driver, element("EVENT", "e", {"a": TWICE}, sink="conductor"), given=msgspec.json.encode({"t": "x" * 1000}))
    assert ended(driver, "e") == (TaskStatus.FAILED_WITH_TERMINAL_ERROR, "LIMIT_EXCEEDED")
    assert [key[1] for key in driver.state.hot_keys()] == ["w"]


def test_an_event_that_nobody_has_room_for_fails(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many events wait: the task is FAILED, and its output is not kept."""
    monkeypatch.setattr(limits, "EVENTS", 0)
    begin(driver, element("EVENT", "e", {"k": 1}, sink="conductor"))
    assert ended(driver, "e") == (TaskStatus.FAILED, "EVENTS_FULL")
    assert "events wait to be handled" in driver.header().reason


# --- SWITCH, INLINE, TERMINATE


NO_ROOM = {
    "SWITCH": {"evaluatorType": "value-param", "expression": "v", "decisionCases": {"x": []}},
    "TERMINATE": {},
    "INLINE": {},
    "SET_VARIABLE": {},
}


@pytest.mark.parametrize("kind", NO_ROOM)
def test_an_execution_without_room_fails_what_needs_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Execution 64 MiB: crossing it fails the task with a reason that names it."""
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 2_500)
    given = {"v": TWICE, "evaluatorType": "value-param", "expression": "v"}
    if kind == "TERMINATE":
        given = {"workflowOutput": TWICE, "terminationStatus": "COMPLETED"}
    begin(driver, element(kind, "s", given, **NO_ROOM[kind]), given=msgspec.json.encode({"t": "x" * 1000}))
    assert driver.latest("s").status in (TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR)
    assert driver.latest("s").error_code == "LIMIT_EXCEEDED"
    assert "2500 bytes" in driver.header().reason


def test_a_decision_may_be_a_script(driver: Driver) -> None:
    """DECISION (deprecated): caseExpression; output.caseOutput=[s]."""
    begin(driver, element("DECISION", "s", {"v": 1}, caseExpression="$.v", decisionCases={"1": [simple("a")]}))
    driver.give("s", b'{"result":1}')
    assert text(driver, "s") == {"caseOutput": ["1"]}
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("status", ["FAILED", "FAILED_WITH_TERMINAL_ERROR"])
def test_a_script_that_fails_says_why(driver: Driver, status: str) -> None:
    """Script error = FAILED_WITH_TERMINAL_ERROR and output.error."""
    begin(driver, element("INLINE", "i", {"expression": "$.x.y"}))
    answer = b'{"error":"x is undefined"}'
    driver.give("i", answer, TaskStatus[status], "x is undefined")
    assert driver.latest("i").status is TaskStatus[status]
    assert text(driver, "i") == {"error": "x is undefined"}
    assert driver.header().status is WorkflowStatus.FAILED
    assert "x is undefined" in driver.header().reason


@pytest.mark.parametrize("status", ["RUNNING", "", None, 5])
def test_a_terminate_without_a_status_fails(driver: Driver, status: Any) -> None:
    """terminationStatus COMPLETED, FAILED or TERMINATED; anything else that it turns out to be fails the task."""
    begin(driver, element("TERMINATE", "t", {"terminationStatus": "${workflow.input.s}"}),
          given=msgspec.json.encode({"s": status}))
    assert driver.latest("t").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "terminationStatus must be" in driver.header().reason


def test_a_terminate_gives_its_reason(driver: Driver) -> None:
    """terminationReason; all others cancelled."""
    given = {"terminationStatus": "TERMINATED", "terminationReason": "enough ${workflow.version}"}
    end = element("TERMINATE", "t", given)
    begin(driver, *fork([simple("a")], [end]))
    assert (driver.header().status, driver.header().reason) == (WorkflowStatus.TERMINATED, "enough 1")
    assert driver.latest("a").status is TaskStatus.CANCELED


# --- DO_WHILE


def test_a_loop_may_have_a_limit_of_its_own(driver: Driver) -> None:
    """A loop that never ends comes to its limit, which its input may lower."""
    begin(driver, element("DO_WHILE", "l", {"maxIterations": 2}, loopCondition="true", loopOver=[simple("a")]))
    for number in (1, 2):
        driver.give(f"a__{number}")
        driver.give("l", b'{"result":true}')
    assert ended(driver, "l") == (TaskStatus.FAILED_WITH_TERMINAL_ERROR, "LIMIT_EXCEEDED")
    assert "the loop exceeds the limit of 2 iterations" in driver.header().reason
    assert "a__3" not in driver.hot().attempts_of


def test_a_loop_that_never_ends_comes_to_the_limit_of_tasks(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 tasks: without keepLastN that limit comes first, and the workflow says so."""
    assert (limits.TASKS, limits.ITERATIONS) == (20_000, 1_000_000)
    monkeypatch.setattr(limits, "TASKS", 3)
    begin(driver, element("DO_WHILE", "l", loopCondition="true", loopOver=[simple("a")]))
    for number in (1, 2):
        driver.give(f"a__{number}")
        driver.give("l", b'{"result":true}')
    assert driver.header().status is WorkflowStatus.FAILED
    assert "3 tasks" in driver.header().reason


@pytest.mark.parametrize("key", ["keepLastN", "maxIterations"])
def test_a_loop_whose_numbers_are_none_fails(driver: Driver, key: str) -> None:
    """Nothing that changes the outcome is ignored: what is no number fails the loop."""
    given = {key: "${workflow.input.n}"}
    begin(driver, element("DO_WHILE", "l", given, items=[1], loopOver=[simple("a")]), given=b'{"n":"all"}')
    assert driver.latest("l").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert f"{key} must be a number" in driver.header().reason


def test_items_that_are_no_list_are_nothing(driver: Driver) -> None:
    """List mode: what `items` come to is no list: COMPLETED with iteration 0."""
    begin(driver, element("DO_WHILE", "l", items="${workflow.input.nothing}", loopOver=[simple("a")]))
    assert text(driver, "l") == {"iteration": 0}
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- the workflow


def test_defaults_of_the_workflows_input(driver: Driver) -> None:
    """inputTemplate (put-if-absent)."""
    begin(driver, simple("a", inputParameters={"all": "${workflow.input}"}), inputTemplate={"x": 1, "y": 2},
          given=b'{"x":null,"z":3}')
    assert shown_input(driver, "a")["all"].items() >= {"y": 2, "z": 3}.items()


def test_a_failure_workflow_has_the_version_that_is_asked_for(driver: Driver) -> None:
    """failureWorkflow (+ failureWorkflowVersion)"""
    driver.register(workflow("mourn", simple("b")), workflow("mourn", simple("c"), version=2))
    begin(driver, simple("a", retryCount=0), failureWorkflow="mourn", failureWorkflowVersion=1)
    driver.fail("a")
    [other] = [key[1] for key in driver.state.hot_keys() if key[1] != "w"]
    assert driver.header(other).version == 1


def test_a_failure_workflow_that_names_nothing_is_none(driver: Driver) -> None:
    """The name may be an expression: what gives none starts none."""
    begin(driver, simple("a", retryCount=0), failureWorkflow="$workflow.input.nothing")
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    assert [key[1] for key in driver.state.hot_keys()] == ["w"]


@pytest.mark.parametrize("mode", ["SYNC", "ASYNC"])
def test_both_modes_of_a_join_end_with_the_last_branch(driver: Driver, mode: str) -> None:
    """joinMode SYNC = always immediate; ASYNC polls. A push-based engine has only the result."""
    begin(driver, *fork([simple("a")], [simple("b")], joinMode=mode))
    driver.give("a")
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- sub-workflows


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"name": "child", "version": "new"}, "a version and a priority are numbers"),
        ({"name": "child", "priority": -1}, "a version and a priority are numbers"),
        ({"name": "child", "externalInputPayloadStoragePath": "s3://x"}, "no field externalInputPayloadStoragePath"),
        ({"version": 1}, "startWorkflow.name is missing"),
        ("child", "startWorkflow must be the request to start"),
    ],
)
def test_a_request_to_start_that_can_not_be_kept_fails(driver: Driver, request_: Any, reason: str) -> None:
    """START_WORKFLOW: invalid request FAILED."""
    driver.register(workflow("child", simple("a")))
    begin(driver, element("START_WORKFLOW", "s", {"startWorkflow": "${workflow.input.r}"}),
          given=msgspec.json.encode({"r": request_}))
    assert driver.latest("s").status is TaskStatus.FAILED
    assert reason in driver.header().reason


@pytest.mark.parametrize("definition", ["text", 7, [1]])
def test_a_definition_that_is_none_fails_the_task(driver: Driver, definition: Any) -> None:
    """workflowDefinition (object or "${...}"): what turns out to be none."""
    param = {"name": "child", "workflowDefinition": "${workflow.input.d}"}
    begin(driver, element("SUB_WORKFLOW", "s", subWorkflowParam=param), given=msgspec.json.encode({"d": definition}))
    assert driver.latest("s").status is TaskStatus.FAILED
    assert "workflowDefinition is not a definition" in driver.header().reason


def test_a_sub_workflow_has_the_version_the_priority_and_the_domains_that_are_asked_for(driver: Driver) -> None:
    """subWorkflowParam {name, version, taskToDomain, priority}; priority only if set explicitly."""
    driver.register(workflow("child", simple("a")), workflow("child", simple("b"), version=2))
    param = {"name": "child", "version": 1, "priority": 7, "taskToDomain": {"a": "gpu"}}
    begin(driver, element("SUB_WORKFLOW", "s", subWorkflowParam=param))
    header = driver.header(driver.latest("s").child)
    assert (header.version, header.priority, header.task_to_domain) == (1, 7, (("a", "gpu"),))


# --- what comes too late, or to nobody


def test_a_failure_workflow_gets_what_fits_into_an_input(driver: Driver) -> None:
    """failedWorkflow (whole object): as much of it as an input may hold."""
    driver.register(workflow("mourn", simple("e")))
    tasks = [simple(one) for one in "ab"]
    begin(driver, *tasks, simple("c", retryCount=0), failureWorkflow="mourn")
    for one in "ab":
        driver.give(one, msgspec.json.encode({"t": LARGE}))
    driver.fail("c")
    [other] = [key[1] for key in driver.state.hot_keys() if key[1] != "w"]
    given = msgspec.json.decode(driver.hot(other).load(driver.header(other).input))
    assert given["reason"] == driver.header().reason
    assert [one["referenceTaskName"] for one in given["failedWorkflow"]["tasks"]] == ["a", "b", "c"]
    assert "outputData" not in given["failedWorkflow"]["tasks"][0]


def test_the_output_of_a_workflow_that_does_not_fit_says_so(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too late to fail a task: the outcome stands, and says what is missing."""
    shown = {"x": TWICE, "y": TWICE}
    begin(driver, simple("a"), outputParameters=shown, given=msgspec.json.encode({"t": "x" * 1000}))
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 2_000)
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert "2000 bytes" in driver.header().reason
    assert driver.hot().load(driver.header().output) == b"{}"
