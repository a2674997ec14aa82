"""What a node is handed of system work: the input, and what else it has to know."""

from __future__ import annotations

from orchestrator.engine import checks
from orchestrator.engine.assembly import condition_input
from orchestrator.engine.definitions.model import Script, TaskNode, TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import assemble_object, dump_string, fields_of, text_of
from orchestrator.engine.model import Execution, TaskAttempt
from orchestrator.engine.plan import Plan
from orchestrator.engine.scopes import condition_given


def input_of(plan: Plan, hot: ExecutionState, header: Execution, attempt: TaskAttempt, given: bytes) -> bytes:
    """What a system session is given: the attempt's input, what a loop's condition sees, or what is to be looked at."""
    if attempt.is_looked_at:
        return checks.payload_of(hot, attempt, given)
    if attempt.type == TaskType.DO_WHILE:
        return condition_input(plan, hot, attempt, condition_given(plan, hot, header, attempt))
    return given


def parameters_of(plan: Plan, node: TaskNode, attempt: TaskAttempt, given: bytes) -> bytes:
    """What a system session is told besides the input: a JSON object. Calls have all they need in their input."""
    if attempt.is_looked_at:
        schema = checks.schema_of(node, attempt)
        # What readers are not shown must not come to them in a reason.
        is_quiet = bool(plan.definition.masked_fields)
        return schema_parameters(b"true" if schema is None else schema.text, is_quiet=is_quiet)
    if node.type == TaskType.JSON_JQ_TRANSFORM:
        query = fields_of(given).get("queryExpression")
        return assemble_object([("expression", dump_string("" if query is None else text_of(query)))])
    script = _script_of(node)
    if script is None:
        return b"{}"
    expression = script.expression
    if script.in_input:
        resolved = fields_of(given).get(script.key)
        expression = "" if resolved is None else text_of(resolved)
    return assemble_object(
        [("expression", dump_string(expression)), ("body", b"true" if script.body else b"false")]
    )


def schema_parameters(schema: bytes, *, is_quiet: bool) -> bytes:
    """`is_quiet`: what is violated is told without the values that do so."""
    return assemble_object([("schema", schema), ("quiet", b"true" if is_quiet else b"false")])


def _script_of(node: TaskNode) -> Script | None:
    if node.loop is not None:
        return Script(node.loop.condition)
    if node.switch is not None:
        return Script(node.switch.expression)
    return node.script
