"""Task types by name, and the rules of single types."""

from __future__ import annotations

from orchestrator.engine.definitions.errors import quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.model import DynamicFork, Script, TaskType
from orchestrator.engine.durations import DurationInvalid, parse_duration, parse_until
from orchestrator.engine.expressions import assemble_object, fields_of, is_null, merge_objects, text_of

# Types that exist elsewhere and not here: taken for worker's tasks they would wait for a worker for ever.
UNBUILT_TYPES = frozenset(
    (
        "FORK KAFKA_PUBLISH JDBC"
        " LLM_TEXT_COMPLETE LLM_CHAT_COMPLETE LLM_GENERATE_EMBEDDINGS LLM_GET_EMBEDDINGS LLM_STORE_EMBEDDINGS"
        " LLM_INDEX_TEXT LLM_SEARCH_INDEX LLM_SEARCH_EMBEDDINGS GENERATE_IMAGE GENERATE_AUDIO GENERATE_VIDEO"
        " GENERATE_PDF LIST_MCP_TOOLS CALL_MCP_TOOL LIST_API_TOOLS AGENT GET_AGENT_CARD CANCEL_AGENT PLAN_AND_COMPILE"
        " GET_WORKFLOW HTTP_POLL WAIT_FOR_WEBHOOK BUSINESS_RULE UPDATE_TASK UPDATE_SECRET GET_SIGNED_JWT"
    ).split()
)
ALIASES = {"LAMBDA": TaskType.INLINE, "DECISION": TaskType.SWITCH}
COMPENSATION_TYPES = frozenset((TaskType.SIMPLE, TaskType.HTTP, TaskType.GRPC, TaskType.SUB_WORKFLOW))
EVALUATORS_UNBUILT = frozenset({"python"})
VALUE_PARAM = "value-param"
JAVASCRIPT = frozenset({"javascript", "graaljs"})
IDEMPOTENCY_STRATEGIES = ("FAIL", "RETURN_EXISTING", "FAIL_ON_RUNNING")
TERMINATION_STATUSES = ("COMPLETED", "FAILED", "TERMINATED")

_BUILT = {**{member.value: member for member in TaskType}, **ALIASES}


def task_type(fields: Fields) -> TaskType:
    """Any name that is not a built-in type's is a worker's task."""
    name = fields.name("type", TaskType.SIMPLE.value)
    if name == TaskType.SCHEMA_CHECK:
        raise fields.invalid("type", "only the cluster makes such tasks: inputSchema and outputSchema ask for them")
    if name in UNBUILT_TYPES:
        raise fields.unimplemented("type", f"tasks of type {name} are not supported yet")
    if name in _BUILT:
        return _BUILT[name]
    if name.isascii() and (name.upper() in _BUILT or name.upper() in UNBUILT_TYPES):
        raise fields.invalid("type", f"{quoted(name)} is no type of task, {name.upper()} is")
    return TaskType.SIMPLE


def reported_type(fields: Fields) -> str:
    """The name that a task of an alias is shown by; "" for its own."""
    name = fields.text("type")
    return name if name in ALIASES else ""


def compensation_type(fields: Fields) -> TaskType:
    kind = task_type(fields)
    if kind not in COMPENSATION_TYPES:
        raise fields.invalid("type", "a compensation must be a SIMPLE, HTTP, GRPC or SUB_WORKFLOW task")
    return kind


# --- scripts


def check_evaluator(fields: Fields, allowed: frozenset[str]) -> str:
    """The evaluator; javascript if none is named."""
    evaluator = fields.text("evaluatorType", "javascript")
    if evaluator in EVALUATORS_UNBUILT:
        raise fields.unimplemented("evaluatorType", f"the evaluator {evaluator} is not supported yet")
    if evaluator not in allowed:
        raise fields.invalid("evaluatorType", f"{quoted(evaluator)} is no evaluator; {', '.join(sorted(allowed))} are")
    return evaluator


