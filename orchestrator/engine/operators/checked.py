"""Tasks whose input has to keep a schema: they begin when somebody has looked at it, and so does a workflow."""

from __future__ import annotations

from orchestrator.engine import attempts, checks, outcomes
from orchestrator.engine.definitions.model import OUTPUT_CHECK, TaskNode
from orchestrator.engine.model import Check, TaskAttempt
from orchestrator.engine.operators.operator import Operator
from orchestrator.engine.step import Step


class Checked:
    """Another operator, which begins when the input is known to be what it has to be."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        if checks.is_input_due(node, attempt):
            checks.ask(step, attempt, Check.INPUT)
        else:
            self._operator.begin(step, node, attempt, given)


class SchemaCheck:
    """SCHEMA_CHECK: the first task of a workflow whose input has to keep a schema, the last of one whose output has."""

    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        is_at_end = node.reference == OUTPUT_CHECK
        if is_at_end and not attempt.output:
            attempt = outcomes.taken_over(step, attempt)
        if checks.is_input_due(node, attempt):
            checks.ask(step, attempt, Check.INPUT)
        elif is_at_end:
            outcomes.output_passed(step, attempt)
        else:
            attempts.complete_operator(step, attempt, b"")
