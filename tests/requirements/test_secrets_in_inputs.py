"""One test per rule of secrets in the engine, which knows their names only; the rule is its docstring."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engine import queries
from orchestrator.engine.commands import PutSchedule, RegisterWorkflows, RerunWorkflow
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.parse import validate_task, validate_workflow
from orchestrator.engine.expressions.secret_names import SecretUnfit, fill_in, names_at, sign_for
from orchestrator.engine.model import TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected
from tests.engine.driver import Driver, simple, workflow

A, B = "${workflow.secrets.A}", "${workflow.secrets.B}"
VALUES = {"A": 'value "of" a', "B": '{"user":"ann","ports":[1,22],"note":null}', "C": "${workflow.input.x}"}
VARIABLES = {"REGION": "eu-1", "HOSTS": '{"bank":"https://bank.example"}'}


def driver_of(inputs: Any, *more: dict[str, Any], **fields: Any) -> Driver:
    driver = Driver()
    driver.register(workflow("flow", simple("a", inputParameters=inputs, **fields), *more))
    driver.worker("s", "a", "undo", "b", slots=5)
    return driver


def shown(driver: Driver, attempt: TaskAttempt) -> Any:
    """What readers see, and what is stored."""
    return json.loads(queries.resolved_input(driver.state, driver.hot(), attempt))


def handed(driver: Driver, attempt: TaskAttempt) -> Any:
    """What a worker gets."""
    view = queries.assignment_view(driver.state, driver.hot(), attempt.fencing_token)
    assert view is not None
    assert set(names_at(view.input, view.secrets)) <= set(VALUES)
    return json.loads(fill_in(view.input, view.secrets, VALUES.__getitem__, VARIABLES.__getitem__)[0])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"k": A}, {"k": VALUES["A"]}),
        ({"k": f"Bearer {A}"}, {"k": f"Bearer {VALUES['A']}"}),
        ({"k": [{"l": A}, f"{A}{A}"]}, {"k": [{"l": VALUES["A"]}, VALUES["A"] * 2]}),
        ({"k": B}, {"k": VALUES["B"]}),
        ({"k": "${workflow.secrets.B.user}"}, {"k": "ann"}),
        ({"k": "${workflow.secrets.B.ports[1]}"}, {"k": 22}),
        ({"k": "${workflow.secrets.B.ports}"}, {"k": [1, 22]}),
        ({"k": ":${workflow.secrets.B.ports}"}, {"k": ":[1,22]"}),
        ({"k": "${workflow.secrets.B.note}"}, {"k": None}),
        ({"k": "${workflow.env.REGION}"}, {"k": "eu-1"}),
        ({"k": "${workflow.env.HOSTS.bank}/${workflow.input.id}", "l": A + "${workflow.env.REGION}"},
         {"k": "https://bank.example/7", "l": f"{VALUES['A']}eu-1"}),
        ({"k": "${ workflow.secrets.A }"}, {"k": VALUES["A"]}),
        ({"k": f"{A}?id=${{workflow.input.id}}"}, {"k": f"{VALUES['A']}?id=7"}),
    ],
)
def test_a_worker_gets_the_value_where_its_input_names_a_secret(inputs: Any, expected: Any) -> None:
    """A whole secret is text; a part of one that is JSON keeps its type where it is all of a string."""
    driver = driver_of(inputs)
    driver.start("flow", given=b'{"id":7}')
    attempt = driver.latest("a")
    assert handed(driver, attempt) == expected
    assert handed(driver.restart(), driver.restart().latest("a")) == expected


def test_what_is_stored_and_shown_is_the_reference() -> None:
    """Nobody but who executes the task sees the value."""
    inputs = {"k": f"Bearer {A}", "l": "${workflow.secrets.B.ports[1]}"}
    driver = driver_of(inputs)
    driver.start("flow")
    assert shown(driver, driver.latest("a")) == inputs
    assert json.loads(driver.latest("a").input) == inputs  # type: ignore[arg-type]


def test_what_data_say_names_no_secret() -> None:
    """Only what the author of the definition wrote does, however it looks once it is part of the input."""
    x = "${workflow.input.x}"
    inputs = {"x": x, "y": f"{x}{A}{x}", "z": "${workflow.input}"}
    driver = driver_of(inputs)
    said = {"x": f"{A}"}
    driver.start("flow", given=json.dumps(said).encode())
    attempt = driver.latest("a")
    assert handed(driver, attempt) == {"x": A, "y": f"{A}{VALUES['A']}{A}", "z": said}


def test_what_is_escaped_names_no_secret() -> None:
    """`$${` is `${` itself."""
    driver = driver_of({"k": f"${A} {A}"})
    driver.start("flow")
    assert handed(driver, driver.latest("a")) == {"k": f"{A} {VALUES['A']}"}


def test_the_value_is_not_looked_into() -> None:
    """A secret that looks like an expression is none."""
    driver = driver_of({"k": "${workflow.secrets.C} ${workflow.input.x}"})
    driver.start("flow", given=b'{"x":1}')
    assert handed(driver, driver.latest("a")) == {"k": "${workflow.input.x} 1"}


def test_another_task_that_reads_the_input_reads_the_reference() -> None:
    """And does not get the value: it names no secret itself."""
    driver = driver_of({"k": A}, simple("b", inputParameters={"seen": "${a.input.k}"}))
    driver.start("flow")
    driver.give("a")
    assert handed(driver, driver.latest("b")) == {"seen": A}


def test_a_large_input_that_is_not_stored_names_its_secrets_all_the_same() -> None:
    """It is resolved from what it refers to whenever it is asked for."""
    text = f"{A} é$" * 800
    driver = driver_of({"k": "${workflow.input.x}", "l": f"{A}${{workflow.input.x}}"})
    driver.start("flow", given=json.dumps({"x": text}).encode())
    attempt = driver.latest("a")
    assert attempt.input == b""
    assert handed(driver, attempt) == {"k": text, "l": VALUES["A"] + text}


def test_each_attempt_and_each_iteration_names_them_anew() -> None:
    """Retries and loops."""
    loop = {
        "name": "l", "taskReferenceName": "l", "type": "DO_WHILE", "loopCondition": "", "items": "${workflow.input.of}",
        "loopOver": [simple("a", inputParameters={"k": f"${{l.output.loopItem}}{A}"}, retryCount=1)],
    }
    driver = Driver()
    driver.register(workflow("flow", loop))
    driver.register_task(name="a", retryDelaySeconds=0)
    driver.worker("s", "a")
    driver.start("flow", given=json.dumps({"of": [A, "y"]}).encode())
    assert handed(driver, driver.latest("a__1"))["k"].endswith(VALUES["A"])
    driver.fail("a__1")
    assert driver.latest("a__1").retry_count == 1
    assert handed(driver, driver.latest("a__1"))["k"].endswith(VALUES["A"])


def test_a_compensation_names_its_own() -> None:
    """What the step got is not for who undoes it: in the step's input stands the reference."""
    undo = {"name": "undo", "inputParameters": {"of": "${step.input}", "k": B}}
    driver = driver_of({"k": A}, simple("b", retryCount=0), compensateWith=undo)
    driver.start("flow")
    driver.give("a")
    driver.fail("b")
    assert handed(driver, driver.undoing("a")) == {"of": {"k": A}, "k": VALUES["B"]}


