"""DefinitionService: registering and reading definitions."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable
from typing import Any

from orchestrator.engine import queries
from orchestrator.engine.commands import RegisterTasks, RegisterWorkflows
from orchestrator.engine.definition_commands import DeleteTaskDefinition, DeleteWorkflowDefinition
from orchestrator.engine.definitions.additions import check_new
from orchestrator.engine.definitions.parse import (
    DefinitionInvalid,
    DefinitionUnimplemented,
    validate_task,
    validate_workflow,
)
from orchestrator.engine.results import Done
from orchestrator.integrations.work import Source
from orchestrator.rpc import redis_needed
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure, answers, invalid, not_found, unimplemented
from orchestrator.rpc.level_needed import check_level
from orchestrator.rpc.requests import identity_of, in_range, namespace_of, page_size, refuse_reserved, required
from orchestrator.rpc.scripts import check_sources, schemas_of, sources_of
from orchestrator_api.v1 import common_pb2
from orchestrator_api.v1 import definitions_pb2 as pb
from orchestrator_api.v1 import definitions_pb2_grpc as pb_grpc

DOCUMENTS_MAX = 100
VERSION_MAX = 2**31 - 1
# A page ends at about this size, so that every client accepts the message.
PAGE_BYTES = 2 << 20

_Sources = list[tuple[str, Source]]


class DefinitionServicer(pb_grpc.DefinitionServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @answers
    async def RegisterWorkflows(self, request: pb.RegisterWorkflowsRequest, context: Any) -> Any:
        documents = _documents(request.definition_json)
        await self._check_workflows(documents)
        await self.backend.submit(
            RegisterWorkflows(namespace_of(request.namespace), documents, request.overwrite),
            Done,
            identity_of(request.request),
        )
        return pb.RegisterWorkflowsResponse()

    @answers
    async def ValidateWorkflows(self, request: pb.ValidateWorkflowsRequest, context: Any) -> Any:
        documents = _documents(request.definition_json)
        await self._check_workflows(documents)
        return pb.ValidateWorkflowsResponse()

    async def _check_workflows(self, documents: tuple[bytes, ...]) -> None:
        level = self.backend.state().meta.behaviour_level

        def validate(document: bytes) -> None:
            check_new(validate_workflow(document).elements, level)

        _validate(documents, validate)
        for position, document in enumerate(documents):
            field = f"definition_json[{position}]"
            check_level(self.backend, functools.partial(validate_workflow, document), field)
            redis_needed.check_workflow(self.backend, document, field)
        await self._check_sources(documents, _of_workflow)

    async def _check_sources(self, documents: tuple[bytes, ...], sources: Callable[[bytes], _Sources]) -> None:
        for position, document in enumerate(documents):
            try:
                await check_sources(self.backend.check_source, sources(document))
            except DefinitionInvalid as error:
                raise _refused(position, error) from error

    @answers
    async def RegisterTasks(self, request: pb.RegisterTasksRequest, context: Any) -> Any:
        documents = _documents(request.definition_json)
        _validate(documents, validate_task)
        await self._check_sources(documents, _of_task)
        await self.backend.submit(
            RegisterTasks(namespace_of(request.namespace), documents), Done, identity_of(request.request)
        )
        return pb.RegisterTasksResponse()

    @answers
    async def DeleteWorkflowDefinition(self, request: pb.DeleteWorkflowDefinitionRequest, context: Any) -> Any:
        version = in_range("version", request.version, 0, VERSION_MAX)
        command = DeleteWorkflowDefinition(namespace_of(request.namespace), required("name", request.name), version)
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.DeleteWorkflowDefinitionResponse()

    @answers
    async def DeleteTaskDefinition(self, request: pb.DeleteTaskDefinitionRequest, context: Any) -> Any:
        command = DeleteTaskDefinition(namespace_of(request.namespace), required("name", request.name))
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.DeleteTaskDefinitionResponse()

    @answers
    async def GetWorkflowDefinition(self, request: pb.GetWorkflowDefinitionRequest, context: Any) -> Any:
        name = required("name", request.name)
        await self.backend.read_point(request.read)
        row = queries.workflow_definition(self.backend.state(), namespace_of(request.namespace), name, request.version)
        if row is None:
            raise not_found("definition", f"{name} version {request.version}" if request.version else name)
        return pb.GetWorkflowDefinitionResponse(definition_json=row.document, version=row.version)

    @answers
    async def GetTaskDefinition(self, request: pb.GetTaskDefinitionRequest, context: Any) -> Any:
        name = required("name", request.name)
        await self.backend.read_point(request.read)
        row = queries.task_definition(self.backend.state(), namespace_of(request.namespace), name)
        if row is None:
            raise not_found("task_definition", name)
        return pb.GetTaskDefinitionResponse(definition_json=row.document)

    @answers
    async def ListWorkflowDefinitions(self, request: pb.ListWorkflowDefinitionsRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        rows = queries.workflow_definitions(self.backend.state(), namespace_of(request.namespace))
        page, token = page_of([(f"{row.name}\x00{row.version:010}", row.document) for row in rows], request.page)
        return pb.ListWorkflowDefinitionsResponse(definition_json=page, next_token=token)

    @answers
    async def ListTaskDefinitions(self, request: pb.ListTaskDefinitionsRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        rows = queries.task_definitions(self.backend.state(), namespace_of(request.namespace))
        page, token = page_of([(row.name, row.document) for row in rows], request.page)
        return pb.ListTaskDefinitionsResponse(definition_json=page, next_token=token)


def _of_workflow(document: bytes) -> _Sources:
    return sources_of(validate_workflow(document))


def _of_task(document: bytes) -> _Sources:
    return schemas_of(validate_task(document).definition.schemas.uses())


def _documents(values: Any) -> tuple[bytes, ...]:
    documents = tuple(values)
    in_range("definition_json", len(documents), 1, DOCUMENTS_MAX)
    for position, document in enumerate(documents):
        refuse_reserved(f"definition_json[{position}]", document)
    return documents


def _validate(documents: tuple[bytes, ...], validate: Callable[[bytes], object]) -> None:
    """Early, so that a document that breaks a rule costs no log entry; registration checks again."""
    for position, document in enumerate(documents):
        try:
            validate(document)
        except DefinitionInvalid as error:
            raise _refused(position, error) from error
        except DefinitionUnimplemented as error:
            unbuilt = unimplemented(f"definition_json[{position}]", str(error))
            unbuilt.reason = "DEFINITION_UNIMPLEMENTED"
            unbuilt.metadata["path"] = error.path
            raise unbuilt from error


def _refused(position: int, error: DefinitionInvalid) -> RpcFailure:
    failure = invalid(f"definition_json[{position}]", str(error))
    failure.reason = "DEFINITION_INVALID"
    failure.metadata["path"] = error.path
    return failure


def page_of(items: list[tuple[str, bytes]], page: common_pb2.PageRequest) -> tuple[list[bytes], str]:
    """One page of items in the order of their keys; the token is the last key of the page before."""
    size = page_size(page)
    after = key_of(page.token)
    rest = [(key, document) for key, document in sorted(items) if after is None or key > after]
    documents: list[bytes] = []
    filled = 0
    for key, document in rest:
        documents.append(document)
        filled += len(document)
        if len(documents) == size or filled >= PAGE_BYTES:
            is_last = len(documents) == len(rest)
            return documents, "" if is_last else base64.urlsafe_b64encode(key.encode()).decode()
    return documents, ""


def key_of(token: str) -> str | None:
    """The key of the last item of the page before; None for the first page."""
    if not token:
        return None
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid("page.token", "not a token of this listing") from error
