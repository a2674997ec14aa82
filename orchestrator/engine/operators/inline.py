"""INLINE, LAMBDA and JSON_JQ_TRANSFORM: a node evaluates what was written. A value-param needs no evaluation."""

from __future__ import annotations

from orchestrator.engine import attempts, evaluations
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import assemble_object, fields_of
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.payloads import store
from orchestrator.engine.step import Step


class Inline:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        if not node.parameter:
            evaluations.ask(step, attempt)
            return
        value = fields_of(given).get(node.parameter, b"null")
        try:
            output = store(step, assemble_object([("result", value)]))
        except LimitExceeded as error:
            attempts.fail_at_limit(step, attempt, error)
            return
        attempts.complete_operator(step, attempt, output)
