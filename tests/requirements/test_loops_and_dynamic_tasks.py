"""Loops, dynamic tasks and forks, and what nodes evaluate: CONDUCTOR.md's rules, each the docstring of its test."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits, places, queries
from orchestrator.engine.choices import DeadlineKind, IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    CompleteTask,
    ExpireDeadline,
    ExpireSession,
    OpenSession,
    PauseWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    StartWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.definitions.expansion import compile_forked
from orchestrator.engine.explain import explain
from orchestrator.engine.messages import ContinueExecution
from orchestrator.engine.model import SessionKind, TaskStatus, WorkflowStatus
from orchestrator.engine.plan import plan_of
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import TRUTHS, begin, element, fork, shown_input, switch, text

ONE = ("default", "w")
SCRIPT = "system/script"


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", *"abcde", slots=50)
    node = ("system/http", "system/grpc", "system/jq", SCRIPT)
    driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", node, 50, 10_000))
    return driver


def say(driver: Driver, reference: str, value: Any) -> None:
    """A node's answer to what it was to evaluate."""
    driver.give(reference, msgspec.json.encode({"result": value}))


def asked(driver: Driver, reference: str) -> Any:
    """(input, parameters) of the evaluation that a node was handed."""
    view = queries.assignment_view(driver.state, driver.hot(), driver.latest(reference).fencing_token)
    assert view is not None
    return msgspec.json.decode(view.input), msgspec.json.decode(view.parameters)


def loop(*body: dict[str, Any], condition: str = "$.l['iteration'] < 3", **fields: Any) -> dict[str, Any]:
    return element("DO_WHILE", "l", loopCondition=condition, loopOver=list(body), **fields)


# --- loops


def test_a_loop_goes_on_while_its_condition_says_so(driver: Driver) -> None:
    """Iterations count from 1, references get `__n`; the output has each iteration's outputs and the last number."""
    begin(driver, loop(simple("a"), simple("b")), simple("c"))
    for number in (1, 2):
        driver.give(f"a__{number}", b'{"n":%d}' % number)
        driver.give(f"b__{number}")
        assert asked(driver, "l")[0]["l"]["iteration"] == number
        say(driver, "l", number < 2)
    assert [driver.latest(f"a__{number}").iteration for number in (1, 2)] == [1, 2]
    assert text(driver, "l") == {"1": {"a": {"n": 1}, "b": {}}, "2": {"a": {"n": 2}, "b": {}}, "iteration": 2}
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_condition_sees_the_input_and_the_newest_outputs(driver: Driver) -> None:
    """`$` has the loop's inputs, the outputs of its tasks without suffix, and its own output under its reference."""
    begin(driver, loop(simple("a"), inputParameters={"most": 5}))
    driver.give("a__1", b'{"n":7}')
    given, parameters = asked(driver, "l")
    assert given == {"most": 5, "a": {"n": 7}, "l": {"1": {"a": {"n": 7}}, "iteration": 1}}
    assert parameters == {"expression": "$.l['iteration'] < 3", "body": False}


def test_a_condition_sees_the_input_as_it_is_now(driver: Driver) -> None:
    """The loop's inputs are resolved again for each condition; what the task shows as its input stays as it was."""
    given = {"n": "${a.output.n}", "v": "${workflow.variables.v}"}
    body = (simple("a"), element("SET_VARIABLE", "b", {"v": "${a.output.n}"}))
    begin(driver, loop(*body, inputParameters=given))
    for number in (7, 8):
        driver.give(f"a__{number - 6}", b'{"n":%d}' % number)
        seen = asked(driver, "l")[0]
        assert (seen["n"], seen["v"]) == (number, number)
        say(driver, "l", number < 8)
    assert shown_input(driver, "l") == {"n": None, "v": None}


def test_a_condition_input_that_has_grown_too_large_fails_the_loop(driver: Driver) -> None:
    """An input exceeds the limit: FAILED_WITH_TERMINAL_ERROR, also one that is resolved again."""
    big = {"n": ["${a.output.n}"] * 9}
    begin(driver, loop(simple("a"), inputParameters=big))
    driver.give("a__1", b'{"n":"%s"}' % (b"x" * 50_000))
    assert driver.latest("l").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert driver.latest("l").error_code == "LIMIT_EXCEEDED"


def test_a_condition_sees_outputs_of_earlier_iterations_and_of_inner_loops(driver: Driver) -> None:
    """Outputs of body refs: the newest of each, in whatever iteration, those in inner loops included."""
    inner = element("DO_WHILE", "k", loopCondition="", items=[1], loopOver=[simple("b")])
    chosen = switch("s", "${workflow.variables.c}", {"x": [simple("a")]})
    body = (chosen, inner, element("SET_VARIABLE", "v", {"c": "y"}))
    begin(driver, loop(*body), variables={"c": "x"})
    driver.give("a__1", b'{"n":7}')
    driver.give("b__1__1", b'{"m":1}')
    say(driver, "l", True)
    assert driver.hot().latest("a__2") is None
    driver.give("b__2__1", b'{"m":2}')
    seen = asked(driver, "l")[0]
    assert (seen["a"], seen["b"]) == ({"n": 7}, {"m": 2})


