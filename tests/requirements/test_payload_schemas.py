"""JSON schemas of payloads: what a definition says of inputs and outputs holds, whoever started it and whoever leads.

Rules are named in the docstrings. A node looks at a payload; here the tests say what it has found.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.engine import queries, system
from orchestrator.engine.choices import DeadlineKind, IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    ExpireDeadline,
    MigrateWorkflow,
    OpenSession,
    PauseWorkflow,
    RerunWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SkipTask,
    StartWorkflow,
    TerminateWorkflow,
    UpdateTask,
)
from orchestrator.engine.explain import explain
from orchestrator.engine.model import CompensationState, SessionKind, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.queries import AssignmentView
from orchestrator.engine.results import Code, Rejected, Verdict
from orchestrator.engine.schema_commands import DeleteSchema, RegisterSchemas
from orchestrator.engine.start_checks import check_for
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.flows import fork, terminate

NUMBERS = {"type": "object", "properties": {"n": {"type": "number"}}}
WORDS = {"type": "object", "properties": {"n": {"type": "string"}}}
INLINE = {"name": "numbers", "type": "JSON", "data": NUMBERS}
NOT_OK = "$.n: 'x' is not of type 'number' (properties/n/type)"


def new_driver() -> Driver:
    driver = Driver()
    node(driver, "n")
    driver.worker("s", "a", "b", "c", "undo_a", "undo_b", slots=10)
    return driver


def node(driver: Driver, name: str) -> None:
    driver.ok(OpenSession(name, SessionKind.STREAM, system.NAMESPACE, "", name, (system.SCHEMA,), 10, 10_000))


def put_schema(driver: Driver, name: str, version: int, data: dict[str, Any]) -> None:
    document = json.dumps({"name": name, "version": version, "data": data}).encode()
    driver.ok(RegisterSchemas("default", (document,), True))


def checked(name: str, **fields: Any) -> dict[str, Any]:
    """A task with schemas of its own."""
    definition = {"name": name, "retryCount": 2, "retryDelaySeconds": 0, "enforceSchema": True, **fields}
    return simple(name, taskDefinition=definition, inputParameters={"n": "${workflow.input.n}"})


def assigned(driver: Driver, reference: str, workflow_id: str = "w") -> AssignmentView:
    """What the node is asked."""
    attempt = driver.latest(reference, workflow_id)
    view = queries.assignment_view(driver.state, driver.hot(workflow_id), attempt.fencing_token)
    assert view is not None
    assert view.kind == system.SCHEMA
    return view


def say(driver: Driver, reference: str, violation: str = "", code: str = "SCHEMA_VIOLATION", **of: Any) -> Any:
    """What the node has found."""
    attempt = driver.latest(reference, of.get("workflow_id", "w"))
    status = TaskStatus.FAILED_WITH_TERMINAL_ERROR if violation else TaskStatus.COMPLETED
    given = (attempt.task_id, attempt.fencing_token, status, b"{}", violation, code if violation else "")
    return driver.ok(CompleteTask("default", of.get("workflow_id", "w"), *given))


def statuses(driver: Driver, workflow_id: str = "w") -> dict[str, TaskStatus]:
    return {attempt.reference: attempt.status for attempt in driver.hot(workflow_id).tasks.values()}


def begun(driver: Driver, *tasks: dict[str, Any], given: bytes = b'{"n":1}', **fields: Any) -> None:
    driver.register(workflow("w", *tasks, **fields))
    assert not isinstance(driver.start("w", given=given), Rejected)


# --- the input of a workflow


def test_an_input_is_looked_at_before_the_first_task() -> None:
    """A workflow with an inputSchema begins when its input, with the defaults of inputTemplate, keeps it."""
    driver = new_driver()
    begun(driver, simple("a"), given=b"{}", inputSchema=INLINE, inputTemplate={"n": 5})
    view = assigned(driver, "$input")
    assert (json.loads(view.input), json.loads(view.parameters)) == ({"n": 5}, {"schema": NUMBERS, "quiet": False})
    assert statuses(driver) == {"$input": TaskStatus.SCHEDULED}
    say(driver, "$input")
    assert statuses(driver) == {"$input": TaskStatus.COMPLETED, "a": TaskStatus.IN_PROGRESS}
    driver.give("a", b'{"r":1}')
    assert (driver.header().status, driver.header().output) == (WorkflowStatus.COMPLETED, b'{"r":1}')


def test_an_input_that_violates_its_schema_fails_the_workflow() -> None:
    """FAILED, with a reason that says where and which rule; no task has begun, and the failure workflow starts."""
    driver = new_driver()
    driver.register(workflow("cleanup", simple("b")))
    begun(driver, simple("a"), inputSchema=INLINE, failureWorkflow="cleanup")
    say(driver, "$input", NOT_OK)
    header = driver.header()
    assert header.status is WorkflowStatus.FAILED
    assert header.reason == f"the workflow's input violates the schema 'numbers': {NOT_OK}"
    assert statuses(driver) == {"$input": TaskStatus.FAILED_WITH_TERMINAL_ERROR}
    assert b"conductor.failure_workflow" in header.output


def test_a_schema_that_is_not_enforced_is_for_readers() -> None:
    """enforceSchema: true for a workflow, false for a task, if it does not say."""
    driver = new_driver()
    task = simple("a", taskDefinition={"name": "a", "inputSchema": INLINE, "outputSchema": INLINE})
    begun(driver, task, inputSchema=INLINE, outputSchema=INLINE, enforceSchema=False)
    driver.give("a")
    assert (driver.header().status, list(statuses(driver))) == (WorkflowStatus.COMPLETED, ["a"])


def test_a_registered_schema_is_named_with_or_without_a_version() -> None:
    """Without a version it is the highest; a definition that names one which is not there can't be started."""
    driver = new_driver()
    driver.register(workflow("w", simple("a"), inputSchema={"name": "order"}))
    refused = driver.start("w")
    assert isinstance(refused, Rejected)
    assert (refused.code, dict(refused.metadata)["path"]) == (Code.INVALID_ARGUMENT, "inputSchema")
    assert "the schema 'order' is not registered" in refused.message
    put_schema(driver, "order", 1, WORDS)
    put_schema(driver, "order", 3, NUMBERS)
    driver.ok(StartWorkflow("default", "w", 0, "w", IfExists.FAIL, b"{}"))
    assert json.loads(assigned(driver, "$input").parameters)["schema"] == NUMBERS
    driver.register(workflow("w", simple("a"), inputSchema={"name": "order", "version": 1}))
    driver.ok(StartWorkflow("default", "w", 0, "v", IfExists.FAIL, b"{}"))
    assert json.loads(assigned(driver, "$input", "v").parameters)["schema"] == WORDS


