"""Task types by name, and the rules of single types."""

from __future__ import annotations

from orchestrator.engine.definitions.errors import quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.durations import DurationInvalid, parse_duration, parse_until

# Types that exist elsewhere and not here: taken for worker's tasks they would wait for a worker for ever.
UNBUILT_TYPES = frozenset(
    (
        "HTTP GRPC INLINE LAMBDA DECISION DO_WHILE FORK FORK_JOIN_DYNAMIC EXCLUSIVE_JOIN SUB_WORKFLOW START_WORKFLOW"
        " HUMAN EVENT DYNAMIC JSON_JQ_TRANSFORM KAFKA_PUBLISH PULL_WORKFLOW_MESSAGES JDBC"
        " LLM_TEXT_COMPLETE LLM_CHAT_COMPLETE LLM_GENERATE_EMBEDDINGS LLM_GET_EMBEDDINGS LLM_STORE_EMBEDDINGS"
        " LLM_INDEX_TEXT LLM_SEARCH_INDEX LLM_SEARCH_EMBEDDINGS GENERATE_IMAGE GENERATE_AUDIO GENERATE_VIDEO"
        " GENERATE_PDF LIST_MCP_TOOLS CALL_MCP_TOOL LIST_API_TOOLS AGENT GET_AGENT_CARD CANCEL_AGENT PLAN_AND_COMPILE"
        " GET_WORKFLOW HTTP_POLL WAIT_FOR_WEBHOOK BUSINESS_RULE UPDATE_TASK UPDATE_SECRET GET_SIGNED_JWT"
    ).split()
)
COMPENSATION_TYPES_UNBUILT = frozenset({"HTTP", "GRPC", "SUB_WORKFLOW"})
WORKER_TYPES = frozenset({"SIMPLE", "USER_DEFINED"})
EVALUATORS_UNBUILT = frozenset({"javascript", "graaljs", "python"})
TERMINATION_STATUSES = ("COMPLETED", "FAILED", "TERMINATED")

_BUILT = {member.value: member for member in TaskType}


def task_type(fields: Fields) -> TaskType:
    """Any name that is not a built-in type's is a worker's task."""
    name = fields.name("type", TaskType.SIMPLE.value)
    if name in _BUILT:
        return _BUILT[name]
    if name in UNBUILT_TYPES:
        raise fields.unimplemented("type", f"tasks of type {name} are not supported yet")
    if name.isascii() and (name.upper() in _BUILT or name.upper() in UNBUILT_TYPES):
        raise fields.invalid("type", f"{quoted(name)} is no type of task, {name.upper()} is")
    return TaskType.SIMPLE


def compensation_type(fields: Fields) -> TaskType:
    name = fields.text("type", TaskType.SIMPLE.value)
    if name in COMPENSATION_TYPES_UNBUILT:
        raise fields.unimplemented("type", f"compensations of type {name} are not supported yet")
    if name not in WORKER_TYPES and (name in _BUILT or name in UNBUILT_TYPES):
        raise fields.invalid("type", "a compensation must be a SIMPLE, HTTP, GRPC or SUB_WORKFLOW task")
    return task_type(fields)


def check_switch(fields: Fields, parameters: Fields) -> None:
    evaluator, expression = fields.name("evaluatorType"), fields.name("expression")
    if evaluator in EVALUATORS_UNBUILT:
        raise fields.unimplemented("evaluatorType", f"the evaluator {evaluator} is not supported yet, value-param is")
    if evaluator != "value-param":
        raise fields.invalid("evaluatorType", f"{quoted(evaluator)} is no evaluator; value-param is one")
    if not parameters.has(expression):
        raise fields.invalid("expression", f"there is no input parameter {quoted(expression)}")


def check_wait(parameters: Fields) -> None:
    duration, until = _literal(parameters, "duration"), _literal(parameters, "until")
    if duration != "" and until != "":
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