def read_switch(fields: Fields, parameters: Fields) -> tuple[str, str]:
    """(evaluator, expression)"""
    fields.name("evaluatorType")
    evaluator = check_evaluator(fields, JAVASCRIPT | {VALUE_PARAM})
    expression = fields.name("expression") if evaluator == VALUE_PARAM else _script(fields, "expression")
    if evaluator == VALUE_PARAM and not parameters.has(expression):
        raise fields.invalid("expression", f"there is no input parameter {quoted(expression)}")
    return evaluator, expression


def read_decision(fields: Fields, parameters: Fields) -> tuple[str, str]:
    """A DECISION says the same in other fields."""
    if fields.text("caseExpression"):
        return "javascript", _script(fields, "caseExpression")
    parameter = fields.name("caseValueParam")
    if not parameters.has(parameter):
        raise fields.invalid("caseValueParam", f"there is no input parameter {quoted(parameter)}")
    return VALUE_PARAM, parameter


def _script(fields: Fields, key: str) -> str:
    text = fields.text(key)
    if not text.strip():
        raise fields.invalid(key, "it must be a script")
    return text


def read_script(fields: Fields, parameters: Fields, given: bytes) -> tuple[Script | None, str, bytes]:
    """Of an INLINE or LAMBDA: (the script, or the parameter that is taken in its place, its input)"""
    is_body = fields.text("type") == "LAMBDA"
    key = "scriptExpression" if is_body else "expression"
    # In the wild they stand in the input; the fields of the task are read, too.
    place = parameters if parameters.has(key) else fields
    evaluators = parameters if parameters.has("evaluatorType") else fields
    evaluator = check_evaluator(evaluators, JAVASCRIPT | {VALUE_PARAM})
    text = _script(place, key)
    if evaluator == VALUE_PARAM:
        if not parameters.has(text):
            raise place.invalid(key, f"there is no input parameter {quoted(text)}")
        return None, text, given
    return Script(text, is_body, in_input=place is parameters), "", given


# --- other types


def read_dynamic_fork(fields: Fields, parameters: Fields) -> DynamicFork:
    """One complete pair of parameters."""
    tasks, inputs = fields.text("dynamicForkTasksParam"), fields.text("dynamicForkTasksInputParamName")
    both = fields.text("dynamicForkJoinTasksParam")
    if bool(tasks) != bool(inputs):
        raise fields.invalid(
            "dynamicForkTasksInputParamName" if tasks else "dynamicForkTasksParam", "one needs the other"
        )
    if tasks and both:
        raise fields.invalid("dynamicForkJoinTasksParam", "tasks and inputs are given by dynamicForkTasksParam already")
    if not (tasks or both or parameters.has("forkTaskInputs")):
        raise fields.invalid("dynamicForkTasksParam", "nothing says what is to be forked")
    for key, parameter in (
        # Where inputs for one task are given, nobody looks for a list of tasks.
        ("dynamicForkTasksParam", tasks),
        ("dynamicForkTasksInputParamName", inputs),
        ("dynamicForkJoinTasksParam", both),
    ):
        if parameter and not parameters.has(parameter) and not parameters.has("forkTaskInputs"):
            raise fields.invalid(key, f"there is no input parameter {quoted(parameter)}")
    return DynamicFork(tasks, inputs, both)


_SUB_WORKFLOW = "name version taskToDomain workflowDefinition idempotencyKey idempotencyStrategy priority".split()
# As they are shown in the input of the task.
_SHOWN = {
    "name": "subWorkflowName",
    "version": "subWorkflowVersion",
    "taskToDomain": "subWorkflowTaskToDomain",
    "workflowDefinition": "subWorkflowDefinition",
    "idempotencyKey": "subWorkflowIdempotencyKey",
    "idempotencyStrategy": "subWorkflowIdempotencyStrategy",
    "priority": "subWorkflowPriority",
}