def test_an_execution_keeps_the_schemas_that_it_began_with() -> None:
    """As it keeps its definitions: what becomes of their records does not change what it has to keep."""
    driver = new_driver()
    put_schema(driver, "order", 1, NUMBERS)
    begun(driver, simple("a"), outputSchema={"name": "order"})
    put_schema(driver, "order", 2, WORDS)
    driver.ok(DeleteSchema("default", "order", 1))
    driver = driver.restart(cold=True)
    driver.give("a", b'{"n":1}')
    assert json.loads(assigned(driver, "$output").parameters)["schema"] == NUMBERS


def test_a_sub_workflow_has_its_own_schemas() -> None:
    """Its input is looked at when it begins, wherever it comes from; its failure is its parent's task's."""
    driver = new_driver()
    driver.register(workflow("child", simple("b"), inputSchema=INLINE))
    sub = simple("sub", type="SUB_WORKFLOW", subWorkflowParam={"name": "child"}, inputParameters={"n": "x"})
    begun(driver, sub)
    child = driver.latest("sub").child
    assert assigned(driver, "$input", child).input == b'{"n":"x"}'
    say(driver, "$input", NOT_OK, workflow_id=child)
    assert driver.header(child).status is WorkflowStatus.FAILED
    assert (driver.latest("sub").status, driver.header().status) == (TaskStatus.FAILED, WorkflowStatus.FAILED)
    assert NOT_OK in driver.latest("sub").reason


# --- looked at before the start


def looked(driver: Driver, given: bytes, violation: str = "", **fields: Any) -> Any:
    check = check_for(driver.state, "default", "w", 0, b"", given)
    assert check is not None
    return driver.do(
        StartWorkflow(
            "default", "w", 0, "w", IfExists.RETURN, given, looked_for=check.bundle, violation=violation, **fields
        )
    )


