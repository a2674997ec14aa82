"""System work of the sandbox: outcomes as Conductor has them, and outputs that the engine can store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.engine.expressions import DEPTH_MAX, PAYLOAD_BYTES_MAX, check_payload
from orchestrator.integrations.sandbox.executor import KINDS, SandboxExecutor
from orchestrator.integrations.sandbox.protocol import Limits
from orchestrator.integrations.sandbox.sandbox import Sandbox
from orchestrator.integrations.work import Ended, Executor, Kind, Outcome, Work

TERMINAL = Ended.FAILED_WITH_TERMINAL_ERROR


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    made = SandboxExecutor(Sandbox(size=1, limits=Limits(time_ms=30_000)))
    yield made
    await made.close()


def work(kind: str, input: Any = None, *, timeout_ms: int = 0, **parameters: Any) -> Work:
    return Work(
        kind=kind, namespace="default", workflow_id="w", task_id="t", name="n", reference="r",
        input=json.dumps(input or {}).encode(), parameters=json.dumps(parameters).encode(), idempotency_key="k",
        fencing_token=1, timeout_ms=timeout_ms)


def output(outcome: Outcome) -> Any:
    check_payload(outcome.output)
    return json.loads(outcome.output)


async def test_a_script_completes_with_its_result(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.SCRIPT, {"a": 1}, expression="({sum: $.a + 1})"))
    assert outcome == Outcome(ended=Ended.COMPLETED, output=b'{"result":{"sum":2}}')
    outcome = await executor.execute(work(Kind.SCRIPT, {"a": 1}, expression="return $.a;", body=True))
    assert outcome == Outcome(ended=Ended.COMPLETED, output=b'{"result":1}')


async def test_a_script_that_fails_is_not_tried_again(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.SCRIPT, expression="foo.bar"))
    message = "ReferenceError: foo is not defined (line 1)"
    assert (outcome.ended, outcome.error_code, outcome.reason) == (TERMINAL, "SCRIPT_FAILED", message)
    assert output(outcome) == {"error": message}


async def test_a_query_completes_with_its_first_result_and_all_of_them(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.JQ, {"a": [1, {"b": 2}]}, expression=".a[]"))
    assert outcome.ended is Ended.COMPLETED
    assert output(outcome) == {"result": 1, "resultList": [1, {"b": 2}]}
    outcome = await executor.execute(work(Kind.JQ, expression="empty"))
    assert output(outcome) == {"result": None, "resultList": []}


async def test_a_query_that_fails_may_be_tried_again(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.JQ, {"a": 1}, expression=".a[]"))
    assert (outcome.ended, outcome.error_code) == (Ended.FAILED, "QUERY_FAILED")
    assert output(outcome) == {"error": "Cannot iterate over number (1)"} == {"error": outcome.reason}


SCHEMA = {"properties": {"a": {"type": "string"}}, "required": ["b"]}


async def test_a_document_that_is_valid_completes_with_nothing(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.SCHEMA, {"a": "x", "b": 1}, schema=SCHEMA))
    assert outcome == Outcome(ended=Ended.COMPLETED, output=b"{}")


async def test_a_violation_names_path_and_rule(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.SCHEMA, {"a": 5}, schema=SCHEMA))
    reason = "$.a: 5 is not of type 'string' (properties/a/type); $: 'b' is a required property (required)"
    assert outcome == Outcome(ended=TERMINAL, error_code="SCHEMA_VIOLATION", reason=reason)


async def test_a_schema_that_is_wrong_is_told_from_a_violation(executor: Executor) -> None:
    outcome = await executor.execute(work(Kind.SCHEMA, schema={"$ref": "http://example.com/x"}))
    assert (outcome.ended, outcome.error_code, outcome.output) == (TERMINAL, "SCHEMA_INVALID", b"")


@pytest.mark.parametrize(
    ("kind", "expression", "ended", "error_code"),
    [
        (Kind.SCRIPT, "while (true) {}", TERMINAL, "EVALUATION_TIMEOUT"),
        (Kind.JQ, "def f: f; f", Ended.FAILED, "EVALUATION_TIMEOUT"),
        (Kind.SCRIPT, "'x'.repeat(300000)", TERMINAL, "EVALUATION_TOO_LARGE"),
        (Kind.SCRIPT, "new Array(1e9).fill(1)", TERMINAL, "EVALUATION_OUT_OF_MEMORY"),
        (Kind.JQ, "reduce range(1e5) as $i (0; [.])", Ended.FAILED, "EVALUATION_TOO_LARGE"),
    ],
)
async def test_an_overrun_is_an_outcome(
    executor: Executor, kind: Kind, expression: str, ended: Ended, error_code: str
) -> None:
    outcome = await executor.execute(work(kind, expression=expression, timeout_ms=2_000))
    assert (outcome.ended, outcome.error_code) == (ended, error_code)
    assert output(outcome) == {"error": outcome.reason}


async def test_outputs_are_what_the_engine_can_store(executor: Executor) -> None:
    """Size and depth count with the field that they are put into."""
    largest = PAYLOAD_BYTES_MAX - len('{"result":""}')
    nest = "let x = 1; for (let i = 0; i < $.n; i++) x = [x]; x"
    for fitting in (work(Kind.SCRIPT, expression=f"'x'.repeat({largest})"),
                    work(Kind.SCRIPT, {"n": DEPTH_MAX - 1}, expression=nest)):
        outcome = await executor.execute(fitting)
        assert outcome.ended is Ended.COMPLETED
        check_payload(outcome.output)
    for exceeding in (work(Kind.SCRIPT, expression=f"'x'.repeat({largest + 1})"),
                      work(Kind.SCRIPT, {"n": DEPTH_MAX}, expression=nest)):
        outcome = await executor.execute(exceeding)
        assert (outcome.ended, outcome.error_code) == (TERMINAL, "EVALUATION_TOO_LARGE")
        assert str(PAYLOAD_BYTES_MAX) in outcome.reason or str(DEPTH_MAX) in outcome.reason


async def test_numbers_and_texts_come_through(executor: Executor) -> None:
    given = {"n": 5, "f": 5.5, "t": "é😀\u2028\x00"}
    outcome = await executor.execute(work(Kind.SCRIPT, given, expression="$"))
    assert output(outcome) == {"result": given}
    outcome = await executor.execute(work(Kind.JQ, given, expression="."))
    assert output(outcome)["result"] == given
    assert b'"n":5,' in outcome.output


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [(Kind.SCRIPT, {}), (Kind.SCRIPT, {"expression": 5}), (Kind.JQ, {"query": "."}), (Kind.SCHEMA, {"jq": "."})],
)
async def test_wrong_parameters_are_an_outcome(executor: Executor, kind: Kind, parameters: dict[str, Any]) -> None:
    outcome = await executor.execute(work(kind, **parameters))
    assert (outcome.ended, outcome.error_code) == (TERMINAL, "PARAMETERS_INVALID")


async def test_other_work_is_refused(executor: Executor) -> None:
    assert {Kind.SCRIPT, Kind.JQ, Kind.SCHEMA} == KINDS
    outcome = await executor.execute(work(Kind.HTTP))
    assert (outcome.ended, outcome.error_code) == (TERMINAL, "KIND_UNKNOWN")


async def test_work_that_could_not_be_evaluated_can_be_tried_again(executor: Executor) -> None:
    await executor.close()
    for attempt in (work(Kind.SCRIPT, expression="1"), work(Kind.JQ, expression="1"), work(Kind.SCHEMA, schema={})):
        outcome = await executor.execute(attempt)
        assert (outcome.ended, outcome.error_code) == (Ended.FAILED, "SANDBOX_UNAVAILABLE")