def test_an_input_that_an_operator_gives_names_no_secret() -> None:
    """A rerun with another input: whoever gives it need not be one who may use secrets."""
    driver = driver_of({"k": A}, retryCount=0)
    driver.start("flow")
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    given = json.dumps({"k": A}).encode()
    driver.ok(RerunWorkflow("default", "w", driver.latest("a").task_id, task_input=given))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS
    assert handed(driver, driver.latest("a")) == {"k": A}


# --- where no secret can be named

HERE = "are named in the inputParameters of a SIMPLE, HTTP or GRPC task, and nowhere else"
NOTHING = {"type": "JOIN", "name": "j", "taskReferenceName": "j"}


def of_type(kind: str, inputs: Any, **fields: Any) -> dict[str, Any]:
    tasks = [simple("a", type=kind, inputParameters=inputs, **fields), NOTHING]
    return workflow("w", *tasks[: 2 if "FORK" in kind else 1])


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (of_type("SET_VARIABLE", {"v": A}), "tasks[0].inputParameters.v"),
        (of_type("SET_VARIABLE", {"v": "${workflow.env.REGION}"}), "tasks[0].inputParameters.v"),
        (of_type("INLINE", {"expression": "1", "v": A}), "tasks[0].inputParameters.v"),
        (of_type("JSON_JQ_TRANSFORM", {"queryExpression": ".", "v": [A]}), "tasks[0].inputParameters.v[0]"),
        (of_type("EVENT", {"v": A}, sink="conductor"), "tasks[0].inputParameters.v"),
        (of_type("EVENT", {}, sink=f"conductor:{A}"), "tasks[0].sink"),
        (of_type("HUMAN", {"v": A}), "tasks[0].inputParameters.v"),
        (of_type("NOOP", {"v": A}), "tasks[0].inputParameters.v"),
        (of_type("WAIT", {"duration": A}), "tasks[0].inputParameters.duration"),
        (of_type("TERMINATE", {"terminationStatus": "FAILED", "v": A}), "tasks[0].inputParameters.v"),
        (of_type("DYNAMIC", {"t": "a", "v": A}, dynamicTaskNameParam="t"), "tasks[0].inputParameters.v"),
        (of_type("START_WORKFLOW", {"startWorkflow": {"name": "x", "input": {"v": A}}}),
         "tasks[0].inputParameters.startWorkflow.input.v"),
        (of_type("SUB_WORKFLOW", {"v": A}, subWorkflowParam={"name": "x"}), "tasks[0].inputParameters.workflowInput.v"),
        (of_type("SWITCH", {"v": A}, evaluatorType="value-param", expression="v", defaultCase=[simple("b")]),
         "tasks[0].inputParameters.v"),
        (of_type("DO_WHILE", {"v": A}, loopCondition="false", loopOver=[simple("b")]), "tasks[0].inputParameters.v"),
        (of_type("FORK_JOIN_DYNAMIC", {"forkTaskInputs": A}), "tasks[0].inputParameters.forkTaskInputs"),
        (workflow("w", simple("a"), outputParameters={"v": A}), "outputParameters.v"),
        (workflow("w", simple("a"), failureWorkflow=A), "failureWorkflow"),
        (workflow("w", simple("a"), rateLimitConfig={"rateLimitKey": A, "concurrentExecLimit": 1}),
         "rateLimitConfig.rateLimitKey"),
        (workflow("w", simple("a", onStateChange={"onStart": [{"type": "t", "payload": {"v": A}}]})),
         "tasks[0].onStateChange.onStart[0].payload.v"),
    ],
)
def test_where_its_value_would_be_kept_no_secret_is_named(document: dict[str, Any], path: str) -> None:
    """Variables, outputs, choices, what is started, events, scripts; the error says where it stands."""
    with pytest.raises(DefinitionInvalid, match=HERE) as refused:
        validate_workflow(json.dumps(document).encode())
    assert refused.value.path == path