@pytest.mark.parametrize("items", ["${workflow.input.one}", "x", {"q": 1}, 5])
def test_a_single_item_is_a_list_of_one(driver: Driver, items: Any) -> None:
    """Items that are no list are one item; null is none."""
    body = simple("a", inputParameters={"x": "${l.output.loopItem}"})
    begin(driver, loop(body, condition="", items=items), given=b'{"one":{"p":1}}')
    assert shown_input(driver, "a__1")["x"] == ({"p": 1} if items == "${workflow.input.one}" else items)
    driver.give("a__1")
    assert text(driver, "l")["iteration"] == 1
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_blank_items_are_none(driver: Driver) -> None:
    """An empty string, as exported definitions have it: the condition alone counts."""
    begin(driver, loop(simple("a"), items="", inputParameters={"_items": " "}))
    driver.give("a__1")
    say(driver, "l", False)
    assert text(driver, "l") == {"1": {"a": {}}, "iteration": 1}


def test_a_permissive_failure_fails_its_loop(driver: Driver) -> None:
    """Failure in the body (after retries, non optional) => DO_WHILE FAILED with joined reasons; and with it what is
    around it, by the loop's own reason, though the task is permissive."""
    late = simple("a", permissive=True, retryCount=0, taskDefinition={"name": "a", "responseTimeoutSeconds": 5})
    begin(driver, loop(*fork([late], [simple("b")])))
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a__1").fencing_token))
    failed = driver.latest("l")
    assert (failed.status, failed.reason) == (TaskStatus.FAILED, driver.latest("a__1").reason)
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().reason == f"Task {failed.task_id} failed with status: FAILED and reason: '{failed.reason}'"
    assert driver.header().failed_task == "l"


def test_a_permissive_loop_in_a_loop_fails_that(driver: Driver) -> None:
    """The same, from loop to loop; an optional one goes on with errors, and what was permissive counts in the end."""
    inner = element("DO_WHILE", "k", loopCondition="$.x", permissive=True,
                    loopOver=[simple("a", permissive=True, retryCount=0)])
    begin(driver, loop(inner, optional=True), simple("c"))
    driver.fail("a__1__1", "no")
    statuses = [driver.latest(one).status for one in ("k__1", "l")]
    assert statuses == [TaskStatus.FAILED, TaskStatus.COMPLETED_WITH_ERRORS]
    driver.give("c")
    assert driver.header().status is WorkflowStatus.FAILED


def test_an_expression_takes_the_latest_iteration(driver: Driver) -> None:
    """References to what is in a loop have no suffix; the latest iteration wins."""
    body = (simple("a"), simple("b", inputParameters={"n": "${a.output.n}", "at": "${l.output.iteration}"}))
    begin(driver, loop(*body), simple("c", inputParameters={"n": "${a.output.n}"}))
    for number in (1, 2):
        driver.give(f"a__{number}", b'{"n":%d}' % number)
        assert shown_input(driver, f"b__{number}") == {"n": number, "at": number}
        driver.give(f"b__{number}")
        say(driver, "l", number < 2)
    assert shown_input(driver, "c") == {"n": 2}


def test_a_loop_goes_through_items(driver: Driver) -> None:
    """loopIndex counts from 0, loopItem is the item; it goes on while there are items, and the condition holds."""
    body = simple("a", inputParameters={"i": "${l.output.loopIndex}", "x": "${l.output.loopItem}"})
    begin(driver, loop(body, condition="", items="${workflow.input.list}"), given=b'{"list":["p",{"q":1}]}')
    assert shown_input(driver, "a__1") == {"i": 0, "x": "p"}
    driver.give("a__1")
    assert shown_input(driver, "a__2") == {"i": 1, "x": {"q": 1}}
    driver.give("a__2")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert text(driver, "l")["iteration"] == 2


def test_items_in_the_input_are_those_of_a_loop_without_a_condition(driver: Driver) -> None:
    """Definitions that were written for other editions name the list in the input, and any evaluator."""
    listed = {"items": ["x", "y"]}
    begin(
        driver,
        element("DO_WHILE", "l", listed, loopCondition="", loopOver=[simple("a")], evaluatorType="value-param"),
    )
    driver.give("a__1")
    driver.give("a__2")
    assert text(driver, "l")["iteration"] == 2
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_loop_over_nothing_is_complete(driver: Driver) -> None:
    """An empty list: COMPLETED with iteration 0."""
    begin(driver, loop(simple("a"), condition="", items=[]))
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert text(driver, "l") == {"iteration": 0}


def test_a_loop_keeps_the_last_iterations(driver: Driver) -> None:
    """keepLastN drops older keys and removes the old tasks."""
    begin(driver, loop(simple("a"), inputParameters={"keepLastN": 2}))
    for number in range(1, 5):
        driver.give(f"a__{number}", b'{"n":"%s"}' % (b"x" * 5000))
        say(driver, "l", number < 4)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert sorted(text(driver, "l")) == ["3", "4", "iteration"]
    assert sorted(driver.hot().attempts_of) == ["a__3", "a__4", "l"]
    assert len(driver.hot().payloads) == 2


