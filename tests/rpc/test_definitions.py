"""Definitions over the wire: registered as they are, read back as they were, listed by the page."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from orchestrator.engine import commands
from orchestrator.rpc import definitions
from orchestrator_api.v1 import definitions_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions, RequestIdentity
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of


def document(name: str, version: int = 1, size: int = 0) -> bytes:
    task = {"name": "pay", "taskReferenceName": "pay", "type": "SIMPLE"}
    return compact({"name": name, "version": version, "schemaVersion": 2, "description": "x" * size, "tasks": [task]})


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def register(stubs: Stubs, *documents: bytes, **fields: Any) -> None:
    await stubs.definitions.RegisterWorkflows(pb.RegisterWorkflowsRequest(definition_json=documents, **fields))


async def test_a_definition_is_read_back_as_it_was_but_for_white_space(stubs: Stubs) -> None:
    spaced = document("order", 1).replace(b",", b" ,\n")
    await register(stubs, spaced, document("order", 3))
    for version, found_version in ((1, 1), (0, 3), (3, 3)):
        reply = await stubs.definitions.GetWorkflowDefinition(
            pb.GetWorkflowDefinitionRequest(name="order", version=version)
        )
        assert (reply.version, reply.definition_json) == (found_version, document("order", found_version))


async def test_what_was_not_registered_is_not_found(stubs: Stubs) -> None:
    await register(stubs, document("order"))
    for call in (
        stubs.definitions.GetWorkflowDefinition(pb.GetWorkflowDefinitionRequest(name="order", version=2)),
        stubs.definitions.GetWorkflowDefinition(pb.GetWorkflowDefinitionRequest(name="order", namespace="other")),
        stubs.definitions.GetTaskDefinition(pb.GetTaskDefinitionRequest(name="pay")),
    ):
        assert (await failure(call)).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["RegisterWorkflows", "ValidateWorkflows"])
async def test_a_broken_definition_is_refused_with_its_path_and_costs_no_log_entry(
    bench: Bench, stubs: Stubs, method: str
) -> None:
    request = getattr(pb, f"{method}Request")
    broken = json.loads(document("order"))
    del broken["tasks"][0]["taskReferenceName"]
    given = [document("fine"), json.dumps(broken).encode()]
    error = await failure(getattr(stubs.definitions, method)(request(definition_json=given)))
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DEFINITION_INVALID")
    assert info.metadata["field"] == "definition_json[1]" and "tasks[0]" in info.metadata["path"]
    for count in (0, 101):
        error = await failure(getattr(stubs.definitions, method)(request(definition_json=[given[0]] * count)))
        assert info_of(error).metadata["field"] == "definition_json"
    assert bench.submitted == []


async def test_validating_stores_nothing(bench: Bench, stubs: Stubs) -> None:
    await stubs.definitions.ValidateWorkflows(pb.ValidateWorkflowsRequest(definition_json=[document("order")]))
    assert bench.submitted == []


async def test_registering_twice_with_other_content_needs_overwrite(bench: Bench, stubs: Stubs) -> None:
    await register(stubs, document("order"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await register(stubs, document("order", size=5))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    session = bench.apply(commands.OpenClientSession("default")).session_id  # type: ignore[union-attr]
    identity = RequestIdentity(session={"id": session, "sequence": 1})
    await register(stubs, document("order", size=5), overwrite=True, request=identity)
    assert bench.identities[-1] == commands.RequestIdentity("", session, 1, 0)


async def test_task_definitions_are_registered_read_and_listed(stubs: Stubs) -> None:
    given = [compact({"name": name, "ownerEmail": "a@example.com"}) for name in ("ship", "pay")]
    await stubs.definitions.RegisterTasks(pb.RegisterTasksRequest(definition_json=given))
    reply = await stubs.definitions.GetTaskDefinition(pb.GetTaskDefinitionRequest(name="ship"))
    assert reply.definition_json == given[0]
    listed = await stubs.definitions.ListTaskDefinitions(pb.ListTaskDefinitionsRequest())
    assert list(listed.definition_json) == given[::-1]


async def pages(stubs: Stubs, size: int) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    token = ""
    while True:
        reply = await stubs.definitions.ListWorkflowDefinitions(
            pb.ListWorkflowDefinitionsRequest(page=PageRequest(size=size, token=token))
        )
        found.append(list(reply.definition_json))
        token = reply.next_token
        if not token:
            return found


async def test_a_listing_is_by_name_and_version_and_comes_in_pages(stubs: Stubs) -> None:
    ordered = [document("a", version) for version in (1, 2, 10)] + [document("a b"), document("b")]
    await register(stubs, *reversed(ordered))
    for size in (1, 2, 4, 5, 6):
        found = await pages(stubs, size)
        assert [each for page in found for each in page] == ordered
        assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1) and found[-1]


async def test_a_page_ends_before_it_is_too_large_for_a_message(
    stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "PAGE_BYTES", 2500)
    given = [document(f"d{number}", size=1000) for number in range(7)]
    await register(stubs, *given)
    found = await pages(stubs, 100)
    assert [len(page) for page in found] == [3, 3, 1]
    assert [each for page in found for each in page] == given


async def test_nothing_registered_is_an_empty_page(stubs: Stubs) -> None:
    assert await pages(stubs, 10) == [[]]


async def test_a_token_of_another_listing_is_refused(stubs: Stubs) -> None:
    call = stubs.definitions.ListWorkflowDefinitions(
        pb.ListWorkflowDefinitionsRequest(page=PageRequest(token="%%%"), read=ReadOptions(stale_ok=True))
    )
    assert info_of(await failure(call)).metadata["field"] == "page.token"


async def test_definitions_are_taken_away_by_version_or_all_together(stubs: Stubs) -> None:
    await register(stubs, document("w", 1), document("w", 2), document("w", 3))
    await stubs.definitions.DeleteWorkflowDefinition(pb.DeleteWorkflowDefinitionRequest(name="w", version=2))
    listed = await stubs.definitions.ListWorkflowDefinitions(pb.ListWorkflowDefinitionsRequest())
    assert list(listed.definition_json) == [document("w", 1), document("w", 3)]
    await stubs.definitions.DeleteWorkflowDefinition(pb.DeleteWorkflowDefinitionRequest(name="w"))
    error = await failure(stubs.definitions.DeleteWorkflowDefinition(pb.DeleteWorkflowDefinitionRequest(name="w")))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND")


async def test_a_task_definition_is_taken_away(stubs: Stubs) -> None:
    await stubs.definitions.RegisterTasks(pb.RegisterTasksRequest(definition_json=[b'{"name":"t"}']))
    await stubs.definitions.DeleteTaskDefinition(pb.DeleteTaskDefinitionRequest(name="t"))
    error = await failure(stubs.definitions.DeleteTaskDefinition(pb.DeleteTaskDefinitionRequest(name="t")))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "TASK_DEFINITION_NOT_FOUND")