@pytest.mark.parametrize("kind", ["SIMPLE", "HTTP", "GRPC"])
def test_tasks_and_compensations_that_reach_out_may_name_secrets(kind: str) -> None:
    """Workers' tasks, and the calls that nodes make."""
    inputs = {"uri": "http://x", "target": "x:1", "headers": {"Authorization": f"Bearer {A}"}}
    undo = {"name": "u", "type": kind, "inputParameters": inputs}
    document = workflow("w", simple("a", type=kind, inputParameters=inputs, compensateWith=undo))
    assert validate_workflow(json.dumps(document).encode()).secrets_at == "tasks[0].inputParameters"


def test_the_defaults_of_a_task_definition_name_no_secret() -> None:
    """Whoever uses the task could send them elsewhere; for its workers there is runtimeMetadata."""
    with pytest.raises(DefinitionInvalid, match=HERE) as refused:
        validate_task(json.dumps({"name": "t", "inputTemplate": {"v": A}}).encode())
    assert refused.value.path == "inputTemplate.v"


@pytest.mark.parametrize(
    "text",
    [
        "${workflow.env}", "${workflow.env.${workflow.input.x}}", "${workflow.env['A']}",
        "${workflow.secrets}", "${workflow.secrets.}", "${workflow.secrets.1a}", "${workflow.secrets['A']}",
        "${workflow['secrets'].A}", "${workflow.secrets.A..b}", "${workflow.secrets.A[*]}", "${workflow.secrets.a b}",
        "${workflow.secrets.${workflow.input.which}}", "${workflow.secrets.A.${workflow.input.which}}",
        "${a.output.${workflow.secrets.A}}", "${workflow.secrets.A.length()}", "${workflow.${workflow.input.x}.A}",
    ],
)
def test_what_names_a_secret_is_literal(text: str) -> None:
    """Neither its name nor its path can be computed, and no other expression can be made with one."""
    with pytest.raises(DefinitionInvalid):
        validate_workflow(json.dumps(workflow("w", simple("a", inputParameters={"k": text}))).encode())


