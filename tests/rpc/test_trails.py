"""Trails over the wire: events, and the workflows that took part."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from orchestrator.engine import behaviour
from orchestrator.engine.commands import RaiseBehaviour
from orchestrator.engine.model import Execution
from orchestrator.rpc import trails
from orchestrator.storage.search import Page
from orchestrator_api.v1 import events_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, Payload
from orchestrator_api.v1.workflows_pb2 import WORKFLOW_STATUS_RUNNING
from tests.engine.driver import START_MS, simple, workflow
from tests.engine.triggers.making import action
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure
from tests.rpc.test_events import START, publish, put


@pytest.fixture(autouse=True)
def report(bench: Bench) -> None:
    bench.driver.register(workflow("report", simple("a")))
    bench.driver.ok(RaiseBehaviour(behaviour.STREAMS))
    bench.pages = lambda wanted, size, token: pages(bench, wanted, size, token)


def pages(bench: Bench, wanted: Any, size: int, token: str) -> Page:
    """As the database finds them: by their correlation id, the token being the place of the next one."""
    found: list[Execution] = [
        hot.execution
        for _, hot in bench.driver.state.hot_executions()
        if hot.execution.correlation_id == wanted.correlation_id
    ]
    first = int(token or 0)
    return Page(found[first : first + size], str(first + size) if first + size < len(found) else "")


async def trail(stubs: Stubs, **fields: Any) -> Any:
    return await stubs.events.ListTrail(pb.ListTrailRequest(**{"correlation_id": "c", **fields}))


def kinds(reply: Any) -> list[str]:
    return [pb.TrailEntryKind.Name(entry.kind).removeprefix("TRAIL_ENTRY_KIND_") for entry in reply.entries]


async def test_events_and_workflows_are_one_list(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, START, action("complete_task", workflowId="gone", taskRefName="x"))
    await publish(stubs, message_id="m", correlation_id="c", source="shop")
    reply = await trail(stubs)
    assert kinds(reply) == ["EVENT_IN", "ACTION", "ACTION", "WORKFLOW_STARTED"] or kinds(reply) == [
        "EVENT_IN", "ACTION", "WORKFLOW_STARTED", "ACTION",
    ]
    came, *rest = reply.entries
    assert (came.event, came.event_id, came.source, came.number) == ("paid", "m", "shop", 1)
    done = next(each for each in rest if each.action == "start_workflow")
    failed = next(each for each in rest if each.action == "complete_task")
    began = next(each for each in rest if not each.action)
    assert (done.handler, done.caused_by, done.failed, done.workflow) == ("h", 1, False, "report")
    assert (failed.failed, failed.reason, failed.source) == (True, "no workflow has the id 'gone'", "")
    assert (began.workflow_id, began.caused_by, began.workflow) == (done.workflow_id, done.number, "report")
    assert (began.workflow_status, began.number) == (WORKFLOW_STATUS_RUNNING, 0)
    assert {each.time.ToMilliseconds() for each in reply.entries} == {START_MS}
    assert not reply.workflows_left_out


async def test_a_workflow_of_another_id_that_an_event_has_reached_took_part(bench: Bench, stubs: Stubs) -> None:
    bench.driver.start("report", "other")
    await put(stubs, action("update_workflow_variables", workflowId="other", variables={"n": 1}))
    await publish(stubs, payload=Payload(inline=b'{"correlationId":"c"}'))
    bench.go_cold("other")
    reply = await trail(stubs)
    assert kinds(reply) == ["WORKFLOW_STARTED", "EVENT_IN", "ACTION"]
    assert [each.workflow_id for each in reply.entries] == ["other", "", "other"]


async def test_it_comes_by_the_page(stubs: Stubs) -> None:
    await put(stubs, START)
    for number in range(3):
        await publish(stubs, correlation_id="c", source=f"s{number}")
    whole = await trail(stubs)
    assert len(whole.entries) == 9
    seen, token = [], ""
    while True:
        page = await trail(stubs, page=PageRequest(size=2, token=token))
        seen += list(page.entries)
        token = page.next_token
        if not token:
            break
    assert seen == list(whole.entries)


async def test_it_says_when_there_are_more_workflows(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(stubs, START)
    for _ in range(3):
        await publish(stubs, correlation_id="c")
    for most, found in ((3, 3), (2, 2)):
        monkeypatch.setattr(trails, "WORKFLOWS_MAX", most)
        monkeypatch.setattr(trails, "REACHED_MAX", 0)
        reply = await trail(stubs)
        assert (kinds(reply).count("WORKFLOW_STARTED"), reply.workflows_left_out) == (found, found < 3)


async def test_each_namespace_and_id_has_its_own(stubs: Stubs) -> None:
    await publish(stubs, correlation_id="c")
    await publish(stubs, correlation_id="d", namespace="other")
    assert (kinds(await trail(stubs, correlation_id="d")), kinds(await trail(stubs, namespace="other"))) == ([], [])
    assert kinds(await trail(stubs, correlation_id="d", namespace="other")) == ["EVENT_IN"]


@pytest.mark.parametrize("given", ["", "x" * 201, "a\x00b"])
async def test_an_id_that_none_can_be_is_refused(stubs: Stubs, given: str) -> None:
    error = await failure(trail(stubs, correlation_id=given))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).metadata["field"] == "correlation_id"


@pytest.mark.parametrize("field", ["correlation_id", "source"])
async def test_what_is_too_long_is_refused_at_the_door(bench: Bench, stubs: Stubs, field: str) -> None:
    error = await failure(publish(stubs, **{field: "x" * 201}))
    assert info_of(error).metadata["field"] == field and not bench.submitted
