"""Starting executions: at the door, and from within."""

from __future__ import annotations

from typing import Final

from orchestrator.engine import births, blob_uses, idempotency, origins
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import StartWorkflow
from orchestrator.engine.errors import refuse
from orchestrator.engine.expressions import fields_of, text_of
from orchestrator.engine.messages import OriginKind, StartExecution
from orchestrator.engine.results import AnyResult, Code, Done, Rejected, Started
from orchestrator.engine.start_checks import NOT_LOOKED, Looked
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import outbox

_FROM_OUTSIDE: Final = frozenset({OriginKind.SCHEDULE, OriginKind.EVENT})


def start_workflow(step: Step, command: StartWorkflow) -> AnyResult:
    births.check_start(command.workflow_id, command.priority, command.input)
    blob_uses.require(step, "input", command.input)
    before = prior(step, command)
    if before is not None:
        return before
    existing = step.state.execution((command.namespace, command.workflow_id)) if command.workflow_id else None
    if existing is not None and not existing.execution.deleted:
        return _taken(step, command, existing.execution.name)
    started = births.start_within(
        step,
        namespace=command.namespace,
        name=command.name,
        version=command.version,
        workflow_id=command.workflow_id,
        input=command.input,
        correlation_id=command.correlation_id,
        priority=command.priority,
        task_to_domain=command.task_to_domain,
        created_by=command.created_by,
        document=command.document,
        idempotency_key=command.idempotency_key,
        looked=Looked(command.looked_for, command.violation) if command.looked_for else NOT_LOOKED,
        is_checked=True,
        trace=command.trace,
    )
    if isinstance(started, Started) and step.plan.definition.publishes:
        # Only what comes from outside is kept away: what has begun goes on, and so does what it starts.
        return outbox.refusal(step) or started
    return started


def prior(step: Step, wanted: StartWorkflow | StartExecution) -> Started | None:
    """What was started with the same idempotency key before."""
    if not wanted.idempotency_key:
        return None
    return idempotency.prior(
        step, wanted.namespace, _name(step, wanted), wanted.idempotency_key, wanted.idempotency
    )


def _name(step: Step, wanted: StartWorkflow | StartExecution) -> str:
    if not wanted.document:
        return wanted.name
    births.bundle_of(step, wanted.namespace, wanted.name, wanted.version, wanted.document)
    return text_of(fields_of(wanted.document)["name"])


def _taken(step: Step, command: StartWorkflow, existing: str) -> AnyResult:
    wanted = _name(step, command)
    if command.if_exists is not IfExists.RETURN:
        message = f"the workflow id {command.workflow_id!r} is taken"
        refuse(Code.ALREADY_EXISTS, "WORKFLOW_ALREADY_EXISTS", message)
    if existing != wanted:
        message = f"the workflow id {command.workflow_id!r} is taken by an execution of {existing}"
        refuse(Code.INVALID_ARGUMENT, "WORKFLOW_ID_OF_ANOTHER", message, field="workflow_id")
    return Started(command.workflow_id, existing=True)


def start_execution(step: Step, message: StartExecution) -> AnyResult:
    """What came of it, started or refused, is told to whoever wanted it."""
    result: Started | Rejected = prior(step, message) or begin(step, message)
    origins.told(step, message, result)
    # A refusal as the step's own result would undo what was just told.
    return result if isinstance(result, Started) else Done()


def begin(step: Step, message: StartExecution) -> Started | Rejected:
    """Whatever there may be under its idempotency key."""
    # Only what executions send refers to values outside the log.
    said = blob_uses.literal(step, message.input) if message.origin.kind in _FROM_OUTSIDE else ""
    if said:
        return Rejected(Code.INVALID_ARGUMENT, "INPUT_INVALID", f"input: {said}", (("field", "input"),))
    return births.start_within(
        step,
        namespace=message.namespace,
        name=message.name,
        version=message.version,
        workflow_id=message.workflow_id,
        input=message.input,
        correlation_id=message.correlation_id,
        priority=message.priority,
        task_to_domain=message.task_to_domain,
        created_by=message.created_by,
        document=message.document,
        idempotency_key=message.idempotency_key,
        parent=message.origin.name if message.root else "",
        parent_sequence=message.origin.number if message.root else 0,
        root=message.root,
        depth=message.depth,
        parent_task=message.parent_task,
        trace=message.trace,
    )