def test_keeping_the_last_iterations_keeps_what_is_owed(driver: Driver) -> None:
    """keepLastN never removes an owed record; `step` is that record, also of the iteration long gone."""
    undone = {"name": "b", "type": "SIMPLE", "inputParameters": {"was": "${step.output.n}"}}
    body = {**simple("a"), "compensateWith": undone}
    begin(driver, loop(body, inputParameters={"keepLastN": 1}), simple("c", retryCount=0))
    for number in (1, 2, 3):
        driver.give(f"a__{number}", b'{"n":%d}' % number)
        say(driver, "l", number < 3)
    driver.fail("c")
    for number in (3, 2, 1):
        attempt = next(one for one in driver.hot().tasks.values() if one.compensates and not one.ended_ms)
        assert msgspec.json.decode(queries.resolved_input(driver.state, driver.hot(), attempt)) == {"was": number}
        assert attempt.iteration == number
        driver.give(attempt)
    assert driver.header().status is WorkflowStatus.FAILED
    assert len(driver.header().done) == 3


def test_a_broken_condition_fails_the_loop_for_good(driver: Driver) -> None:
    """Bad script: FAILED_WITH_TERMINAL_ERROR."""
    begin(driver, loop(simple("a")))
    driver.give("a__1")
    driver.give("l", b'{"error":"x is not defined"}', TaskStatus.FAILED_WITH_TERMINAL_ERROR, "no")
    assert driver.latest("l").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert driver.header().status is WorkflowStatus.FAILED
    assert "x is not defined" in driver.header().reason


def test_a_failure_inside_fails_the_loop(driver: Driver) -> None:
    """A failure in the body, after retries and not optional: the DO_WHILE is FAILED with the reasons joined."""
    begin(driver, loop(simple("a", retryCount=0)))
    driver.fail("a__1", "broken")
    assert driver.latest("l").status is TaskStatus.FAILED
    assert driver.latest("l").reason == "broken"
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().failed_task == "a__1"


def test_an_optional_loop_that_fails_is_left(driver: Driver) -> None:
    """What is open in it is cancelled, and the workflow goes on after it."""
    branches = fork([simple("a", retryCount=0)], [simple("b")])
    begin(driver, loop(*branches, optional=True), simple("c"))
    driver.fail("a__1")
    assert driver.latest("l").status is TaskStatus.COMPLETED_WITH_ERRORS
    assert driver.latest("b__1").status is TaskStatus.CANCELED
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_retried_loop_resumes_its_iteration(driver: Driver) -> None:
    """A retried DO_WHILE resumes its current iteration."""
    begin(driver, loop(simple("a"), simple("b", retryCount=0)))
    driver.give("a__1")
    driver.give("b__1")
    say(driver, "l", True)
    driver.give("a__2")
    driver.fail("b__2")
    driver.ok(RetryWorkflow("default", "w"))
    assert driver.latest("l").status is TaskStatus.IN_PROGRESS
    driver.give("b__2")
    say(driver, "l", False)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(driver.hot().attempts_of["b__2"]) == 2


def test_loops_stand_in_loops(driver: Driver) -> None:
    """Inner references have the numbers of both."""
    inner = element("DO_WHILE", "k", loopCondition="$.k['iteration'] < 2", loopOver=[simple("a")])
    begin(driver, loop(inner, simple("b")))
    for outer in (1, 2):
        for number in (1, 2):
            driver.give(f"a__{outer}__{number}")
            say(driver, f"k__{outer}", number < 2)
        driver.give(f"b__{outer}")
        say(driver, "l", outer < 2)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert text(driver, "l")["2"]["k"] == {"1": {"a": {}}, "2": {"a": {}}, "iteration": 2}


def test_a_switch_and_a_fork_stand_in_a_loop(driver: Driver) -> None:
    """An iteration is done when all its tasks are, however deep; also what no JOIN waits for."""
    choice = element(
        "SWITCH", "w1", {"v": "x"}, evaluatorType="value-param", expression="v", decisionCases={"x": [simple("c")]}
    )
    begin(driver, loop(*fork([simple("a")], [simple("b")], on=["a"]), choice))
    driver.give("a__1")
    driver.give("c__1")
    assert driver.latest("l").fencing_token == 0
    driver.give("b__1")
    say(driver, "l", False)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_an_output_that_grows_too_large_names_what_to_do(driver: Driver) -> None:
    """The payload limit counts the assembled size; its error names keepLastN."""
    begin(driver, loop(simple("a")))
    for number in (1, 2, 3):
        driver.give(f"a__{number}", b'{"n":"%s"}' % (b"x" * 100_000))
        if number < 3:
            say(driver, "l", True)
    assert driver.latest("l").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "keepLastN" in driver.latest("l").reason