def test_a_start_whose_input_is_known_to_violate_is_refused() -> None:
    """INVALID_ARGUMENT and SCHEMA_VIOLATION at the field `input`; there is no execution."""
    driver = new_driver()
    driver.register(workflow("w", simple("a"), inputSchema=INLINE))
    refused = looked(driver, b'{"n":"x"}', NOT_OK)
    assert refused == Rejected(Code.INVALID_ARGUMENT, "SCHEMA_VIOLATION", NOT_OK, (("field", "input"),))
    assert driver.is_gone("w")
    assert not driver.state.resident[queries.Table.BUNDLE]


def test_an_input_that_is_known_to_be_good_is_not_looked_at_again() -> None:
    driver = new_driver()
    driver.register(workflow("w", simple("a"), inputSchema=INLINE))
    looked(driver, b'{"n":1}')
    assert statuses(driver) == {"a": TaskStatus.IN_PROGRESS}


def test_what_was_found_counts_for_the_definitions_of_then_only() -> None:
    """A schema that was changed in between is kept: the execution begins with looking itself."""
    driver = new_driver()
    put_schema(driver, "order", 1, WORDS)
    driver.register(workflow("w", simple("a"), inputSchema={"name": "order"}))
    check = check_for(driver.state, "default", "w", 0, b"", b'{"n":1}')
    assert check is not None
    put_schema(driver, "order", 2, NUMBERS)
    driver.ok(
        StartWorkflow(
            "default", "w", 0, "w", IfExists.FAIL, b'{"n":1}', looked_for=check.bundle, violation="it is no word"
        )
    )
    assert json.loads(assigned(driver, "$input").parameters)["schema"] == NUMBERS


def test_what_has_been_started_before_is_returned_whatever_its_input_is_now() -> None:
    """A request that comes again has the answer of the first time."""
    driver = new_driver()
    driver.register(workflow("w", simple("a"), inputSchema=INLINE))
    assert not looked(driver, b'{"n":1}').existing
    assert looked(driver, b'{"n":"x"}', NOT_OK).existing


# --- the output of a workflow


def test_an_output_is_looked_at_before_the_workflow_completes() -> None:
    """What is looked at is what the workflow completes with: its outputParameters."""
    driver = new_driver()
    begun(driver, simple("a"), outputSchema=INLINE, outputParameters={"n": "${a.output.r}"})
    driver.give("a", b'{"r":7}')
    assert driver.header().status is WorkflowStatus.RUNNING
    assert assigned(driver, "$output").input == b'{"n":7}'
    say(driver, "$output")
    assert (driver.header().status, driver.header().output) == (WorkflowStatus.COMPLETED, b'{"n":7}')


def test_without_output_parameters_it_is_the_output_of_the_last_task_of_the_definition() -> None:
    driver = new_driver()
    begun(driver, simple("a"), inputSchema=INLINE, outputSchema=INLINE)
    say(driver, "$input")
    large = json.dumps({"n": 1, "text": "x" * 5000}).encode()
    driver.give("a", large)
    assert json.loads(assigned(driver, "$output").input) == json.loads(large)
    say(driver, "$output")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert queries.payload(driver.hot(), driver.header().output) == large


def test_an_output_that_violates_its_schema_fails_the_workflow_and_undoes_it() -> None:
    """It has not done what it was to do: FAILED, and what is owed is compensated."""
    driver = new_driver()
    begun(driver, simple("a", "undo_a"), outputSchema=INLINE)
    driver.give("a", b'{"n":"x"}')
    say(driver, "$output", NOT_OK)
    assert (driver.header().status, driver.header().outcome) == (WorkflowStatus.COMPENSATING, WorkflowStatus.FAILED)
    driver.give(driver.undoing("a"))
    assert (driver.header().status, driver.header().compensation) == (
        WorkflowStatus.FAILED, CompensationState.COMPLETE
    )
    assert driver.header().reason == f"the workflow's output violates the schema 'numbers': {NOT_OK}"


def test_a_terminate_completes_with_an_output_that_keeps_the_schema() -> None:
    """Nothing else begins meanwhile; its reason and its output are those of the TERMINATE."""
    driver = new_driver()
    branch = [simple("b"), simple("c")]
    ending = terminate("COMPLETED", workflowOutput={"n": 2}, terminationReason="enough")
    begun(driver, *fork([simple("a"), ending], branch), outputSchema=INLINE)
    driver.give("a")
    assert statuses(driver)["b"] is TaskStatus.CANCELED
    assert assigned(driver, "$output").input == b'{"n":2}'
    say(driver, "$output")
    header = driver.header()
    assert (header.status, header.output, header.reason) == (WorkflowStatus.COMPLETED, b'{"n":2}', "enough")