# --- definitions that are not registered

NAMING = workflow("inline", simple("a", inputParameters={"k": A}))
ASKING = workflow("inline", simple("a", taskDefinition={"name": "a", "runtimeMetadata": ["A"]}))


@pytest.mark.parametrize(
    ("document", "path"), [(NAMING, "inputParameters"), (ASKING, "taskDefinition.runtimeMetadata")]
)
def test_a_definition_that_is_run_as_it_is_given_names_no_secret(document: dict[str, Any], path: str) -> None:
    """Whoever may start a workflow need not be one who may register one."""
    driver = Driver()
    result = driver.start("inline", document=json.dumps(document).encode())
    assert isinstance(result, Rejected)
    assert (result.reason, dict(result.metadata)["path"]) == ("DEFINITION_INVALID", f"tasks[0].{path}")
    schedule = {"name": "s", "cronExpression": "0 0 * * * *", "startWorkflowRequest": {"workflowDef": document}}
    result = driver.do(PutSchedule("default", json.dumps(schedule).encode()))
    assert isinstance(result, Rejected)
    assert dict(result.metadata)["path"] == f"startWorkflowRequest.workflowDef.tasks[0].{path}"
    driver.ok(RegisterWorkflows("default", (json.dumps(document).encode(),), True))


@pytest.mark.parametrize("document", [NAMING, ASKING])
def test_a_sub_workflow_that_is_defined_in_place_names_no_secret(document: dict[str, Any]) -> None:
    """It may come from data; a registered one may."""
    sub = simple("s", type="SUB_WORKFLOW", subWorkflowParam={"name": "x", "workflowDefinition": "${workflow.input.d}"})
    driver = Driver()
    driver.register(workflow("outer", sub))
    driver.start("outer", given=json.dumps({"d": document}).encode())
    assert driver.header().status is WorkflowStatus.FAILED
    assert "only a registered definition may name secrets" in driver.latest("s").reason


@pytest.mark.parametrize("inner", [{"inputParameters": {"k": A}}, {"taskDefinition": {"runtimeMetadata": ["A"]}}])
def test_tasks_that_come_from_data_name_no_secret(inner: dict[str, Any]) -> None:
    """What a dynamic fork is given."""
    fork = simple(
        "f", type="FORK_JOIN_DYNAMIC", dynamicForkTasksParam="tasks", dynamicForkTasksInputParamName="inputs",
        inputParameters={"tasks": "${workflow.input.tasks}", "inputs": {}},
    )
    driver = Driver()
    driver.register(workflow("flow", fork, NOTHING))
    driver.worker("s", "a")
    task = {"name": "a", "taskReferenceName": "x", **inner}
    driver.start("flow", given=json.dumps({"tasks": [task]}).encode())
    assert driver.header().status is WorkflowStatus.FAILED
    assert "only a registered definition may name secrets" in driver.header().reason


