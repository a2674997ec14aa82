"""What an operator may do about a compensation that is stuck."""

from __future__ import annotations

from orchestrator.engine import saga
from orchestrator.engine.commands import AbandonCompensation, RetryCompensation, SkipCompensation
from orchestrator.engine.errors import refuse
from orchestrator.engine.model import CompensationState, WorkflowStatus
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step


def retry_compensation(step: Step, command: RetryCompensation) -> AnyResult:
    _require_stuck(step, command.namespace, command.workflow_id)
    saga.retry_stuck(step)
    return Done()


def skip_compensation(step: Step, command: SkipCompensation) -> AnyResult:
    _require_stuck(step, command.namespace, command.workflow_id)
    saga.skip_stuck(step)
    return Done()


def abandon_compensation(step: Step, command: AbandonCompensation) -> AnyResult:
    _require_stuck(step, command.namespace, command.workflow_id)
    saga.abandon(step, command.reason)
    return Done()


def _require_stuck(step: Step, namespace: str, workflow_id: str) -> None:
    step.require(namespace, workflow_id)
    compensating = step.phase is WorkflowStatus.COMPENSATING and step.x.ending is None
    if not compensating or step.x.compensation is not CompensationState.STUCK:
        refuse(Code.FAILED_PRECONDITION, "COMPENSATION_NOT_STUCK", "no compensation of the workflow is stuck")