@pytest.mark.parametrize("status", ["FAILED", "TERMINATED"])
def test_the_output_of_a_workflow_that_does_not_complete_is_not_looked_at(status: str) -> None:
    driver = new_driver()
    begun(driver, simple("a"), terminate(status, workflowOutput={"n": "x"}), outputSchema=INLINE)
    driver.give("a")
    assert (driver.header().status.name, driver.header().output) == (status, b'{"n":"x"}')


def test_a_workflow_that_was_paused_completes_when_it_is_resumed() -> None:
    driver = new_driver()
    begun(driver, simple("a"), outputSchema=INLINE)
    driver.give("a", b'{"n":1}')
    driver.ok(PauseWorkflow("default", "w"))
    say(driver, "$output")
    assert driver.header().status is WorkflowStatus.PAUSED
    driver.ok(ResumeWorkflow("default", "w"))
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- the input of a task


def test_the_input_of_a_task_is_looked_at_before_a_worker_has_it() -> None:
    """The limit of time and the worker's slot begin when it is handed out."""
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE, timeoutSeconds=10, responseTimeoutSeconds=5))
    assert (driver.latest("a").status, driver.latest("a").started_ms) == (TaskStatus.SCHEDULED, 0)
    assert assigned(driver, "a").input == b'{"n":1}'
    driver.wait(60_000)
    say(driver, "a")
    assert (driver.latest("a").status, driver.latest("a").worker_id) == (TaskStatus.IN_PROGRESS, "worker-s")
    assert driver.latest("a").started_ms == driver.now_ms
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_task_whose_input_violates_its_schema_fails_for_good() -> None:
    """FAILED_WITH_TERMINAL_ERROR and SCHEMA_VIOLATION: the same input would be as wrong the next time."""
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE))
    say(driver, "a", NOT_OK)
    attempt = driver.latest("a")
    assert (attempt.status, attempt.error_code) == (TaskStatus.FAILED_WITH_TERMINAL_ERROR, "SCHEMA_VIOLATION")
    assert attempt.reason == f"its input violates the schema 'numbers': {NOT_OK}"
    assert (attempt.outcome_unknown, attempt.worker_id) == (False, "")
    assert (driver.header().status, len(driver.hot().tasks)) == (WorkflowStatus.FAILED, 1)


def test_an_optional_task_whose_input_violates_its_schema_is_passed() -> None:
    driver = new_driver()
    begun(driver, {**checked("a", inputSchema=INLINE), "optional": True}, simple("b"))
    say(driver, "a", NOT_OK)
    assert statuses(driver) == {"a": TaskStatus.COMPLETED_WITH_ERRORS, "b": TaskStatus.IN_PROGRESS}


def test_each_attempt_is_looked_at() -> None:
    """Its input is resolved again."""
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE))
    say(driver, "a")
    driver.fail("a")
    assert assigned(driver, "a").retry_count == 1
    say(driver, "a")
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_registered_task_definition_holds_for_every_workflow_that_names_it() -> None:
    driver = new_driver()
    put_schema(driver, "order", 1, NUMBERS)
    driver.register_task(name="a", inputSchema={"name": "order"}, enforceSchema=True)
    begun(driver, simple("a"))
    assert json.loads(assigned(driver, "a").parameters)["schema"] == NUMBERS
    driver.ok(DeleteSchema("default", "order", 0))
    refused = driver.start("w", "v")
    assert isinstance(refused, Rejected)
    assert dict(refused.metadata)["path"] == "taskDefinitions.a.inputSchema"