def test_the_inputs_of_forked_tasks_name_no_secret() -> None:
    """They are data, too."""
    fork = simple(
        "f", type="FORK_JOIN_DYNAMIC", dynamicForkTasksParam="tasks", dynamicForkTasksInputParamName="inputs",
        inputParameters={"tasks": "${workflow.input.tasks}", "inputs": "${workflow.input.inputs}"},
    )
    driver = Driver()
    driver.register(workflow("flow", fork, NOTHING))
    driver.worker("s", "a")
    given = {"tasks": [{"name": "a", "taskReferenceName": "x"}], "inputs": {"x": {"k": A}}}
    driver.start("flow", given=json.dumps(given).encode())
    assert handed(driver, driver.latest("x")) == {"k": A}


# --- what a value has to be


@pytest.mark.parametrize(
    ("path", "why"),
    [("A.x", "'A' is not JSON"), ("B.x", "'B' has no '.x'"), ("B.ports[2]", "no '.ports[2]'"), ("B.user.x", "no")],
)
def test_a_part_that_is_not_there_is_an_error_that_quotes_nothing(path: str, why: str) -> None:
    """And not null: nothing is called with half of what it needs."""
    driver = driver_of({"k": "${workflow.secrets.PATH}".replace("PATH", path)})
    driver.start("flow")
    view = queries.assignment_view(driver.state, driver.hot(), driver.latest("a").fencing_token)
    assert view is not None
    with pytest.raises(SecretUnfit) as unfit:
        fill_in(view.input, view.secrets, VALUES.__getitem__, VARIABLES.__getitem__)
    assert why in str(unfit.value)
    assert "ann" not in str(unfit.value) and "value" not in str(unfit.value)


def test_data_that_are_full_of_signs_do_not_hold_up_anybody() -> None:
    """A sign that does not occur is found in one pass over the text."""
    data = " ".join(f"${{workflow.secrets@{number}!A}}" for number in range(6_000))
    driver = driver_of({"k": A, "data": "${workflow.input.d}"})
    driver.start("flow", given=json.dumps({"d": data}).encode())
    assert sign_for(data.encode()) == "@6000"
    assert handed(driver, driver.latest("a")) == {"k": VALUES["A"], "data": data}


# --- at random

FRAGMENTS = st.sampled_from(
    [
        A, B, "${workflow.env.REGION}", "${workflow.env@0!REGION}", "@0", "@1",
        "${workflow.secrets.A", "${workflow.secrets@0!A}", "${workflow.secrets@0.A}", "${workflow.secrets@", "$",
        "$$", "{", "}", '"', "\\", "\\u0024{workflow.secrets.A}", "é", "\n", "x", "", "!A}", ".A}", "🙂",
    ]
)
DATA = st.lists(FRAGMENTS, max_size=6).map("".join)
PIECES = st.lists(st.sampled_from(["data", "secret", "variable", "text"]), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=3), DATA, st.booleans())
def test_whatever_data_are_the_secrets_are_where_the_author_put_them(
    strings: list[list[str]], data: str, is_large: bool
) -> None:
    """Compared with what it means, string by string."""
    data = data * 60 if is_large else data
    source = {"data": "${workflow.input.d}", "secret": A, "variable": "${workflow.env.REGION}", "text": "-"}
    meant = {"data": data, "secret": VALUES["A"], "variable": "eu-1", "text": "-"}
    driver = driver_of({f"k{number}": "".join(map(source.__getitem__, each)) for number, each in enumerate(strings)})
    result = driver.start("flow", given=json.dumps({"d": data}, ensure_ascii=is_large).encode())
    assert not isinstance(result, Rejected)
    expected = {f"k{number}": "".join(map(meant.__getitem__, each)) for number, each in enumerate(strings)}
    assert handed(driver, driver.latest("a")) == expected
