"""The rules of workflow definitions: one row per rule, with the path at which it is broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.engine.definitions.additions import check_new
from orchestrator.engine.definitions.bundle import compile_bundle, make_bundle
from orchestrator.engine.definitions.model import INPUT_CHECK, OUTPUT_CHECK
from orchestrator.engine.definitions.operators import UNBUILT_TYPES
from orchestrator.engine.definitions.parse import (
    DOCUMENT_BYTES_MAX,
    DefinitionInvalid,
    DefinitionUnimplemented,
    validate_workflow,
)

Json = dict[str, Any]


def task(reference: str, **fields: Any) -> Json:
    return {"name": f"do_{reference}", "taskReferenceName": reference, **fields}


def switch(reference: str, **fields: Any) -> Json:
    parameters = {"which": "${workflow.input.which}"}
    base = {"type": "SWITCH", "evaluatorType": "value-param", "expression": "which", "inputParameters": parameters}
    return task(reference, **{**base, **fields})


def fork(*branches: list[Json]) -> Json:
    return task("fork", type="FORK_JOIN", forkTasks=list(branches))


def exclusive(*on: str, **fields: Any) -> Json:
    return task("x", type="EXCLUSIVE_JOIN", joinOn=list(on), **fields)


def join(*on: str) -> Json:
    return task("join", type="JOIN", joinOn=list(on))


def dynamic(parameters: Json | None = None, *, tasks: str = "", inputs: str = "", both: str = "") -> Json:
    said = {"dynamicForkTasksParam": tasks, "dynamicForkTasksInputParamName": inputs, "dynamicForkJoinTasksParam": both}
    return task("f", type="FORK_JOIN_DYNAMIC", inputParameters=parameters or {}, **said)


def workflow(*tasks: Json, **fields: Any) -> Json:
    return {"name": "w", "tasks": list(tasks) or [task("a")], **fields}


def step(**compensation: Any) -> Json:
    return task("a", compensateWith={"name": "undo", **compensation})


INVALID: list[tuple[Json, str, str]] = [
    # The workflow.
    ({"tasks": [task("a")]}, "name", "non-empty string"),
    (workflow(name=""), "name", "non-empty string"),
    (workflow(name=7), "name", "must be a string"),
    (workflow(name="a:b"), "name", "can't have a ':'"),
    (workflow(name="x" * 201), "name", "200 characters"),
    ({"name": "w"}, "tasks", "needs a task"),
    ({"name": "w", "tasks": []}, "tasks", "needs a task"),
    ({"name": "w", "tasks": {}}, "tasks", "must be a list"),
    ({"name": "w", "tasks": ["a"]}, "tasks[0]", "must be an object"),
    (workflow(version=0), "version", "between 1"),
    (workflow(version="1a"), "version", "must be an integer"),
    (workflow(version=""), "version", "must be an integer"),
    (workflow(version=1.5), "version", "must be an integer"),
    (workflow(schemaVersion=1), "schemaVersion", "must be 2"),
    (workflow(timeoutSecond=5), "timeoutSecond", "no such field"),
    (workflow(timeoutSecond=0), "timeoutSecond", "no such field"),
    (workflow(timeoutSeconds=-1), "timeoutSeconds", "between 0"),
    (workflow(timeoutSeconds=0.0005), "timeoutSeconds", "three decimals"),
    (workflow(timeoutSeconds="6 s"), "timeoutSeconds", "number of seconds"),
    (workflow(timeoutPolicy="RETRY"), "timeoutPolicy", "ALERT_ONLY or TIME_OUT_WF"),
    (workflow(timeoutPolicy="NEVER"), "timeoutPolicy", "'NEVER' is none of"),
    (workflow(compensationOrder="FORWARD"), "compensationOrder", "REVERSE, PARALLEL"),
    (workflow(compensationGraceSeconds=-1), "compensationGraceSeconds", "between 0"),
    (workflow(outputParameters=[]), "outputParameters", "must be an object"),
    (workflow(outputParameters={"x": "${b.output}"}), "outputParameters.x", "'b'"),
    (workflow(outputParameters={"x": "${step.output}"}), "outputParameters.x", "compensation"),
    (workflow(variables=[1]), "variables", "must be an object"),
    (workflow(restartable="yes"), "restartable", "true or false"),
    # Tasks.
    (workflow({"name": "a"}), "tasks[0].taskReferenceName", "non-empty string"),
    (workflow({"taskReferenceName": "a"}), "tasks[0].name", "non-empty string"),
    (workflow(task("x" * 201)), "tasks[0].taskReferenceName", "200 characters"),
    (workflow(task("step")), "tasks[0].taskReferenceName", "reserved"),
    (workflow(task("workflow")), "tasks[0].taskReferenceName", "reserved"),
    (workflow(task("a"), task("a")), "tasks[1].taskReferenceName", "'a' is the name of tasks[0] already"),
    (
        workflow(task("a"), switch("s", decisionCases={"big": [task("b"), task("a")]})),
        "tasks[1].decisionCases.big[1].taskReferenceName",
        "'a' is the name of tasks[0] already",
    ),
    (workflow(task("a", retrycount=1)), "tasks[0].retrycount", "no such field"),
    (workflow(task("a", retryCount=-1)), "tasks[0].retryCount", "between 0"),
    (workflow(task("a", optional="yes")), "tasks[0].optional", "true or false"),
    (workflow(task("a", startDelay=-1)), "tasks[0].startDelay", "between 0"),
    (workflow(task("a", inputParameters=[1])), "tasks[0].inputParameters", "must be an object"),
    (workflow(task("a", type="switch")), "tasks[0].type", "SWITCH is"),
    (workflow(task("a", type="http")), "tasks[0].type", "HTTP is"),
    (workflow(task("a", decisionCases={"x": []})), "tasks[0].decisionCases", "only a SWITCH task"),
    (workflow(task("a", forkTasks=[[]])), "tasks[0].forkTasks", "only a FORK_JOIN task"),
    (workflow(task("a", loopCondition="$.x")), "tasks[0].loopCondition", "only a DO_WHILE task"),
    (workflow(task("a", items=[1])), "tasks[0].items", "only a DO_WHILE task"),
    (workflow(task("a", dynamicTaskNameParam="n")), "tasks[0].dynamicTaskNameParam", "only a DYNAMIC task"),
    (workflow(task("a", dynamicForkTasksParam="n")), "tasks[0].dynamicForkTasksParam", "only a FORK_JOIN_DYNAMIC"),
    (workflow(task("a", taskDefinition={"retryCount": -1})), "tasks[0].taskDefinition.retryCount", "between 0"),
    (workflow(task("a", taskDefinition={"retries": 1})), "tasks[0].taskDefinition.retries", "no such field"),
    # Expressions.
    (
        workflow(task("a"), switch("s", decisionCases={"big": [task("b", inputParameters={"amount": "${x.output}"})]})),
        "tasks[1].decisionCases.big[0].inputParameters.amount",
        "no task with the reference name 'x'",
    ),
    (
        workflow(task("a", inputParameters={"l": [{"k": "${workflow.inputs.a}"}]})),
        "tasks[0].inputParameters.l[0].k",
        "'workflow' has no field 'inputs'",
    ),
    (workflow(task("a", inputParameters={"k": "${step.input}"})), "tasks[0].inputParameters.k", "compensation"),
    # SWITCH.
    (workflow(switch("s")), "tasks[0].decisionCases", "needs decisionCases or a defaultCase"),
    (workflow(switch("s", evaluatorType=None)), "tasks[0].evaluatorType", "non-empty string"),
    (workflow(switch("s", evaluatorType="lua")), "tasks[0].evaluatorType", "'lua' is no evaluator"),
    (workflow(switch("s", expression="")), "tasks[0].expression", "non-empty string"),
    (workflow(switch("s", expression="what")), "tasks[0].expression", "no input parameter 'what'"),
    (workflow(switch("s", decisionCases={"x": {}})), "tasks[0].decisionCases.x", "must be a list"),
    (workflow(switch("s", decisionCases={"x": None})), "tasks[0].decisionCases.x", "must be a list"),
    (
        workflow(switch("s", evaluatorType="javascript", expression=" ", decisionCases={"x": []})),
        "tasks[0].expression",
        "must be a script",
    ),
    (workflow(task("s", type="DECISION", decisionCases={"x": []})), "tasks[0].caseValueParam", "non-empty string"),
    (
        workflow(task("s", type="DECISION", caseValueParam="v", decisionCases={"x": []})),
        "tasks[0].caseValueParam",
        "no input parameter 'v'",
    ),
    (
        workflow(task("s", type="DECISION", caseExpression=" ", decisionCases={"x": []})),
        "tasks[0].caseExpression",
        "must be a script",
    ),
    # FORK_JOIN and JOIN.
    (workflow(fork([task("a")])), "tasks[0]", "must be followed by a JOIN"),
    (workflow(fork([task("a")]), task("b"), join()), "tasks[0]", "must be followed by a JOIN"),
    (workflow(fork([], []), join()), "tasks[0].forkTasks", "needs a branch"),
    (workflow(fork({}), join()), "tasks[0].forkTasks[0]", "must be a list"),  # type: ignore[arg-type]
    (workflow(task("a"), join("a")), "tasks[1]", "must follow a FORK_JOIN"),
    (workflow(join("a")), "tasks[0]", "must follow a FORK_JOIN"),
    (workflow(fork([task("a")]), join("a", "b")), "tasks[1].joinOn[1]", "'b' is not in a branch of 'fork'"),
    (workflow(task("b"), fork([task("a")]), join("b")), "tasks[2].joinOn[0]", "'b' is not in a branch of 'fork'"),
    (workflow(fork([task("a")]), join("a", "a")), "tasks[1].joinOn[1]", "named twice"),
    (workflow(fork([task("a"), join("a")]), join()), "tasks[0].forkTasks[0][1]", "must follow a FORK_JOIN"),
    (workflow(exclusive()), "tasks[0].joinOn", "needs a task"),
    (workflow(task("a"), exclusive("a", "nobody")), "tasks[1].joinOn[1]", "no task with the reference name 'nobody'"),
    (
        workflow(task("a"), exclusive("a", defaultExclusiveJoinTask=["nobody"])),
        "tasks[1].defaultExclusiveJoinTask[0]",
        "no task with the reference name 'nobody'",
    ),
    (
        workflow(task("l", type="DO_WHILE", loopCondition="1", loopOver=[task("a")]), exclusive("a")),
        "tasks[1].joinOn[0]",
        "not in the same loop",
    ),
    (
        workflow(task("a"), task("l", type="DO_WHILE", loopCondition="1", loopOver=[exclusive("a")])),
        "tasks[1].loopOver[0].joinOn[0]",
        "not in the same loop",
    ),
    # TERMINATE and WAIT.
    (workflow(task("t", type="TERMINATE")), "tasks[0].inputParameters.terminationStatus", "COMPLETED, FAILED"),
    (
        workflow(task("t", type="TERMINATE", inputParameters={"terminationStatus": "RUNNING"})),
        "tasks[0].inputParameters.terminationStatus",
        "COMPLETED, FAILED",
    ),
    (
        workflow(task("t", type="TERMINATE", optional=True, inputParameters={"terminationStatus": "FAILED"})),
        "tasks[0].optional",
        "can't be optional",
    ),
    (
        workflow(task("t", type="TERMINATE", inputParameters={"terminationStatus": "FAILED", "compensate": "yes"})),
        "tasks[0].inputParameters.compensate",
        "true or false",
    ),
    (
        workflow(task("t", type="WAIT", inputParameters={"duration": "1s", "until": "2030-01-01"})),
        "tasks[0].inputParameters.until",
        "not both",
    ),
    (
        workflow(task("t", type="WAIT", inputParameters={"duration": "soon"})),
        "tasks[0].inputParameters.duration",
        "a duration is like",
    ),
    (
        workflow(task("t", type="WAIT", inputParameters={"until": "2030-01-01 12:00 Mars"})),
        "tasks[0].inputParameters.until",
        "zone",
    ),
    (workflow(task("t", type="WAIT", inputParameters={"signal": 1})), "tasks[0].inputParameters.signal", "a string"),
    (workflow(task("a", sink="conductor")), "tasks[0].sink", "only a EVENT task"),
    (workflow(task("a", subWorkflowParam={"name": "x"})), "tasks[0].subWorkflowParam", "only a SUB_WORKFLOW task"),
    (workflow(fork([task("a")]), {**join("a"), "joinMode": "LATER"}), "tasks[1].joinMode", "SYNC or ASYNC"),
    (workflow(task("l", type="DO_WHILE", loopCondition="true")), "tasks[0].loopOver", "a task to repeat"),
    (workflow(task("l", type="DO_WHILE", loopOver=[task("a")])), "tasks[0].loopCondition", "loopCondition or items"),
    (workflow(task("i", type="INLINE")), "tasks[0].expression", "must be a script"),
    (
        workflow(task("i", type="INLINE", inputParameters={"evaluatorType": "ruby", "expression": "1"})),
        "tasks[0].inputParameters.evaluatorType",
        "is no evaluator",
    ),
    (
        workflow(task("i", type="INLINE", inputParameters={"evaluatorType": "value-param", "expression": "v"})),
        "tasks[0].inputParameters.expression",
        "no input parameter 'v'",
    ),
    (workflow(task("i", type="LAMBDA")), "tasks[0].scriptExpression", "must be a script"),
    (workflow(task("q", type="JSON_JQ_TRANSFORM")), "tasks[0].inputParameters.queryExpression", "needs one"),
    (workflow(task("d", type="DYNAMIC")), "tasks[0].dynamicTaskNameParam", "non-empty string"),
    (
        workflow(task("d", type="DYNAMIC", dynamicTaskNameParam="n")),
        "tasks[0].dynamicTaskNameParam",
        "no input parameter 'n'",
    ),
    (workflow(task("h", type="HTTP")), "tasks[0].inputParameters.http_request", "what is called"),
    (workflow(task("h", type="GRPC")), "tasks[0].inputParameters.grpc_request", "what is called"),
    (workflow(task("f", type="FORK_JOIN_DYNAMIC")), "tasks[0].dynamicForkTasksParam", "nothing says"),
    (workflow(dynamic(tasks="t")), "tasks[0].dynamicForkTasksInputParamName", "one needs the other"),
    (workflow(dynamic(inputs="i")), "tasks[0].dynamicForkTasksParam", "one needs the other"),
    (workflow(dynamic(tasks="t", inputs="i", both="b")), "tasks[0].dynamicForkJoinTasksParam", "given by"),
    (workflow(dynamic(tasks="t", inputs="i")), "tasks[0].dynamicForkTasksParam", "no input parameter 't'"),
    (workflow(dynamic({"t": []}, tasks="t", inputs="i")), "tasks[0].dynamicForkTasksInputParamName", "no input param"),
    (workflow(dynamic(both="b")), "tasks[0].dynamicForkJoinTasksParam", "no input parameter 'b'"),
    (
        workflow(task("f", type="FORK_JOIN_DYNAMIC", inputParameters={"forkTaskInputs": []})),
        "tasks[0]",
        "followed by a JOIN",
    ),
    (
        workflow(fork([task("l", type="DO_WHILE", loopCondition="1", loopOver=[task("a")])]), join("a")),
        "tasks[1].joinOn[0]",
        "join the loop",
    ),
    (workflow(task("s", type="SUB_WORKFLOW")), "tasks[0].subWorkflowParam.name", "non-empty string"),
    (
        workflow(task("s", type="SUB_WORKFLOW", subWorkflowParam={"name": "x", "workflowDefinition": 7})),
        "tasks[0].subWorkflowParam.workflowDefinition",
        "a definition, or an expression",
    ),
    (
        workflow(task("s", type="SUB_WORKFLOW", subWorkflowParam={"name": "x", "taskToDomain": "d"})),
        "tasks[0].subWorkflowParam.taskToDomain",
        "must be an object",
    ),
    (workflow(task("e", type="EVENT")), "tasks[0].sink", "non-empty string"),
    (workflow(task("t", type="START_WORKFLOW")), "tasks[0].inputParameters.startWorkflow", "the request"),
    # Compensation.
    (workflow(step(type="SUB_WORKFLOW")), "tasks[0].compensateWith.subWorkflowParam.name", "non-empty string"),
    (workflow(step(type="HTTP")), "tasks[0].compensateWith.inputParameters.http_request", "what is called"),
    (
        workflow(task("a", taskDefinition={"runtimeMetadata": ["X", ""]})),
        "tasks[0].taskDefinition.runtimeMetadata[1]",
        "non-empty string",
    ),
    (workflow(step(name="")), "tasks[0].compensateWith.name", "non-empty string"),
    (workflow(task("a", compensateWith="undo")), "tasks[0].compensateWith", "must be an object"),
    (workflow(step(type="WAIT")), "tasks[0].compensateWith.type", "must be a SIMPLE"),
    (workflow(step(type="DO_WHILE")), "tasks[0].compensateWith.type", "must be a SIMPLE"),
    (workflow(step(pivot=True)), "tasks[0].compensateWith.pivot", "can't have this"),
    (workflow(step(optional=True)), "tasks[0].compensateWith.optional", "can't have this"),
    (workflow(step(compensateWith={"name": "x"})), "tasks[0].compensateWith.compensateWith", "can't have this"),
    (workflow(step(joinOn=["x"])), "tasks[0].compensateWith.joinOn", "no such field"),
    (workflow(step(taskReferenceName="a")), "tasks[0].compensateWith.taskReferenceName", "tasks[0] already"),
    (workflow(step(), task("a__compensation")), "tasks[1].taskReferenceName", "tasks[0].compensateWith already"),
    (
        workflow(step(inputParameters={"x": "${b.output}"})),
        "tasks[0].compensateWith.inputParameters.x",
        "no task with the reference name 'b'",
    ),
    (
        workflow(step(inputParameters={"x": "${step.status}"})),
        "tasks[0].compensateWith.inputParameters.x",
        "'step' has no field 'status'",
    ),
    (
        workflow(task("w", type="WAIT", compensateWith={"name": "x"})),
        "tasks[0].compensateWith",
        "only a SIMPLE, HTTP, GRPC or SUB_WORKFLOW task",
    ),
]


@pytest.mark.parametrize(("document", "path", "message"), INVALID)
def test_a_broken_rule_is_refused_at_its_path(document: Json, path: str, message: str) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(json.dumps(document).encode())
    assert refused.value.path == path
    assert message in refused.value.message


BROKERS = ("sqs", "kafka", "amqp_queue", "amqp_exchange", "nats", "jsm")
UNIMPLEMENTED: list[tuple[Json, str]] = [
    (
        workflow(
            task("h", type="HTTP", inputParameters={"uri": "x"}, taskDefinition={"name": "h", "concurrentExecLimit": 1})
        ),
        "tasks[0].taskDefinition.concurrentExecLimit",
    ),
    (workflow(workflowStatusListenerSink="kafka"), "workflowStatusListenerSink"),
    (workflow(cacheConfig={"key": "x"}), "cacheConfig"),
    (workflow(inputSchema={"name": "x", "type": "AVRO"}), "inputSchema.type"),
    (workflow(outputSchema={"name": "x", "type": "PROTOBUF"}, enforceSchema=True), "outputSchema.type"),
    (workflow(task("a", cacheConfig={"key": "x"})), "tasks[0].cacheConfig"),
    *((workflow(task("e", type="EVENT", sink=f"{kind}:x")), "tasks[0].sink") for kind in BROKERS),
    *((workflow(workflowStatusListenerSink=f"{kind}:x"), "workflowStatusListenerSink") for kind in BROKERS),
    (workflow(task("a", onStateChange={"onStart": [{"type": "${x}"}]})), "tasks[0].onStateChange.onStart[0].type"),
    (workflow(workflowStatusListenerSink="conductor:${workflow.input.x}"), "workflowStatusListenerSink"),
    (workflow(switch("s", evaluatorType="python", decisionCases={"x": []})), "tasks[0].evaluatorType"),
    (workflow(task("a", inputParameters={"k": "${NETFLIX_ENV}"})), "tasks[0].inputParameters.k"),
    *((workflow(task("a", type=name)), "tasks[0].type") for name in sorted(UNBUILT_TYPES)),
]


@pytest.mark.parametrize(("document", "path"), UNIMPLEMENTED)
def test_what_is_not_built_is_refused_and_never_ignored(document: Json, path: str) -> None:
    with pytest.raises(DefinitionUnimplemented) as refused:
        validate_workflow(json.dumps(document).encode())
    assert refused.value.path == path
    assert "not supported" in refused.value.message or "can't be referred to" in refused.value.message


ACCEPTED: list[Json] = [
    workflow(),
    workflow(
        failureWorkflow="",
        failureWorkflowVersion=None,
        timeoutSeconds=60,
        inputParameters=[],
        enforceSchema=True,
        inputSchema=None,
        workflowStatusListenerEnabled=True,
        maskedFields=[],
        rateLimitConfig={},
        ownerEmail="a@b.c",
        createTime=1,
        metadata={"x": [1]},
        restartable=True,
        schemaVersion=2,
    ),
    workflow(inputSchema={"name": "x"}, enforceSchema=False),
    workflow(onStateChange={}, somethingNew=[], another="", nothing=None),
    workflow(task("a", callbackFromWorker=True, asyncComplete=True)),
    workflow(fork([task("a")]), {**join("a"), "joinStatus": "COMPLETED"}, task("b", joinStatus=["x"])),
    # What is another type's and says nothing here, not even whether it keeps that type's rules.
    workflow(task("a", joinOn=["a", "nobody"], joinMode="NEVER", defaultExclusiveJoinTask=["x"])),
    workflow(task("a", evaluatorType="lua", expression="1", caseValueParam="v", scriptExpression="1")),
    workflow(fork([task("a")]), join("a"), {**fork([task("b")]), "taskReferenceName": "g", "joinOn": ["a"]},
             {**join("b"), "taskReferenceName": "k"}),
    workflow(task("a", taskDefinition={"name": "a", "timeoutSeconds": 120, "responseTimeoutSeconds": 3600})),
    workflow(fork([task("a")]), {**join("a"), "evaluatorType": "js", "expression": "(function(){ return 1 })()"}),
    workflow(
        {
            "name": "each",
            "taskReferenceName": "each",
            "type": "FORK_JOIN_DYNAMIC",
            "dynamicForkTasksParam": "forkedTasks",
            "dynamicForkTasksInputParamName": "forkedTasksInputs",
            "inputParameters": {"forkTaskName": "a", "forkTaskInputs": [1]},
        },
        {"name": "j", "taskReferenceName": "j", "type": "JOIN"},
    ),
    workflow(task("a", type="USER_DEFINED")),
    workflow(task("a", type="MY_OWN_TYPE", asyncComplete=False, decisionCases={}, joinOn=[], optional=False)),
    workflow(
        task("a", inputParameters={"x": "${a.output.y}"}), task("b", inputParameters={"x": "${c.output}"}), task("c")
    ),
    workflow(switch("s", decisionCases={"x": []})),
    workflow(switch("s", defaultCase=[task("a")])),
    workflow(fork([task("a"), task("b")], []), join("a", "b")),
    workflow(fork([switch("s", decisionCases={"x": [task("deep")]})]), join("deep")),
    workflow(task("t", type="TERMINATE", inputParameters={"terminationStatus": "${workflow.input.status}"})),
    workflow(task("t", type="WAIT")),
    workflow(task("t", type="WAIT", inputParameters={"duration": "${workflow.input.d}", "until": ""})),
    # One of them may turn out to be null.
    workflow(task("t", type="WAIT", inputParameters=dict.fromkeys(("duration", "until"), "${workflow.input.d}"))),
    workflow(task("t", type="WAIT", inputParameters={"signal": "paid", "duration": "2h"})),
    workflow({"taskReferenceName": "n", "type": "NOOP"}),
    workflow(
        step(inputParameters={"x": "${step.output.y}", "z": "${a.input}"}, retryCount=2), compensationOrder="PARALLEL"
    ),
    workflow(task("a", pivot=True)),
]


@pytest.mark.parametrize("document", ACCEPTED)
def test_what_keeps_the_rules_is_accepted_and_compiles(document: Json) -> None:
    text = json.dumps(document).encode()
    assert validate_workflow(text).name == "w"
    registered = {"do_a": b'{"name":"do_a","inputTemplate":{"x":"${q.output}"}}'}
    compiled = compile_bundle(make_bundle(text, registered, {})[1])
    assert set(compiled.nodes) == validate_workflow(text).references | {INPUT_CHECK, OUTPUT_CHECK}


def test_numbers_and_booleans_may_stand_in_quotes() -> None:
    """As Conductor reads them, and templates write them."""
    quoted = workflow(task("a", retryCount="3", startDelay="2", optional="true"), version="4", timeoutSeconds="60")
    plain = workflow(task("a", retryCount=3, startDelay=2, optional=True), version=4, timeoutSeconds=60)
    first, second = (
        compile_bundle(make_bundle(json.dumps(document).encode(), {}, {})[1]) for document in (quoted, plain)
    )
    assert first == second


def test_limits() -> None:
    with pytest.raises(DefinitionInvalid, match=str(DOCUMENT_BYTES_MAX)):
        validate_workflow(b" " * (DOCUMENT_BYTES_MAX + 1))
    for document, message in [(b"{", "JSON"), (b"\xff", "UTF-8"), (b"[]", "object"), (b"[" * 100, "deeper than 64")]:
        with pytest.raises(DefinitionInvalid, match=message):
            validate_workflow(document)
    tiny = [{"taskReferenceName": f"{number:x}", "type": "NOOP"} for number in range(20_001)]
    document = json.dumps(workflow(*tiny), separators=(",", ":")).encode()
    with pytest.raises(DefinitionInvalid, match="20000 tasks"):
        validate_workflow(document)
    deep: list[Json] = [task("a")]
    for number in range(12):
        deep = [fork(deep), join()]
        deep[0]["taskReferenceName"], deep[1]["taskReferenceName"] = f"f{number}", f"j{number}"
    assert len(validate_workflow(json.dumps(workflow(*deep)).encode()).references) == 25


def test_a_long_key_does_not_make_a_long_error() -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(json.dumps(workflow(**{"x" * 100_000: 1})).encode())
    assert len(str(refused.value)) < 1200


def test_a_reference_like_the_key_of_a_marker_was_one_like_any_other_at_first() -> None:
    document = json.dumps(workflow(task("a"), switch("s", decisionCases={"x": [task("$blob")]}))).encode()
    # What was registered then is read by the rules of now.
    elements = validate_workflow(document).elements
    check_new(elements, level=1)
    with pytest.raises(DefinitionInvalid, match=r"tasks\[1\].decisionCases.x\[0\].taskReferenceName: .* reserved name"):
        check_new(elements)