def test_a_task_that_a_dynamic_task_becomes_has_its_schemas() -> None:
    """Fixed when it becomes it, as its task definition is."""
    driver = new_driver()
    put_schema(driver, "order", 1, NUMBERS)
    driver.register_task(name="a", inputSchema={"name": "order"}, outputSchema={"name": "order"}, enforceSchema=True)
    given = {"which": "${workflow.input.which}", "n": 3}
    dynamic = simple("d", type="DYNAMIC", dynamicTaskNameParam="which", inputParameters=given)
    begun(driver, dynamic, given=b'{"which":"a"}')
    driver.ok(DeleteSchema("default", "order", 0))
    assert json.loads(assigned(driver, "d").parameters)["schema"] == NUMBERS
    say(driver, "d")
    driver.give("d", b'{"n":4}')
    assert assigned(driver, "d").input == b'{"n":4}'
    say(driver, "d")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_tasks_of_a_dynamic_fork_have_their_schemas() -> None:
    driver = new_driver()
    put_schema(driver, "order", 1, NUMBERS)
    driver.register_task(name="a", inputSchema={"name": "order"}, enforceSchema=True)
    parameters = {"forkTaskName": "a", "forkTaskInputs": [{"n": 1}, {"n": "x"}]}
    forking = simple("f", type="FORK_JOIN_DYNAMIC", inputParameters=parameters)
    begun(driver, forking, simple("j", type="JOIN"))
    assert [assigned(driver, f"_a_{number}").input for number in (0, 1)] == [
        b'{"n":1,"__index":0}', b'{"n":"x","__index":1}'
    ]
    say(driver, "_a_0")
    say(driver, "_a_1", NOT_OK)
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.latest("_a_0").status is TaskStatus.CANCELED


# --- the output of a task


def test_a_task_has_completed_when_its_output_keeps_the_schema() -> None:
    """The worker is done when it has said so: its slot is free, and its time does not run any more."""
    driver = new_driver()
    begun(driver, checked("a", outputSchema=INLINE, timeoutSeconds=10, responseTimeoutSeconds=5), simple("b"))
    token = driver.latest("a").fencing_token
    driver.give("a", b'{"n":3}')
    assert driver.state.sessions["s",].used == 0
    assert (driver.latest("a").status, assigned(driver, "a").input) == (TaskStatus.IN_PROGRESS, b'{"n":3}')
    driver.wait(60_000)
    say(driver, "a")
    attempt = driver.latest("a")
    assert (attempt.status, attempt.output, attempt.fencing_token) == (TaskStatus.COMPLETED, b'{"n":3}', token)
    assert driver.latest("b").status is TaskStatus.IN_PROGRESS


def test_a_result_that_is_said_again_is_accepted_again() -> None:
    """While its output is looked at, and afterwards."""
    driver = new_driver()
    begun(driver, checked("a", outputSchema=INLINE))
    token = driver.latest("a").fencing_token
    assert driver.give("a", b'{"n":3}').verdict is Verdict.ACCEPTED
    assert driver.give("a", b'{"n":3}', token=token).verdict is Verdict.ACCEPTED
    say(driver, "a")
    assert driver.give("a", b'{"n":3}', token=token).verdict is Verdict.ACCEPTED
    assert driver.give("a", b'{"n":3}', token=token + 1).verdict is Verdict.FENCED


def test_a_task_whose_output_violates_its_schema_fails_for_good() -> None:
    """It took effect, so it is not tried again; what it has put out can be looked at."""
    driver = new_driver()
    begun(driver, checked("a", outputSchema=INLINE))
    driver.give("a", b'{"n":"x"}')
    say(driver, "a", NOT_OK)
    attempt = driver.latest("a")
    assert (attempt.status, attempt.error_code) == (TaskStatus.FAILED_WITH_TERMINAL_ERROR, "SCHEMA_VIOLATION")
    assert (attempt.reason, attempt.output) == (f"its output violates the schema 'numbers': {NOT_OK}", b'{"n":"x"}')
    assert (attempt.outcome_unknown, driver.header().status) == (True, WorkflowStatus.FAILED)


def test_a_step_whose_output_violates_its_schema_is_undone() -> None:
    """Its worker has said that it is done, so it is owed its compensation."""
    driver = new_driver()
    step = {**checked("a", outputSchema=INLINE), "compensateWith": {"name": "undo_a", "type": "SIMPLE"}}
    begun(driver, step)
    driver.give("a", b'{"n":"x"}')
    say(driver, "a", NOT_OK)
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_sub_workflow_whose_output_violates_its_tasks_schema_is_undone() -> None:
    driver = new_driver()
    driver.register(workflow("child", simple("b", "undo_b")))
    definition = {"name": "sub", "enforceSchema": True, "outputSchema": INLINE}
    sub = simple("sub", type="SUB_WORKFLOW", subWorkflowParam={"name": "child"}, taskDefinition=definition)
    begun(driver, sub)
    child = driver.latest("sub").child
    driver.give("b", b'{"n":"x"}', workflow_id=child)
    assert json.loads(assigned(driver, "sub").input)["n"] == "x"
    say(driver, "sub", NOT_OK)
    assert driver.header(child).status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("b", child), workflow_id=child)
    assert driver.header().status is WorkflowStatus.FAILED