def test_a_loop_that_never_ends_has_a_limit(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop has at most so many iterations."""
    monkeypatch.setattr(limits, "ITERATIONS", 2)
    begin(driver, loop(simple("a")))
    for number in (1, 2):
        driver.give(f"a__{number}")
        say(driver, "l", True)
    assert driver.latest("l").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "2 iterations" in driver.latest("l").reason


def test_a_paused_loop_waits(driver: Driver) -> None:
    """Pause holds the next iteration."""
    begin(driver, loop(simple("a")))
    driver.give("a__1")
    driver.ok(PauseWorkflow("default", "w"))
    say(driver, "l", True)
    assert driver.hot().latest("a__2") is None
    driver.ok(ResumeWorkflow("default", "w"))
    assert driver.latest("a__2").status is TaskStatus.IN_PROGRESS


# --- evaluations


def test_a_script_chooses_a_branch(driver: Driver) -> None:
    """javascript: the result of the script, stringified; input.case, output.evaluationResult, output.selectedCase."""
    task = element(
        "SWITCH", "w1", {"v": 1}, evaluatorType="javascript", expression="$.v + 1", decisionCases={"2": [simple("a")]}
    )
    begin(driver, task)
    assert asked(driver, "w1") == ({"v": 1}, {"expression": "$.v + 1", "body": False})
    say(driver, "w1", 2)
    assert text(driver, "w1") == {"evaluationResult": ["2"], "selectedCase": "2"}
    assert shown_input(driver, "w1") == {"v": 1, "case": "2", "hasChildren": "true"}
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(("value", "is_true", "case"), TRUTHS)
def test_conditions_mean_the_same_wherever_they_stand(driver: Driver, value: bytes, is_true: bool, case: str) -> None:
    """DO_WHILE: a number > 0 is true; SWITCH and DECISION: the result, stringified (null gives "null")."""
    inner = {"decisionCases": {case: [element("NOOP", "chosen")], "other": []}, "defaultCase": [element("NOOP", "n1")]}
    other = {"decisionCases": {case: [element("NOOP", "chosen2")], "other": []}, "defaultCase": [element("NOOP", "n2")]}
    begin(
        driver,
        element("INLINE", "i", {"evaluatorType": "javascript", "expression": "$.v"}),
        element("SWITCH", "w1", {"v": "${i.output.result}"}, evaluatorType="javascript", expression="$.v", **inner),
        element("DECISION", "d1", {"v": "${i.output.result}"}, caseExpression="$.v", **other),
        element("SWITCH", "w2", {"v": "${i.output.result}"}, evaluatorType="value-param", expression="v",
                decisionCases={case: [element("NOOP", "chosen3")], "other": []}),
        loop(element("NOOP", "n"), condition="$.v"),
    )
    for reference in ("i", "w1", "d1", "l"):
        driver.give(reference, b'{"result":%b}' % value)
    assert driver.latest("i").output == b'{"result":%b}' % value
    assert {"chosen", "chosen2", "chosen3"} <= set(driver.hot().attempts_of)
    assert driver.latest("l").position == (2 if is_true else 1)


def test_a_switch_whose_script_fails_fails(driver: Driver) -> None:
    """Evaluation exception: the SWITCH is FAILED."""
    task = element("SWITCH", "w1", {}, evaluatorType="javascript", expression="x", decisionCases={"2": [simple("a")]})
    begin(driver, task)
    driver.give("w1", b'{"error":"x is not defined"}', TaskStatus.FAILED_WITH_TERMINAL_ERROR)
    assert driver.latest("w1").status is TaskStatus.FAILED
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_decision_is_a_switch_by_another_name(driver: Driver) -> None:
    """DECISION (deprecated): caseValueParam; output.caseOutput; its own type is shown."""
    task = element("DECISION", "d1", {"v": "x"}, caseValueParam="v", decisionCases={"x": [simple("a")]})
    begin(driver, task)
    assert driver.latest("d1").type == "DECISION"
    assert text(driver, "d1") == {"caseOutput": ["x"]}
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_an_empty_case_of_a_decision_is_the_defaults(driver: Driver) -> None:
    """Of a DECISION the default is gone also where the case has no tasks; of a SWITCH an empty list means nothing."""
    branches = {"decisionCases": {"x": [], "y": [simple("a")]}, "defaultCase": [simple("b")]}
    begin(driver, element("DECISION", "d1", {"v": "x"}, caseValueParam="v", **branches))
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED
    driver.register(workflow("switch", switch("s1", "x", branches["decisionCases"], branches["defaultCase"])))
    driver.start("switch", "other")
    assert driver.header("other").status is WorkflowStatus.COMPLETED


def test_an_inline_script_is_evaluated_by_a_node(driver: Driver) -> None:
    """expression raw with `$` the input; output.result."""
    begin(driver, element("INLINE", "i", {"v": 2, "evaluatorType": "graaljs", "expression": "`${$.v}`"}))
    given, parameters = asked(driver, "i")
    assert given["v"] == 2
    assert parameters == {"expression": "`${$.v}`", "body": False}
    say(driver, "i", "2")
    assert text(driver, "i") == {"result": "2"}
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(("kind", "key"), [("INLINE", "expression"), ("LAMBDA", "scriptExpression")])
def test_references_in_a_script_are_resolved_and_template_literals_are_not(
    driver: Driver, kind: str, key: str
) -> None:
    """Inputs are resolved before the script is run, the script among them. What begins no reference is JavaScript."""
    script = "`${x} ${workflow.input.n} ${a.output.list}.length $${a.output.list} ${$.v} ${workflow.of} $${x}`"
    begin(driver, simple("a"), element(kind, "i", {"v": 2, key: script}), given=b'{"n":7}')
    driver.give("a", b'{"list":[1,2]}')
    said = asked(driver, "i")[1]["expression"]
    assert said == "`${x} 7 [1,2].length ${a.output.list} ${$.v} ${workflow.of} $${x}`"


def test_a_whole_script_can_come_from_elsewhere(driver: Driver) -> None:
    """A string that is one expression is what it refers to."""
    given = {"v": 2, "expression": "${workflow.input.script}"}
    begin(driver, element("INLINE", "i", given), given=b'{"script":"$.v * 2"}')
    assert asked(driver, "i")[1]["expression"] == "$.v * 2"


def test_a_value_param_needs_no_node(driver: Driver) -> None:
    """evaluatorType value-param: the input parameter that the expression names."""
    begin(driver, element("INLINE", "i", {"v": {"k": 1}, "evaluatorType": "value-param", "expression": "v"}))
    assert text(driver, "i") == {"result": {"k": 1}}


def test_nodes_take_on_no_more_than_they_have_slots_for(driver: Driver) -> None:
    """What nodes execute is limited by each node's slots, calls and scripts apart; the rest waits its turn."""
    driver = Driver()
    for node in ("n1", "n2"):
        for kind, names, slots in (("c", ("system/http", "system/grpc"), 2), ("s", (SCRIPT,), 1)):
            driver.ok(OpenSession(f"{node}{kind}", SessionKind.STREAM, "$system", "", node, names, slots, 10_000))
    calls = [element("HTTP", f"h{number}", {"uri": "http://x/"}) for number in range(7)]
    script = {"evaluatorType": "javascript", "expression": "1"}
    scripts = [element("INLINE", f"i{number}", script) for number in range(3)]
    begin(driver, *fork(*([one] for one in (*calls, *scripts))))

    def held() -> dict[str, list[str]]:
        hot = driver.hot()
        leases = sorted(driver.state.leases.values(), key=lambda lease: lease.token)
        references = {attempt.sequence: attempt.reference for attempt in hot.tasks.values()}
        sessions = ("n1c", "n2c", "n1s", "n2s")
        return {one: [references[each.task_sequence] for each in leases if each.session_id == one] for one in sessions}

    assert [len(held()[one]) for one in ("n1c", "n2c", "n1s", "n2s")] == [2, 2, 1, 1]
    said = [waiting.waits_for for waiting in explain(driver.state, driver.hot()) if waiting.reference == "h6"]
    assert said == ["a node with a free slot for system/http"]
    first = held()["n1c"][0]
    driver.give(first, b'{"response":{}}')
    assert [len(held()[one]) for one in ("n1c", "n2c", "n1s", "n2s")] == [2, 2, 1, 1]
    assert "h4" in held()["n1c"]
    while any(held().values()):
        driver.give(next(each[0] for each in held().values() if each), b'{"result":1}')
        assert all(len(each) <= (1 if one.endswith("s") else 2) for one, each in held().items())
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_lambda_is_the_body_of_a_function(driver: Driver) -> None:
    """LAMBDA (deprecated): scriptExpression wrapped in a function body, so that `return` works."""
    begin(driver, element("LAMBDA", "i", {"scriptExpression": "return 1;"}))
    assert driver.latest("i").type == "LAMBDA"
    assert asked(driver, "i")[1] == {"expression": "return 1;", "body": True}


def test_an_evaluation_of_a_lost_node_is_done_by_another(driver: Driver) -> None:
    """The node that evaluates is lost like any worker: another one does it."""
    begin(driver, loop(simple("a")))
    driver.give("a__1")
    driver.ok(ExpireSession("node"))
    driver.ok(OpenSession("other", SessionKind.STREAM, "$system", "", "other", (SCRIPT,), 5, 10_000))
    say(driver, "l", False)
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- dynamic tasks and forks


def dynamic_fork(given: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [element("FORK_JOIN_DYNAMIC", "f", given, **fields), element("JOIN", "j")]


PAIR = {"dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs"}


def test_a_dynamic_task_becomes_what_its_input_says(driver: Driver) -> None:
    """DYNAMIC replaces itself with the task whose name is input[dynamicTaskNameParam]; that definition must exist."""
    driver.register_task(name="a", retryCount=0)
    begin(driver, element("DYNAMIC", "d1", {"n": "${workflow.input.n}"}, dynamicTaskNameParam="n"), given=b'{"n":"a"}')
    assert (driver.latest("d1").type, driver.latest("d1").name) == ("SIMPLE", "a")
    driver.give("d1")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_dynamic_task_that_is_not_defined_ends_the_workflow(driver: Driver) -> None:
    """That definition must exist, or the workflow is terminated."""
    begin(driver, element("DYNAMIC", "d1", {"n": "nothing"}, dynamicTaskNameParam="n"))
    assert driver.header().status is WorkflowStatus.FAILED
    assert "nothing" in driver.header().reason


def test_a_dynamic_fork_of_given_tasks(driver: Driver) -> None:
    """dynamicForkTasksParam is a list of tasks, dynamicForkTasksInputParamName a map of inputs by reference."""
    tasks = [
        {"name": "a", "taskReferenceName": "x", "type": "SIMPLE", "inputParameters": {"k": "${workflow.input.k}"}},
        {"name": "b", "taskReferenceName": "y", "type": "SIMPLE"},
    ]
    given = {"tasks": tasks, "inputs": {"x": {"own": 1}}}
    begin(driver, *dynamic_fork({"tasks": "${workflow.input.tasks}", "inputs": "${workflow.input.inputs}"}, **PAIR),
          simple("c", inputParameters={"got": "${x.output.r}"}), given=msgspec.json.encode({**given, "k": 5}))
    assert shown_input(driver, "x") == {"k": 5, "own": 1}
    assert shown_input(driver, "f")["forkedTasks"] == ["x", "y"]
    driver.give("x", b'{"r":1}')
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("y")
    assert text(driver, "j") == {"x": {"r": 1}}
    assert shown_input(driver, "c") == {"got": 1}
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_dynamic_fork_of_one_task(driver: Driver) -> None:
    """forkTaskName and forkTaskInputs: references `_<name>_<i>`, input has `__index`; what is no map is {input: it}."""
    begin(driver, *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": [{"k": 1}, 2]}))
    assert shown_input(driver, "_a_0") == {"k": 1, "__index": 0}
    assert shown_input(driver, "_a_1") == {"input": 2, "__index": 1}
    driver.give("_a_1", b'{"r":2}')
    driver.give("_a_0", b'{"r":1}')
    assert text(driver, "j") == {"_a_0": {"r": 1}, "_a_1": {"r": 2}}
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_dynamic_fork_of_the_old_form(driver: Driver) -> None:
    """dynamicForkJoinTasksParam: each task with its name, reference and input."""
    tasks = {"dynamicTasks": [{"taskName": "a", "referenceName": "x", "type": "SIMPLE", "input": {"k": 1}}]}
    begin(driver, *dynamic_fork({"all": tasks}, dynamicForkJoinTasksParam="all"))
    assert shown_input(driver, "x") == {"k": 1}
    driver.give("x")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_dynamic_fork_of_nothing(driver: Driver) -> None:
    """Empty list: the JOIN completes."""
    begin(driver, *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": []}))
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(
    "tasks",
    [
        [{"name": "a", "taskReferenceName": "f", "type": "SIMPLE"}],
        [{"name": "a", "taskReferenceName": "x"}, {"name": "a", "taskReferenceName": "x"}],
        [{"name": "a"}],
        "nothing",
        [{"name": "a", "taskReferenceName": "x", "type": "KAFKA_PUBLISH"}],
    ],
)
def test_an_invalid_dynamic_fork_ends_the_workflow(driver: Driver, tasks: Any) -> None:
    """Invalid or duplicate reference: the workflow is terminated, and says why."""
    begin(driver, *dynamic_fork({"tasks": tasks, "inputs": {}}, **PAIR))
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().reason


def test_a_dynamic_fork_in_a_loop(driver: Driver) -> None:
    """Each iteration forks anew."""
    forked = dynamic_fork({"forkTaskName": "a", "forkTaskInputs": [1, 2]})
    begin(driver, loop(*forked, inputParameters={"keepLastN": 1}))
    for number in (1, 2):
        driver.give(f"_a_0__{number}", b'{"r":1}')
        driver.give(f"_a_1__{number}")
        assert text(driver, f"j__{number}") == {f"_a_0__{number}": {"r": 1}}
        say(driver, "l", number < 2)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert sorted(driver.hot().attempts_of) == ["_a_0__2", "_a_1__2", "f__2", "j__2", "l"]
    assert len(driver.hot().expansions) == 1


def test_a_forked_task_is_tried_again(driver: Driver) -> None:
    """Retries of a forked task have the definition and the input that it was forked with."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=1)
    begin(driver, *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": [1]}))
    driver.fail("_a_0")
    driver.register_task(name="a", retryCount=0)
    driver.wait(1000)
    assert shown_input(driver, "_a_0") == {"input": 1, "__index": 0}
    driver.give("_a_0")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_large_fork_is_made_in_slices(driver: Driver) -> None:
    """Expansion goes in slices, each a bounded step; the JOIN completes with the last branch."""
    driver.check = False
    count = 1000
    begin(driver, *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": list(range(count))}))
    driver.ok(OpenSession("many", SessionKind.STREAM, "default", "", "many", ("a",), 2 * count, 10_000))
    for position in range(count):
        assert driver.header().status is WorkflowStatus.RUNNING
        driver.give(f"_a_{position}", b'{"r":1}')
    driver.check = True
    driver.verify()
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(text(driver, "j")) == count


def test_results_that_come_while_a_fork_is_made_do_not_make_the_rest_of_it(driver: Driver) -> None:
    """An entry has many commands: they leave the making of branches to the one message that sees to it."""
    driver.check = False
    count, given = 2_000, 50
    driver.ok(OpenSession("many", SessionKind.STREAM, "default", "", "many", ("a",), given, 10_000))
    driver.register(workflow("flow", *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": list(range(count))})))
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    driver.machine.apply(StartWorkflow("default", "flow", 0, "w", IfExists.FAIL, b"{}"))
    driver.machine.end_entry(b"")
    made = len(driver.hot().tasks)
    assert given <= made <= limits.TRANSITIONS_PER_STEP + 2
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    for position in range(given):
        attempt = driver.latest(f"_a_{position}")
        result = CompleteTask(
            *ONE, attempt.task_id, attempt.fencing_token, TaskStatus.COMPLETED, b'{"r":1}', "", ""
        )
        driver.machine.apply(result)
    driver.machine.end_entry(b"")
    assert len(driver.hot().tasks) == made + 1  # the JOIN
    assert [type(message) for message in driver.state.messages.values()] == [ContinueExecution]
    driver.verify()
    driver.entry()
    for position in range(given, count):
        driver.give(f"_a_{position}", b'{"r":1}')
    driver.check = True
    driver.verify()
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(text(driver, "j")) == count


def test_a_fork_that_is_paused_while_it_is_made_is_made_on_resuming(driver: Driver) -> None:
    driver.check = False
    count = 300
    driver.ok(OpenSession("many", SessionKind.STREAM, "default", "", "many", ("a",), 2 * count, 10_000))
    driver.register(workflow("flow", *dynamic_fork({"forkTaskName": "a", "forkTaskInputs": list(range(count))})))
    driver.messages_per_entry = 1
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    driver.machine.apply(StartWorkflow("default", "flow", 0, "w", IfExists.FAIL, b"{}"))
    driver.machine.apply(PauseWorkflow(*ONE))
    driver.machine.end_entry(b"")
    driver.entry()
    driver.verify()
    made = len(driver.hot().tasks)
    assert made < count and not driver.state.messages
    driver.check = True
    driver.ok(ResumeWorkflow(*ONE))
    assert len(driver.hot().tasks) == count + 2
    driver.check = False
    for position in range(count):
        driver.give(f"_a_{position}", b'{"r":1}')
    driver.check = True
    driver.verify()
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_is_checked_when_tasks_are_forked_is_what_a_node_reads_anew(driver: Driver) -> None:
    """A replica that has just restarted compiles the document; the others have done so when they checked it."""
    undone = {"name": "b", "type": "SIMPLE", "inputParameters": {"was": "${step.output.n}"}}
    tasks = [
        {"name": "a", "taskReferenceName": "x", "type": "SIMPLE", "compensateWith": undone, "retryCount": 7},
        switch("y", 1, {"c": [simple("c")]}),
        element("DO_WHILE", "z", items=[1, 2], loopOver=[simple("d")]),
    ]
    forked = dynamic_fork({"tasks": "${workflow.input.tasks}", "inputs": {}}, **PAIR)
    loop = element("DO_WHILE", "around", items=[1], loopOver=[*forked])
    begin(driver, loop, given=msgspec.json.encode({"tasks": tasks}))
    hot = driver.hot()
    [expansion] = hot.expansions.values()
    known = places.plan_at(plan_of(driver.state, hot.execution.bundle), hot, expansion.number)
    assert compile_forked(hot.load(expansion.document), expansion.loops) == known.nodes


def test_what_was_forked_is_undone(driver: Driver) -> None:
    """A forked task's own compensation is run."""
    undone = {"name": "b", "type": "SIMPLE", "inputParameters": {"was": "${step.output.n}"}}
    tasks = [{"name": "a", "taskReferenceName": "x", "type": "SIMPLE", "compensateWith": undone}]
    forked = dynamic_fork({"tasks": "${workflow.input.tasks}", "inputs": {}}, **PAIR)
    begin(driver, *forked, simple("c", retryCount=0), given=msgspec.json.encode({"tasks": tasks}))
    driver.give("x", b'{"n":4}')
    driver.fail("c")
    attempt = driver.undoing("x")
    assert msgspec.json.decode(queries.resolved_input(driver.state, driver.hot(), attempt)) == {"was": 4}
    driver.give(attempt)
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_replica_goes_on_from_the_rows(driver: Driver) -> None:
    """Loops and dynamic forks are rows: a replica that reads them goes on as one that made them."""
    begin(driver, loop(*dynamic_fork({"forkTaskName": "a", "forkTaskInputs": [1, 2]})))
    driver.give("_a_0__1")
    driver = driver.restart()
    driver.give("_a_1__1")
    driver = driver.restart()
    say(driver, "l", True)
    driver = driver.restart()
    driver.give("_a_0__2")
    driver.give("_a_1__2")
    say(driver, "l", False)
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- other types


def test_an_exclusive_join_takes_the_branch_that_was_gone(driver: Driver) -> None:
    """EXCLUSIVE_JOIN: the first existing task of joinOn; copies its output."""
    choice = element(
        "SWITCH",
        "w1",
        {"v": "y"},
        evaluatorType="value-param",
        expression="v",
        decisionCases={"x": [simple("a")], "y": [simple("b")]},
    )
    begin(driver, choice, element("EXCLUSIVE_JOIN", "e1", joinOn=["a", "b"]))
    driver.give("b", b'{"r":1}')
    assert text(driver, "e1") == {"r": 1}
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_an_exclusive_join_may_have_a_stand_in(driver: Driver) -> None:
    """None of joinOn exists: the first existing of defaultExclusiveJoinTask."""
    choice = element(
        "SWITCH", "w1", {"v": "z"}, evaluatorType="value-param", expression="v", decisionCases={"x": [simple("a")]}
    )
    begin(driver, choice, element("EXCLUSIVE_JOIN", "e1", joinOn=["a"], defaultExclusiveJoinTask=["w1"]))
    assert text(driver, "e1") == {"evaluationResult": ["z"], "selectedCase": "z"}


def test_a_call_that_was_taken_up_counts_as_done_when_the_workflow_turns_round(driver: Driver) -> None:
    """A workflow that compensates does not wait for an end that is reported from outside: the call is undone."""
    undone = {"name": "e", "type": "SIMPLE"}
    call = element("HTTP", "h", {"uri": "http://x/"}, asyncComplete=True, compensateWith=undone)
    begin(driver, *fork([call], [simple("a", retryCount=0)]))
    driver.fail("a")
    driver.give("h", b'{"response":{"statusCode":202}}')
    assert driver.latest("h").status is TaskStatus.COMPLETED
    driver.give(driver.undoing("h"))
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_loop_is_open_before_what_is_in_it_goes_on(driver: Driver) -> None:
    """What had ended in a loop when its workflow was ended leads on after a retry."""
    wait = element("WAIT", "w1", {"signal": "go"})
    begin(driver, loop(wait, simple("a")))
    driver.ok(PauseWorkflow("default", "w"))
    driver.ok(SignalWorkflow("default", "w", "go", b"{}"))
    driver.ok(TerminateWorkflow("default", "w", "stop", TerminateCompensation.SKIP))
    driver.ok(RetryWorkflow("default", "w"))
    driver.give("a__1")
    say(driver, "l", False)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_human_is_waited_for(driver: Driver) -> None:
    """HUMAN: IN_PROGRESS until somebody says how it ended."""
    begin(driver, element("HUMAN", "h"))
    assert driver.latest("h").status is TaskStatus.IN_PROGRESS


def test_http_is_done_by_a_node_and_tried_as_its_definition_says(driver: Driver) -> None:
    """HTTP is a system task; a definition of its name says how it is retried, and there is none by default."""
    driver.register_task(name="call", retryCount=1, retryDelaySeconds=1)
    task = {"name": "call", "taskReferenceName": "h", "type": "HTTP", "inputParameters": {"uri": "http://x/"}}
    begin(driver, task, element("HTTP", "g", {"uri": "http://y/"}))
    driver.fail("h", "503")
    driver.wait(1000)
    driver.give("h", b'{"response":{"statusCode":200}}')
    driver.fail("g", "503")
    assert driver.header().status is WorkflowStatus.FAILED
    assert len(driver.hot().attempts_of["h"]) == 2


def lose_node(driver: Driver, number: int) -> None:
    driver.ok(ExpireSession("node" if number == 0 else f"node{number}"))
    work = ("system/http", "system/grpc")
    driver.ok(OpenSession(f"node{number + 1}", SessionKind.STREAM, "$system", "", "node", work, 50, 10_000))


@pytest.mark.parametrize("kind", ["HTTP", "GRPC"])
def test_a_call_whose_node_was_lost_is_made_by_another(driver: Driver, kind: str) -> None:
    """As Conductor does it: nobody has said that it is not tried again. Three times, as a call might end its node."""
    begin(driver, element(kind, "h", {"uri": "http://x/", "service": "s", "method": "GET"}))
    key = driver.latest("h").idempotency_key
    for number in range(3):
        lose_node(driver, number)
        assert driver.latest("h").status is TaskStatus.IN_PROGRESS
    assert driver.latest("h").idempotency_key == key
    lose_node(driver, 3)
    assert driver.header().status is not WorkflowStatus.RUNNING


@pytest.mark.parametrize("said", ["by the task", "by its definition"])
def test_a_call_that_is_to_be_made_once_is_not_made_again(driver: Driver, said: str) -> None:
    """With retryCount 0 there is no further attempt."""
    if said == "by its definition":
        driver.register_task(name="do_h", retryCount=0)
    fields = {"retryCount": 0} if said == "by the task" else {}
    begin(driver, element("HTTP", "h", {"uri": "http://x/"}, name="do_h", **fields))
    lose_node(driver, 0)
    assert driver.latest("h").status is TaskStatus.TIMED_OUT


def test_a_call_that_is_only_taken_up_is_ended_from_outside(driver: Driver) -> None:
    """asyncComplete: a success leaves it IN_PROGRESS."""
    begin(driver, element("HTTP", "h", {"uri": "http://x/"}, asyncComplete=True))
    driver.give("h", b'{"response":{"statusCode":202}}')
    assert driver.latest("h").status is TaskStatus.IN_PROGRESS
    driver.ok(SignalWorkflow("default", "w", "h", b'{"done":true}'))
    assert driver.header().status is WorkflowStatus.COMPLETED

