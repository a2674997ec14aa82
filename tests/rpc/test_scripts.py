"""A definition or event handler with a script that does not parse is refused at the door, and says where it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orchestrator.engine.definitions.parse import validate_workflow
from orchestrator.integrations.sandbox.executor import SandboxExecutor
from orchestrator.integrations.sandbox.sandbox import Sandbox
from orchestrator.integrations.work import Kind, Source
from orchestrator.rpc.scripts import sources_of
from orchestrator_api.v1 import definitions_pb2 as pb
from orchestrator_api.v1 import events_pb2
from tests.engine.triggers.making import action, handler
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure


def step(reference: str, type: str, given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": type, "inputParameters": given, **fields}


def inline(reference: str, expression: str) -> dict[str, Any]:
    return step(reference, "INLINE", {"evaluatorType": "javascript", "expression": expression})


def definition(*tasks: dict[str, Any]) -> bytes:
    return json.dumps({"name": "w", "version": 1, "tasks": tasks}).encode()


BROKEN = "1 +"
PLACES = {
    "tasks[0].inputParameters.expression": inline("a", BROKEN),
    "tasks[0].expression": step("a", "INLINE", {}, evaluatorType="javascript", expression=BROKEN),
    "tasks[0].inputParameters.scriptExpression": step("a", "LAMBDA", {"scriptExpression": BROKEN}),
    "tasks[0].inputParameters.queryExpression": step("a", "JSON_JQ_TRANSFORM", {"queryExpression": ". |"}),
    "tasks[0].loopCondition": step("a", "DO_WHILE", {}, loopCondition=BROKEN, loopOver=[inline("b", "1")]),
    "tasks[0].loopOver[0].inputParameters.expression": step(
        "a", "DO_WHILE", {}, loopCondition="true", loopOver=[inline("b", BROKEN)]),
}
SWITCH = step("s", "SWITCH", {}, evaluatorType="javascript", expression="$.a", decisionCases={"1": [inline("c", "1")]})
DECISION = step("d", "DECISION", {}, caseExpression="$.a", decisionCases={"1": [inline("e", "1")]})
PLACES["tasks[0].expression of a switch"] = SWITCH | {"expression": BROKEN}
PLACES["tasks[0].caseExpression"] = DECISION | {"caseExpression": BROKEN}
PLACES["tasks[0].decisionCases.1[0].inputParameters.expression"] = SWITCH | {
    "decisionCases": {"1": [inline("c", BROKEN)]}}


@pytest.fixture
async def checked(bench: Bench) -> AsyncIterator[Bench]:
    """Scripts are looked at where they are evaluated."""
    executor = SandboxExecutor(Sandbox(size=1))
    bench.check_source = executor.check
    yield bench
    await executor.close()


@pytest.mark.parametrize("path", PLACES)
async def test_a_script_that_does_not_parse_is_refused(checked: Bench, stubs: Stubs, path: str) -> None:
    whole = definition(PLACES[path])
    for call in (
        stubs.definitions.RegisterWorkflows(pb.RegisterWorkflowsRequest(definition_json=[whole])),
        stubs.definitions.ValidateWorkflows(pb.ValidateWorkflowsRequest(definition_json=[whole])),
    ):
        error = await failure(call)
        info = info_of(error)
        assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DEFINITION_INVALID")
        assert (info.metadata["field"], info.metadata["path"]) == ("definition_json[0]", path.split(" ", maxsplit=1)[0])
        assert "yntax" in (error.details() or "")
    assert checked.submitted == []


async def test_what_parses_is_registered_and_nothing_of_it_runs(checked: Bench, stubs: Stubs) -> None:
    whole = definition(
        inline("a", "foo.bar; while (true) {}"), step("l", "LAMBDA", {"scriptExpression": "return $.a"}),
        SWITCH, DECISION,
        step("q", "JSON_JQ_TRANSFORM", {"queryExpression": "error"}),
        step("dynamic", "JSON_JQ_TRANSFORM", {"queryExpression": "${workflow.input.query} |"}),
        inline("again", "foo.bar; while (true) {}"))
    await stubs.definitions.RegisterWorkflows(pb.RegisterWorkflowsRequest(definition_json=[whole]))
    assert len(checked.submitted) == 1


async def test_where_nothing_can_be_evaluated_scripts_are_not_looked_at(bench: Bench, stubs: Stubs) -> None:
    executor = SandboxExecutor(Sandbox(size=1))
    await executor.close()
    bench.check_source = executor.check
    await stubs.definitions.RegisterWorkflows(
        pb.RegisterWorkflowsRequest(definition_json=[definition(inline("a", BROKEN))]))


async def test_a_condition_that_does_not_parse_is_refused(checked: Bench, stubs: Stubs) -> None:
    start = action("start_workflow", name="report")
    broken = json.dumps(handler(start, condition=BROKEN)).encode()
    error = await failure(stubs.events.PutEventHandler(events_pb2.PutEventHandlerRequest(handler_json=broken)))
    assert info_of(error).reason == "EVENT_HANDLER_INVALID"
    assert info_of(error).metadata["path"] == "condition"
    fine = json.dumps(handler(start, condition="$.status == 'READY'")).encode()
    await stubs.events.PutEventHandler(events_pb2.PutEventHandlerRequest(handler_json=fine))


async def test_each_source_is_looked_at_once(bench: Bench, stubs: Stubs) -> None:
    seen: list[Source] = []

    async def check(source: Source) -> str | None:
        seen.append(source)
        return None

    bench.check_source = check
    whole = definition(*(inline(f"a{number}", f"{number % 40}") for number in range(100)))
    await stubs.definitions.RegisterWorkflows(pb.RegisterWorkflowsRequest(definition_json=[whole]))
    assert seen == [Source(Kind.SCRIPT, f"{number}") for number in range(40)]


def test_bodies_are_told_from_scripts() -> None:
    whole = definition(inline("a", "1"), step("l", "LAMBDA", {"scriptExpression": "return 1"}))
    assert sources_of(validate_workflow(whole)) == [
        ("tasks[0].inputParameters.expression", Source(Kind.SCRIPT, "1")),
        ("tasks[1].inputParameters.scriptExpression", Source(Kind.SCRIPT, "return 1", body=True)),
    ]