@pytest.mark.parametrize(
    ("task", "end"),
    [
        (simple("t", type="NOOP"), lambda driver: None),
        (simple("t", type="WAIT", inputParameters={"duration": "5s"}), lambda driver: driver.wait(5_000)),
        (
            simple("t", type="HUMAN"),
            lambda driver: driver.ok(UpdateTask("default", "w", "t", TaskStatus.COMPLETED, b'{"n":1}')),
        ),
        (simple("t", type="SET_VARIABLE", inputParameters={"n": 1}), lambda driver: None),
    ],
)
def test_tasks_without_a_worker_keep_their_schemas_too(task: dict[str, Any], end: Any) -> None:
    driver = new_driver()
    definition = {"name": "t", "enforceSchema": True, "inputSchema": INLINE, "outputSchema": INLINE}
    begun(driver, {**task, "taskDefinition": definition})
    say(driver, "t")
    end(driver)
    assert driver.latest("t").status is TaskStatus.IN_PROGRESS
    assert isinstance(
        driver.do(UpdateTask("default", "w", "t", TaskStatus.COMPLETED, b'{"n":"y"}')), Rejected
    ), "what is looked at can't be exchanged"
    say(driver, "t")
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- what else happens meanwhile


def looking(driver: Driver) -> TaskAttempt:
    """a is done, and its output is looked at; b is in flight beside it."""
    step = {**checked("a", outputSchema=INLINE), "compensateWith": {"name": "undo_a", "type": "SIMPLE"}}
    begun(driver, *fork([step, simple("c")], [simple("b", retryCount=0)]))
    driver.give("a", b'{"n":1}')
    return driver.latest("a")


@pytest.mark.parametrize("node_is_there", [True, False])
def test_what_is_done_stays_done_though_nobody_looks_at_it_any_more(node_is_there: bool) -> None:
    """A step that its worker has completed is compensated with its output, if the workflow turns round meanwhile."""
    driver = new_driver()
    if not node_is_there:
        driver.ok(CloseSession("n"))
    looking(driver)
    driver.fail("b")
    assert driver.latest("a").status is TaskStatus.COMPLETED
    assert driver.header().status is WorkflowStatus.COMPENSATING
    undo = driver.undoing("a")
    view = queries.assignment_view(driver.state, driver.hot(), undo.fencing_token)
    assert view is not None
    assert view.compensation is not None
    assert view.compensation.output == b'{"n":1}'
    driver.give(undo)
    assert (driver.header().status, driver.header().compensation) == (
        WorkflowStatus.FAILED, CompensationState.COMPLETE
    )


def test_what_was_not_done_at_first_is_known_to_be_done_at_last() -> None:
    """A worker that was asked again has said it: the outcome is known, though nobody has looked at the output."""
    driver = new_driver()
    step = {**checked("a", inputSchema=INLINE, outputSchema=INLINE), "compensateWith": {"name": "undo_a"}}
    begun(driver, *fork([step], [simple("b", retryCount=0)]))
    say(driver, "a")
    driver.give("a", b'{"half":1}', TaskStatus.IN_PROGRESS)
    assert (driver.latest("a").status, driver.latest("a").outcome_unknown) == (TaskStatus.IN_PROGRESS, True)
    driver.give("a", b'{"n":1}')
    driver.fail("b")
    assert (driver.latest("a").status, driver.latest("a").outcome_unknown) == (TaskStatus.COMPLETED, False)
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_what_stayed_done_is_gone_on_from_by_a_retry() -> None:
    driver = new_driver()
    looking(driver)
    driver.ok(TerminateWorkflow("default", "w", "enough", TerminateCompensation.SKIP))
    driver.ok(RetryWorkflow("default", "w"))
    assert statuses(driver) == {
        "f": TaskStatus.COMPLETED,
        "a": TaskStatus.COMPLETED,
        "b": TaskStatus.IN_PROGRESS,
        "c": TaskStatus.IN_PROGRESS,
        "j": TaskStatus.IN_PROGRESS,
    }


