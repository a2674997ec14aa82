"""TERMINATE: ends the workflow with the status that its input names."""

from __future__ import annotations

from orchestrator.engine import attempts, outcomes
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import assemble_object, fields_of, is_json_object, is_null, text_of
from orchestrator.engine.model import Payload, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.step import Step

_STATUSES = {
    "COMPLETED": WorkflowStatus.COMPLETED,
    "FAILED": WorkflowStatus.FAILED,
    "TERMINATED": WorkflowStatus.TERMINATED,
}


class Terminate:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        fields = fields_of(given)
        named = text_of(fields["terminationStatus"]) if "terminationStatus" in fields else ""
        status = _STATUSES.get(named)
        if status is None:
            reason = "terminationStatus must be COMPLETED, FAILED or TERMINATED"
            attempts.finish(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=reason)
            return
        try:
            output = _output(step, fields)
        except LimitExceeded as error:
            attempts.fail_at_limit(step, attempt, error)
            return
        given_reason = fields.get("terminationReason")
        reason = "" if given_reason is None or is_null(given_reason) else text_of(given_reason)
        reason = reason or f"Workflow is {named} by TERMINATE task: {attempt.task_id}"
        attempts.finish(step, attempt, TaskStatus.COMPLETED, output=output, follow=False)
        if status is WorkflowStatus.COMPLETED:
            outcomes.complete(step, output=output, reason=reason)
            return
        wanted = fields.get("compensate")
        compensate = status is WorkflowStatus.FAILED or (wanted is not None and text_of(wanted) == "true")
        outcomes.end_badly(step, status, reason, output=output, compensate=compensate)


def _output(step: Step, fields: dict[str, bytes]) -> Payload:
    value = fields.get("workflowOutput")
    if value is None or is_null(value):
        # It is the workflow's nonetheless.
        return b"{}"
    return store(step, value if is_json_object(value) else assemble_object([("output", value)]))
