"""Documents of schedules and event handlers: what is read, and what is wrong is named by its path."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.behaviour import LOWEST, STREAMS
from orchestrator.engine.definitions.errors import DefinitionError, DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions.payload_templates import check_payload_template, expand_inline, fill
from orchestrator.engine.triggers.event_documents import ActionKind, validate_handler
from orchestrator.engine.triggers.schedule_documents import CronZone, OverlapPolicy, validate_schedule
from tests.engine.triggers.making import action, document, handler


def read(**fields: Any) -> Any:
    return validate_schedule(msgspec.json.encode(document(**fields)))


def read_handler(*actions: Any, **fields: Any) -> Any:
    return validate_handler(msgspec.json.encode(handler(*actions, **fields)))


def test_defaults_are_those_of_conductor() -> None:
    parsed = read()
    assert parsed.crons == (CronZone("0 * * * * *", "UTC"),)
    assert (parsed.start_ms, parsed.end_ms, parsed.jitter_ms) == (0, 0, 0)
    assert (parsed.paused, parsed.catch_up, parsed.overlap) == (False, False, OverlapPolicy.ALLOW)
    assert (parsed.request.version, parsed.request.priority) == (0, 0)


def test_every_field_is_read() -> None:
    request = {
        "name": "report", "version": 3, "input": {"a": 1.0}, "correlationId": "c", "priority": 9,
        "taskToDomain": {"b": "y", "a": "x"}, "createdBy": "me", "idempotencyStrategy": "FAIL",
    }
    parsed = read(
        zoneId="Asia/Tokyo", cronExpression="  0  0\t9 * * MON ", scheduleStartTime=5, scheduleEndTime=2**40,
        paused=True, pausedReason="why", runCatchupScheduleInstances=True, overlapPolicy="SKIP", jitterMs=100,
        description="d", startWorkflowRequest=request, createTime=1, updatedTime=2, updatedBy="u", nextRunTime=3,
    )
    assert parsed.crons == (CronZone("0 0 9 * * MON", "Asia/Tokyo"),)
    assert (parsed.start_ms, parsed.end_ms, parsed.jitter_ms) == (5, 2**40, 100)
    assert (parsed.paused, parsed.paused_reason, parsed.catch_up) == (True, "why", True)
    assert parsed.overlap is OverlapPolicy.SKIP
    one = parsed.request
    assert (one.name, one.version, one.input, one.priority) == ("report", 3, b'{"a":1.0}', 9)
    assert (one.correlation_id, one.created_by) == ("c", "me")
    assert one.task_to_domain == (("a", "x"), ("b", "y"))


def test_a_list_of_expressions_takes_the_place_of_the_single_one() -> None:
    parsed = read(cronSchedules=[{"cronExpression": "0 0 1 * * *"}, {"cronExpression": "a", "zoneId": "b"}])
    assert parsed.crons == (CronZone("0 0 1 * * *", "UTC"), CronZone("a", "b"))
    assert read(cronSchedules=[]).crons == read().crons


def test_a_schedule_may_bring_its_definition() -> None:
    task = {"name": "a", "taskReferenceName": "a", "type": "SIMPLE"}
    parsed = read(startWorkflowRequest={"workflowDef": {"name": "x", "tasks": [task]}})
    assert parsed.request.document.startswith(b'{"name":"x"') and parsed.request.name == ""


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "name"),
        ({"nmae": 1}, "nmae"),
        ({"cronExpression": None}, "cronExpression"),
        ({"cronExpression": " "}, "cronExpression"),
        ({"cronExpression": 5}, "cronExpression"),
        ({"cronExpression": "1," * 150}, "cronExpression"),
        ({"zoneId": "x" * 101}, "zoneId"),
        ({"cronSchedules": [{}]}, "cronSchedules[0].cronExpression"),
        ({"cronSchedules": [{"cronExpression": "a"}, {"cronExpression": "a", "zone": "b"}]}, "cronSchedules[1].zone"),
        ({"cronSchedules": [{"cronExpression": "a"}] * 21}, "cronSchedules"),
        ({"scheduleStartTime": -1}, "scheduleStartTime"),
        ({"scheduleStartTime": 2, "scheduleEndTime": 1}, "scheduleEndTime"),
        ({"overlapPolicy": "QUEUE"}, "overlapPolicy"),
        ({"jitterMs": 60_001}, "jitterMs"),
        ({"paused": "yes"}, "paused"),
        ({"startWorkflowRequest": None}, "startWorkflowRequest"),
        ({"startWorkflowRequest": {}}, "startWorkflowRequest.name"),
        ({"startWorkflowRequest": {"name": "a", "priority": 100}}, "startWorkflowRequest.priority"),
        ({"startWorkflowRequest": {"name": "a", "input": []}}, "startWorkflowRequest.input"),
        ({"startWorkflowRequest": {"name": "a", "taskToDomain": {"x": 1}}}, "startWorkflowRequest.taskToDomain.x"),
        ({"startWorkflowRequest": {"name": "a", "idempotencyKey": "x" * 201}}, "startWorkflowRequest.idempotencyKey"),
        ({"startWorkflowRequest": {"name": "a", "idempotencyKey": "k", "idempotencyStrategy": "SOMETIMES"}},
         "startWorkflowRequest.idempotencyStrategy"),
        ({"startWorkflowRequest": {"workflowDef": {"name": "x", "tasks": [{}]}}},
         "startWorkflowRequest.workflowDef.tasks[0].taskReferenceName"),
        ({"startWorkflowRequest": {"name": "a", "correlationId": "x" * 201}}, "startWorkflowRequest.correlationId"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_named_by_its_path(fields: Any, path: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(**fields)
    assert caught.value.path == path


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"name":"' + b"x" * limits.SCHEDULE_DOCUMENT_BYTES + b'"}'])
def test_what_is_no_document_is_refused(text: bytes) -> None:
    for validate in (validate_schedule, validate_handler):
        with pytest.raises(DefinitionInvalid):
            validate(text)


START = action("start_workflow", name="report")


def test_a_handler_is_read() -> None:
    parsed = read_handler(
        START, action("fail_task", True, workflowId="${w}", taskRefName="t", output={"x": "${y}"}),
        condition=" $.a > 1 ", evaluatorType="javascript",
    )
    assert (parsed.name, parsed.event, parsed.active, parsed.condition) == ("h", "paid", True, "$.a > 1")
    assert [(each.kind, each.expand) for each in parsed.actions] == [
        (ActionKind.START_WORKFLOW, False), (ActionKind.FAIL_TASK, True),
    ]
    assert not read_handler(START, active=None).active  # as in Conductor


@pytest.mark.parametrize(
    ("actions", "fields", "path"),
    [
        ([START], {"name": None}, "name"),
        ([START], {"event": ""}, "event"),
        ([START], {"evaluatorType": "ruby"}, "evaluatorType"),
        ([START], {"evaluatorType": "python"}, "evaluatorType"),
        ([START], {"condition": "x" * 10_001}, "condition"),
        ([START], {"condition": 5}, "condition"),
        ([], {}, "actions"),
        ([START] * 21, {}, "actions"),
        ([{}], {}, "actions[0].action"),
        ([{"action": "dance"}], {}, "actions[0].action"),
        ([{"action": "start_workflow"}], {}, "actions[0].start_workflow.name"),
        ([START, {**START, "complete_task": {"workflowId": "w"}}], {}, "actions[1].complete_task"),
        ([action("start_workflow", name="a", nmae="b")], {}, "actions[0].start_workflow.nmae"),
        ([action("start_workflow", name="a", input={"x": ["${a", 1]})], {}, "actions[0].start_workflow.input.x[0]"),
        ([action("start_workflow", name="${a.${b}}")], {}, "actions[0].start_workflow.name"),
        ([action("start_workflow", name="a", inputMessage={"x": 1})], {}, "actions[0].start_workflow.inputMessage"),
        ([action("complete_task", taskId="t")], {}, "actions[0].complete_task.workflowId"),
        ([action("complete_task", workflowId="w")], {}, "actions[0].complete_task.taskRefName"),
        ([action("fail_task", workflowId="w", taskId="t", output=[])], {}, "actions[0].fail_task.output"),
        ([action("terminate_workflow")], {}, "actions[0].terminate_workflow.workflowId"),
        ([action("update_workflow_variables", workflowId="w", variables=1)], {},
         "actions[0].update_workflow_variables.variables"),
        *(
            ([action(kind, workflowId="w", taskRefName="t", outputMessage={"x": 1})], {},
             f"actions[0].{kind}.outputMessage")
            for kind in ("complete_task", "fail_task")
        ),
        ([action("signal", signal="s")], {}, "actions[0].signal.workflowId"),
        ([action("signal", workflowId="w")], {}, "actions[0].signal.signal"),
        ([action("signal", workflowId="w", signal="s", payload="p")], {}, "actions[0].signal.payload"),
        ([action("signal", workflowId="w", signal="s", output={"x": 1})], {}, "actions[0].signal.output"),
        ([action("correlate")], {}, "actions[0].correlate.correlationKey"),
        ([action("correlate", correlationKey=7)], {}, "actions[0].correlate.correlationKey"),
        ([action("correlate", correlationKey="k", event="")], {}, "actions[0].correlate.event"),
        ([action("correlate", correlationKey="k", output=[])], {}, "actions[0].correlate.output"),
        ([action("correlate", correlationKey="${a.${b}}")], {}, "actions[0].correlate.correlationKey"),
        ([action("correlate", correlationKey="k", workflowId="w")], {}, "actions[0].correlate.workflowId"),
    ],
)
def test_what_is_wrong_with_a_handler_is_named_by_its_path(actions: Any, fields: Any, path: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read_handler(*actions, **fields)
    assert caught.value.path == path


def test_what_came_with_a_level_is_not_known_before() -> None:
    """The words are those of the release before, too: an answer is part of the replicated state."""
    refused = {}
    for level in (LOWEST, STREAMS):
        with pytest.raises(DefinitionError) as caught:
            validate_handler(msgspec.json.encode(handler({"action": "correlates"})), level)
        refused[level] = caught.value.message
    assert refused[LOWEST] == (
        "'correlates' is none of start_workflow, complete_task, fail_task, terminate_workflow,"
        " update_workflow_variables"
    )
    assert refused[STREAMS].startswith(f"{refused[LOWEST]}, signal, correlate")
    with pytest.raises(DefinitionError) as caught:
        validate_handler(msgspec.json.encode(handler({**START, "signal": {"workflowId": "w"}})), LOWEST)
    assert (caught.value.path, caught.value.message) == ("actions[0].signal", "there is no such field")


PAYLOAD = b'{"a":{"b":[1,2.50,{"c":"x y"}]},"t":"text","n":null,"o d":1}'


@pytest.mark.parametrize(
    ("template", "value"),
    [
        (b'"plain"', b'"plain"'),
        (b'"${t}"', b'"text"'),
        (b'"${ t }"', b'"text"'),
        (b'"<${t}>"', b'"<text>"'),
        (b'"${a.b[1]}"', b"2.50"),
        (b'"${a.b[1]} EUR"', b'"2.50 EUR"'),
        (b'"${a.b[-1].c}"', b'"x y"'),
        (b'"${$.a.b[0]}"', b"1"),
        (b'"${[\'o d\']}"', b"1"),
        (b'"${a.b[*].c}"', b'["x y"]'),
        (b'"${no.where}"', b"null"),
        (b'"is ${no}"', b'"is null"'),
        (b'"$${t}"', b'"${t}"'),
        (b'"$${t} ${t}"', b'"${t} text"'),
        (b'"5 $"', b'"5 $"'),
        (b'{"k":["${n}",{"z":"${t}"}],"${t}":1}', b'{"k":[null,{"z":"text"}],"${t}":1}'),
        (b'"\\u0024{t}"', b'"text"'),
        (b"17", b"17"),
    ],
)
def test_expressions_find_fields_of_the_payload(template: bytes, value: bytes) -> None:
    check_payload_template(template, "x")
    assert fill(template, PAYLOAD) == value


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        (b'"${a"', DefinitionInvalid), (b'"${}"', DefinitionInvalid), (b'"${a..}"', DefinitionInvalid),
        (b'"${a[?(@.x)]}"', DefinitionUnimplemented), (b'"${a.${b}}"', DefinitionUnimplemented),
    ],
)
def test_what_is_no_expression_is_refused(template: bytes, kind: type[DefinitionError]) -> None:
    with pytest.raises(kind):
        check_payload_template(template, "x")


def test_a_result_is_bounded() -> None:
    with pytest.raises(LimitExceeded):
        fill(b'["${a}","${a}"]', PAYLOAD, most=30)
    assert fill(b'["${t}"]', PAYLOAD, most=30) == b'["text"]'


def test_inline_json_is_expanded_once_and_what_is_no_json_is_left() -> None:
    given = {"a": '{"b": "[1]"}', "c": ["true", "word", " [5] "], "d": '{"e": }', "f": {"g": "null", "h": "0123"}}
    assert msgspec.json.decode(expand_inline(msgspec.json.encode(given))) == {
        **given, "a": {"b": "[1]"}, "c": ["true", "word", [5]],
    }