def test_a_late_answer_means_nothing() -> None:
    driver = new_driver()
    attempt = looking(driver)
    driver.fail("b")
    late = CompleteTask(
        "default", "w", attempt.task_id, attempt.fencing_token, TaskStatus.FAILED_WITH_TERMINAL_ERROR, b"", NOT_OK, "X"
    )
    assert driver.ok(late).verdict is not Verdict.ACCEPTED
    assert driver.latest("a").status is TaskStatus.COMPLETED


@pytest.mark.parametrize("reference", ["$input", "a", "done", "$output"])
def test_a_node_that_is_lost_is_replaced_by_another(reference: str) -> None:
    """Looking has no effect, so it is done again; what became of the rest does not change."""
    driver = new_driver()
    task = checked("a", inputSchema=INLINE, outputSchema=INLINE)
    begun(driver, task, inputSchema=INLINE, outputSchema=INLINE)
    for waiting in ("$input", "a", "done", "$output"):
        at = "a" if waiting == "done" else waiting
        if waiting == reference:
            before = driver.latest(at).fencing_token
            driver.ok(CloseSession("n"))
            assert not driver.state.leases
            driver = driver.restart()
            node(driver, "m")
            assert driver.latest(at).fencing_token > before
        say(driver, at)
        if waiting == "a":
            driver.give("a", b'{"n":1}')
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(driver.hot().tasks) == 3


def test_a_node_that_forgets_is_not_waited_for() -> None:
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE))
    before = driver.latest("a").fencing_token
    assert driver.state.leases[before,].response_timeout_ms == system.EVALUATION_MS
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, before))
    assert driver.latest("a").fencing_token > before
    say(driver, "a")
    assert driver.latest("a").worker_id == "worker-s"


def test_a_node_that_was_to_look_at_an_input_is_not_given_the_output() -> None:
    """Somebody else has said meanwhile that the task is done: what was handed out for its input is for naught."""
    driver = Driver()
    begun(driver, checked("a", inputSchema=INLINE, outputSchema=INLINE))
    opened = OpenSession("n", SessionKind.STREAM, system.NAMESPACE, "", "n", (system.SCHEMA,), 1, 10_000)
    driver.entry(opened, UpdateTask("default", "w", "a", TaskStatus.COMPLETED, b'{"n":2}'))
    assert [lease.token for lease in driver.state.leases.values()] == [driver.latest("a").fencing_token] == [2]
    assert assigned(driver, "a").input == b'{"n":2}'
    say(driver, "a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_nobody_can_look_at_fails_with_a_reason() -> None:
    """Not for ever: after the last of a few nodes in a row."""
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE))
    for _ in range(4):
        driver.give("a", b"", TaskStatus.FAILED, "no evaluator")
    attempt = driver.latest("a")
    assert attempt.status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "4 times in a row: no evaluator" in attempt.reason


def test_a_schema_that_is_too_much_for_an_evaluator_fails_the_attempt() -> None:
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE))
    say(driver, "a", "it took over 4 seconds", "EVALUATION_TIMEOUT")
    assert driver.latest("a").error_code == "EVALUATION_TIMEOUT"
    assert driver.latest("a").reason == (
        "its input could not be checked against the schema 'numbers': it took over 4 seconds"
    )


def test_a_paused_workflow_hands_nothing_out() -> None:
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE))
    driver.ok(PauseWorkflow("default", "w"))
    say(driver, "a")
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.ok(ResumeWorkflow("default", "w"))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_a_total_timeout_runs_while_it_is_looked_at() -> None:
    driver = new_driver()
    begun(driver, checked("a", inputSchema=INLINE, totalTimeoutSeconds=10))
    driver.wait(10_000)
    assert (driver.latest("a").status, driver.header().status) == (TaskStatus.TIMED_OUT, WorkflowStatus.TIMED_OUT)
    assert [lease.fenced for lease in driver.state.leases.values()] == [True]


