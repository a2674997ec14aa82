"""What is registered or started must not publish to, or wait for, streams of Redis where no node knows of one.

Settings are no part of the state, so the state machine takes such documents; this door does not. A sink that is known
only when the task is done is not seen here: what is owed to it waits until a node with Redis leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc

from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.definitions.elements import Element, subtree
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.definitions.parse import ParsedWorkflow, validate_workflow
from orchestrator.engine.definitions.sinks import is_stream
from orchestrator.engine.expressions import fields_of
from orchestrator.engine.triggers.event_documents import ParsedHandler
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure

# Definitions in definitions that are looked at.
_DEPTH_MAX = 8


def check_inner(backend: Backend, document: bytes, field: str) -> None:
    """Of a definition that is started as it is given, by whatever names it. Raises RpcFailure."""
    if not document or not _are_refused(backend):
        return
    try:
        check_workflow(backend, document, field)
    except DefinitionError:
        # Others say so.
        return


def check_workflow(backend: Backend, document: bytes, field: str) -> None:
    """Of a definition that keeps the rules. Raises RpcFailure, with the path of what needs Redis."""
    if _are_refused(backend):
        for path, stream in streams_of(validate_workflow(document)):
            raise _refused(field, path, stream)


def check_handler(backend: Backend, handler: ParsedHandler, field: str) -> None:
    """One that is not active waits for nothing. Raises RpcFailure."""
    if handler.active and _are_refused(backend) and is_stream(handler.event):
        raise _refused(field, "event", handler.event)


def _are_refused(backend: Backend) -> bool:
    # Below that level there are no streams, whatever an event is called.
    return backend.streams is None and backend.state().meta.behaviour_level >= STREAMS


def streams_of(workflow: ParsedWorkflow, depth: int = _DEPTH_MAX) -> Iterator[tuple[str, str]]:
    """(path, sink) of all that it is known to publish to, definitions in it included."""
    listeners = (("workflowStatusListenerSink", workflow.status_event), ("taskStatusListenerSink", workflow.task_event))
    yield from _only_streams(listeners)
    for element in subtree(workflow.elements):
        for one in (element, element.compensation):
            if one is not None:
                yield from _only_streams(_sinks_of(one))
                yield from _of_inner(one, depth)


def _sinks_of(element: Element) -> Iterable[tuple[str, str]]:
    return [(f"{element.path}.sink", element.sink), *((f"{each.path}.sink", each.sink) for each in element.announced)]


def _only_streams(sinks: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((path, sink) for path, sink in sinks if is_stream(sink))


def _of_inner(element: Element, depth: int) -> Iterator[tuple[str, str]]:
    given = fields_of(element.input)
    if element.type == TaskType.SUB_WORKFLOW:
        # As it stands there, its own references are escaped.
        document = given.get("subWorkflowDefinition", b"").replace(b"$${", b"${")
    elif element.type == TaskType.START_WORKFLOW:
        document = fields_of(given.get("startWorkflow", b"")).get("workflowDef", b"")
    else:
        return
    if document[:1] != b"{" or not depth:
        return
    try:
        inner = validate_workflow(document)
    except DefinitionError:
        # It may become one by its expressions.
        return
    for path, stream in streams_of(inner, depth - 1):
        yield f"{element.path}: {path}", stream


def _refused(field: str, path: str, stream: str) -> RpcFailure:
    message = (
        f"{field}: {path}: {stream} is a stream of Redis, and this cluster has none: set redis_endpoints "
        "(and redis_username, redis_password_file, redis_tls, redis_sentinel_master as needed) on all nodes"
    )
    metadata = {"field": field, "path": path, "stream": stream, "setting": "redis_endpoints"}
    return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "REDIS_NOT_CONFIGURED", message, metadata)
