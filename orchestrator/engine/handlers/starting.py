"""Starting executions."""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.commands import IfExists, StartWorkflow
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.model import TimeoutPolicy
from orchestrator.engine.errors import LimitExceeded, refuse
from orchestrator.engine.expressions import PayloadInvalid, check_payload, fields_of, put_if_absent, text_of
from orchestrator.engine.handlers.definitions import refuse_definition
from orchestrator.engine.model import (
    AgendaKind,
    Bundle,
    Execution,
    Table,
    TimerKind,
    WorkflowDefinitionRow,
    WorkflowStatus,
)
from orchestrator.engine.payloads import store
from orchestrator.engine.plan import bundle_for, plan_of
from orchestrator.engine.results import AnyResult, Code, Started
from orchestrator.engine.step import Step


def start_workflow(step: Step, command: StartWorkflow) -> AnyResult:
    _check(command)
    existing = step.state.execution((command.namespace, command.workflow_id)) if command.workflow_id else None
    if existing is not None and not command.document:
        return _taken(command, existing.execution.name, command.name)
    document = command.document or _registered(step, command).document
    try:
        digest, text = bundle_for(step.state, command.namespace, document)
    except DefinitionError as error:
        refuse_definition(error)
    if existing is not None:
        return _taken(command, existing.execution.name, text_of(fields_of(command.document)["name"]))
    bundle = cast(Bundle | None, step.state.resident[Table.BUNDLE].get((digest,)))
    bundle = bundle or Bundle(digest, text, 0)
    step.write(Table.BUNDLE, (digest,), replace(bundle, executions=bundle.executions + 1))
    definition = plan_of(step.state, digest).definition
    workflow_id = command.workflow_id or step.ids.make()
    step.create(
        Execution(
            namespace=command.namespace,
            workflow_id=workflow_id,
            name=definition.name,
            version=definition.version,
            bundle=digest,
            status=WorkflowStatus.RUNNING,
            created_ms=step.now,
            updated_ms=step.now,
            correlation_id=command.correlation_id,
            priority=command.priority,
            created_by=command.created_by,
            task_to_domain=tuple(sorted(command.task_to_domain)),
            timeout_base_ms=step.now,
            open_branches=1,
        )
    )
    given = put_if_absent(definition.input_template, command.input or b"{}")
    try:
        step.change(input=store(step, given), variables=store(step, definition.variables))
    except LimitExceeded as error:
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", str(error), field="input")
    arm_timeout(step)
    assert definition.first is not None
    step.note(AgendaKind.SCHEDULE, 0, definition.first)
    step.count(live_executions=1)
    return Started(workflow_id, existing=False)


def arm_timeout(step: Step) -> None:
    """The workflow's own timeout, from now."""
    definition = step.plan.definition
    if definition.timeout_ms and definition.timeout_policy == TimeoutPolicy.TIME_OUT_WF:
        step.change(workflow_timer=step.arm(TimerKind.WORKFLOW_TIMEOUT, definition.timeout_ms))


def _check(command: StartWorkflow) -> None:
    if len(command.workflow_id) > limits.WORKFLOW_ID_CHARS:
        message = f"a workflow id may have {limits.WORKFLOW_ID_CHARS} characters"
        refuse(Code.INVALID_ARGUMENT, "WORKFLOW_ID_TOO_LONG", message, field="workflow_id")
    if not 0 <= command.priority <= limits.PRIORITY:
        message = f"a priority is between 0 and {limits.PRIORITY}"
        refuse(Code.INVALID_ARGUMENT, "PRIORITY_INVALID", message, field="priority")
    try:
        check_payload(command.input or b"{}")
    except PayloadInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "INPUT_INVALID", f"input: {error}", field="input", limit=error.limit)


def _registered(step: Step, command: StartWorkflow) -> WorkflowDefinitionRow:
    version = command.version
    if version == 0:
        version = step.state.highest_version.get((command.namespace, command.name), [0])[-1]
    rows = step.state.resident[Table.WORKFLOW_DEFINITION]
    row = cast(WorkflowDefinitionRow | None, rows.get((command.namespace, command.name, version)))
    if row is None:
        which = f" version {command.version}" if command.version else ""
        message = f"no workflow definition is called {command.name}{which}"
        refuse(Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND", message)
    return row


def _taken(command: StartWorkflow, existing: str, wanted: str) -> AnyResult:
    if command.if_exists is not IfExists.RETURN:
        message = f"the workflow id {command.workflow_id!r} is taken"
        refuse(Code.ALREADY_EXISTS, "WORKFLOW_ALREADY_EXISTS", message)
    if existing != wanted:
        message = f"the workflow id {command.workflow_id!r} is taken by an execution of {existing}"
        refuse(Code.INVALID_ARGUMENT, "WORKFLOW_ID_OF_ANOTHER", message, field="workflow_id")
    return Started(command.workflow_id, existing=True)
