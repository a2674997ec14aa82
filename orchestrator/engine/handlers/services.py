"""The service registry: one record replaces another, so that moving a service changes no workflow."""

from __future__ import annotations

from typing import cast

from orchestrator.engine import limits
from orchestrator.engine.commands import DeleteService, RegisterService
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.errors import refuse
from orchestrator.engine.model import RowKey, Table
from orchestrator.engine.resident import ServiceRow
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.services import validate_service
from orchestrator.engine.step import Step


def register_service(step: Step, command: RegisterService) -> AnyResult:
    try:
        record = validate_service(command.document)
    except DefinitionInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "SERVICE_INVALID", str(error), path=error.path)
    key = (command.namespace, record.name)
    rows = cast(dict[RowKey, ServiceRow], step.state.resident[Table.SERVICE])
    old = rows.get(key)
    if old is not None and old.document == record.document:
        return Done()
    _check_room(rows, old, record.document)
    step.write(Table.SERVICE, key, ServiceRow(command.namespace, record.name, record.document, step.now))
    return Done()


def delete_service(step: Step, command: DeleteService) -> AnyResult:
    key = (command.namespace, command.name)
    if key not in step.state.resident[Table.SERVICE]:
        refuse(Code.NOT_FOUND, "SERVICE_NOT_FOUND", f"no service '{command.name}'", service=command.name)
    step.write(Table.SERVICE, key, None)
    return Done()


def _check_room(rows: dict[RowKey, ServiceRow], old: ServiceRow | None, document: bytes) -> None:
    # Rare, and there are few: counting them costs less than a counter that has to be kept.
    if old is None and len(rows) >= limits.SERVICES:
        refuse(Code.RESOURCE_EXHAUSTED, "SERVICES_FULL", f"there are {limits.SERVICES} services, which is the limit")
    held = sum(len(row.document) for row in rows.values()) - (0 if old is None else len(old.document))
    if held + len(document) > limits.SERVICES_BYTES:
        message = f"the records of all services together exceed the limit of {limits.SERVICES_BYTES} bytes"
        refuse(Code.RESOURCE_EXHAUSTED, "SERVICES_FULL", message)