def read_sub_workflow(fields: Fields, given: bytes) -> bytes:
    """The input of the task: what is started stands in it, beside the input of the started."""
    parameters = Fields(fields.object("subWorkflowParam"), fields.at("subWorkflowParam"), _SUB_WORKFLOW)
    definition = parameters.raw("workflowDefinition")
    if definition is None:
        parameters.name("name")
    elif definition[:1] not in (b"{", b'"'):
        raise parameters.invalid("workflowDefinition", "it must be a definition, or an expression that gives one")
    parameters.object("taskToDomain")
    strategy = parameters.text("idempotencyStrategy")
    if strategy and "${" not in strategy and strategy not in IDEMPOTENCY_STRATEGIES:
        message = f"{quoted(strategy)} is none of {', '.join(IDEMPOTENCY_STRATEGIES)}"
        raise parameters.invalid("idempotencyStrategy", message)
    given = assemble_object([("workflowInput", given)])
    shown = [(_SHOWN[key], raw) for key in _SUB_WORKFLOW if (raw := parameters.raw(key)) is not None]
    # What a definition refers to is its own execution.
    shown = [(key, raw.replace(b"${", b"$${") if raw is definition and raw[:1] == b"{" else raw) for key, raw in shown]
    return merge_objects(given, assemble_object(shown))


def newest_of(fields: Fields) -> str:
    """The name of the sub-workflow that is meant as it is newest when the workflow begins; "" if a version, a
    definition or an expression says which."""
    parameters = fields_of(fields.object("subWorkflowParam"))
    said = {key for key, raw in parameters.items() if not is_null(raw)}
    name = text_of(parameters["name"]) if "name" in said else ""
    return "" if "${" in name or said & {"version", "workflowDefinition"} else name


def check_call(kind: TaskType, parameters: Fields) -> None:
    """An HTTP or GRPC task says what is called: in a field of its own, or in its input itself."""
    request = "http_request" if kind == TaskType.HTTP else "grpc_request"
    direct = ("uri", "service") if kind == TaskType.HTTP else ("target", "service", "method")
    if not parameters.has(request) and not any(parameters.has(key) for key in direct):
        raise parameters.invalid(request, f"it says what is called; or {', '.join(direct)} of the input do")


def check_loop(parameters: Fields) -> None:
    for key in ("keepLastN", "maxIterations"):
        raw = parameters.raw(key)
        if raw is not None and raw[:1] != b'"':
            parameters.integer(key, 0)
        elif raw is not None and b"${" not in raw and not text_of(raw).isdigit():
            raise parameters.invalid(key, "it must be a number of iterations")


def check_wait(parameters: Fields) -> None:
    duration, until = _literal(parameters, "duration"), _literal(parameters, "until")
    if duration and until:
        raise parameters.invalid("until", "a WAIT has a duration or an until, not both")
    try:
        if duration:
            parse_duration(duration)
    except DurationInvalid as error:
        raise parameters.invalid("duration", str(error)) from None
    try:
        if until:
            parse_until(until)
    except DurationInvalid as error:
        raise parameters.invalid("until", str(error)) from None
    parameters.text("signal")


def check_terminate(fields: Fields, parameters: Fields) -> None:
    if fields.flag("optional"):
        raise fields.invalid("optional", "a TERMINATE can't be optional")
    status = _literal(parameters, "terminationStatus")
    if status is not None and status not in TERMINATION_STATUSES:
        raise parameters.invalid("terminationStatus", f"it must be one of {', '.join(TERMINATION_STATUSES)}")
    if _literal_is(parameters, "compensate"):
        parameters.flag("compensate")


def _literal(parameters: Fields, key: str) -> str | None:
    """The string; None if it is not known before it is resolved; "" if there is none."""
    text = parameters.text(key)
    return None if "${" in text else text


def _literal_is(parameters: Fields, key: str) -> bool:
    raw = parameters.raw(key)
    return raw is not None and b"${" not in raw
