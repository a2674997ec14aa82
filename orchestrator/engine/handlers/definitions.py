"""Registering definitions, all documents of a command or none, and taking them away."""

from __future__ import annotations

from typing import cast

from orchestrator.engine import throttle
from orchestrator.engine.commands import RegisterTasks, RegisterWorkflows
from orchestrator.engine.definition_commands import DeleteTaskDefinition, DeleteWorkflowDefinition
from orchestrator.engine.definitions.additions import check_new
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.parse import validate_task, validate_workflow
from orchestrator.engine.errors import refuse, refuse_definition
from orchestrator.engine.model import Table
from orchestrator.engine.resident import TaskDefinitionRow, WorkflowDefinitionRow
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step


def register_workflows(step: Step, command: RegisterWorkflows) -> AnyResult:
    if not command.documents:
        refuse(Code.INVALID_ARGUMENT, "DOCUMENTS_MISSING", "there is nothing to register", field="documents")
    for document in command.documents:
        try:
            parsed = validate_workflow(document, step.level)
            check_new(parsed.elements, step.level)
        except DefinitionError as error:
            refuse_definition(error)
        key = (command.namespace, parsed.name, parsed.version)
        old = cast(WorkflowDefinitionRow | None, step.state.resident[Table.WORKFLOW_DEFINITION].get(key))
        if old is not None and old.document == parsed.document:
            continue
        if old is not None and not command.overwrite:
            message = f"workflow {parsed.name} version {parsed.version} exists with another content"
            refuse(Code.ALREADY_EXISTS, "DEFINITION_ALREADY_EXISTS", message)
        step.write(
            Table.WORKFLOW_DEFINITION,
            key,
            WorkflowDefinitionRow(command.namespace, parsed.name, parsed.version, parsed.document, step.now),
        )
    return Done()


def register_tasks(step: Step, command: RegisterTasks) -> AnyResult:
    if not command.documents:
        refuse(Code.INVALID_ARGUMENT, "DOCUMENTS_MISSING", "there is nothing to register", field="documents")
    for document in command.documents:
        try:
            parsed = validate_task(document)
        except DefinitionError as error:
            refuse_definition(error)
        key = (command.namespace, parsed.name)
        old = cast(TaskDefinitionRow | None, step.state.resident[Table.TASK_DEFINITION].get(key))
        if old is None or old.document != parsed.document:
            row = TaskDefinitionRow(command.namespace, parsed.name, parsed.document, step.now)
            step.write(Table.TASK_DEFINITION, key, row)
            throttle.definition_changed(step, *key)
    return Done()


def delete_workflow_definition(step: Step, command: DeleteWorkflowDefinition) -> AnyResult:
    """Executions have bundles of their own, which stay."""
    versions = step.state.highest_version.get((command.namespace, command.name), [])
    found = [version for version in versions if command.version in (0, version)]
    if not found:
        which = f" version {command.version}" if command.version else ""
        message = f"no workflow definition is called {command.name}{which}"
        refuse(Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND", message, workflow=command.name)
    for version in found:
        step.write(Table.WORKFLOW_DEFINITION, (command.namespace, command.name, version), None)
    return Done()


def delete_task_definition(step: Step, command: DeleteTaskDefinition) -> AnyResult:
    key = (command.namespace, command.name)
    if key not in step.state.resident[Table.TASK_DEFINITION]:
        message = f"no task definition is called {command.name}"
        refuse(Code.NOT_FOUND, "TASK_DEFINITION_NOT_FOUND", message, task=command.name)
    step.write(Table.TASK_DEFINITION, key, None)
    throttle.definition_changed(step, *key)
    return Done()
