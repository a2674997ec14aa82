"""SET_VARIABLE: merges its input into the workflow's variables."""

from __future__ import annotations

from orchestrator.engine import attempts
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, merge_objects
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.payloads import store
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step


class SetVariable:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        variables = merge_objects(load(step.hot, step.x.variables) or b"{}", given)
        try:
            if len(variables) > PAYLOAD_BYTES_MAX:
                raise LimitExceeded(f"the workflow's variables exceed the limit of {PAYLOAD_BYTES_MAX} bytes")
            kept = store(step, variables)
        except LimitExceeded as error:
            attempts.fail_at_limit(step, attempt, error)
            return
        step.change(variables=kept)
        attempts.complete_operator(step, attempt, b"{}")