def test_compensations_are_not_looked_at() -> None:
    """No schema keeps what was done from being undone."""
    driver = new_driver()
    driver.register_task(name="undo_a", inputSchema=INLINE, outputSchema=INLINE, enforceSchema=True)
    begun(driver, simple("a", "undo_a"), simple("b", retryCount=0))
    driver.give("a")
    driver.fail("b")
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_who_asks_is_told_what_is_waited_for() -> None:
    driver = new_driver()
    begun(driver, simple("a"), outputSchema=INLINE)
    driver.give("a", b'{"n":1}')
    assert [one.waits_for for one in explain(driver.state, driver.hot())] == [
        "a node, which checks the workflow's output against its schema"
    ]
    driver.ok(CloseSession("n"))
    assert [one.waits_for for one in explain(driver.state, driver.hot())] == [
        "a node for system/schema: none takes any, being drained or without slots for it"
    ]


def test_what_readers_are_not_shown_is_not_told_as_a_reason() -> None:
    """A definition with maskedFields is told where and which rule, and not what stands there."""
    driver = new_driver()
    begun(driver, simple("a"), inputSchema=INLINE, maskedFields=["n"])
    assert json.loads(assigned(driver, "$input").parameters)["quiet"] is True


# --- again


def test_a_restart_looks_again() -> None:
    """With the schema that it has then."""
    driver = new_driver()
    put_schema(driver, "order", 1, NUMBERS)
    begun(driver, simple("a"), inputSchema={"name": "order"})
    say(driver, "$input", NOT_OK)
    put_schema(driver, "order", 2, WORDS)
    driver.ok(RestartWorkflow("default", "w", use_latest_definitions=True))
    assert json.loads(assigned(driver, "$input").parameters)["schema"] == WORDS
    say(driver, "$input")
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_looks_at_the_new_output() -> None:
    driver = new_driver()
    begun(driver, simple("a"), simple("b"), outputSchema=INLINE)
    driver.give("a")
    driver.give("b", json.dumps({"n": "x" * 5000}).encode())
    say(driver, "$output", NOT_OK)
    driver.ok(RerunWorkflow("default", "w", driver.latest("b").task_id))
    driver.give("b", b'{"n":1}')
    assert assigned(driver, "$output").input == b'{"n":1}'
    say(driver, "$output")
    assert (driver.header().status, driver.header().output) == (WorkflowStatus.COMPLETED, b'{"n":1}')


@pytest.mark.parametrize("reference", ["$input", "$output"])
def test_a_retry_looks_at_the_same_again(reference: str) -> None:
    driver = new_driver()
    begun(driver, simple("a"), inputSchema=INLINE, outputSchema=INLINE)
    if reference == "$output":
        say(driver, "$input")
        driver.give("a", b'{"n":2}')
    before = assigned(driver, reference).input
    say(driver, reference, "it took over 4 seconds", "EVALUATION_TIMEOUT")
    assert driver.header().status is WorkflowStatus.FAILED
    driver.ok(RetryWorkflow("default", "w"))
    assert assigned(driver, reference).input == before
    say(driver, reference)
    if reference == "$input":
        driver.give("a", b'{"n":2}')
        say(driver, "$output")
    assert (driver.header().status, driver.header().output) == (WorkflowStatus.COMPLETED, b'{"n":2}')


def test_an_execution_moves_to_a_definition_with_other_schemas() -> None:
    """What has begun is not looked at again; what comes keeps the new ones."""
    driver = new_driver()
    begun(driver, simple("a"))
    driver.register(
        {**workflow("w", simple("a"), simple("b"), inputSchema=INLINE, outputSchema=INLINE), "version": 2}
    )
    driver.ok(MigrateWorkflow("default", "w", 2))
    driver.give("a")
    driver.give("b", b'{"n":1}')
    assert assigned(driver, "$output").input == b'{"n":1}'
    say(driver, "$output")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("reference", ["$input", "$output"])
def test_what_looks_at_a_payload_is_no_task_of_the_definition(reference: str) -> None:
    """It can't be left out, nor be said to be done."""
    driver = new_driver()
    begun(driver, simple("a"), inputSchema=INLINE, outputSchema=INLINE)
    if reference == "$output":
        say(driver, "$input")
        driver.give("a", b'{"n":2}')
    skipped = driver.do(SkipTask("default", "w", reference))
    assert isinstance(skipped, Rejected)
    assert skipped.reason == "TASK_UNKNOWN"
    updated = driver.do(UpdateTask("default", "w", reference, TaskStatus.COMPLETED, b"{}"))
    assert isinstance(updated, Rejected)
    assert updated.reason == "TASK_NOT_UPDATABLE"
