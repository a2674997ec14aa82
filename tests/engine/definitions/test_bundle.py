"""A realistic saga, bundled and compiled: what the engine walks, row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.engine.definitions.bundle import compile_bundle, make_bundle
from orchestrator.engine.definitions.model import (
    CompensationOrder,
    CompiledDefinition,
    RetryLogic,
    RetryPolicy,
    Switch,
    TaskNode,
    TimeoutPolicy,
    Timeouts,
)
from orchestrator.engine.definitions.parse import DefinitionInvalid
from orchestrator.engine.expressions import resolve
from orchestrator.engine.expressions.template_model import Part, Reference
from orchestrator.engine.plan import make_plan

SAGA = Path(__file__).with_name("saga.json").read_bytes()
REGISTERED = {
    "charge": b'{"name": "charge", "retryLogic": "EXPONENTIAL_BACKOFF", "inputTemplate": {"currency": "USD",'
    b' "by": "${workflow.input.by}", "x": "${elsewhere.output}"}}',
    "refund": b'{"name": "refund", "retryCount": 1}',
    "unreview": b'{"name": "unreview", "retryDelaySeconds": 2}',
    "unused": b'{"name": "unused"}',
}


@pytest.fixture(name="compiled")
def _compiled() -> CompiledDefinition:
    return compile_bundle(make_bundle(SAGA, REGISTERED, {})[1])


def undo_of(compiled: CompiledDefinition, reference: str) -> TaskNode:
    node = compiled.nodes[reference].compensate_with
    assert node is not None
    return node


def test_the_whole(compiled: CompiledDefinition) -> None:
    assert (compiled.name, compiled.version) == ("order", 3)
    assert compiled.first == "reserve"
    assert compiled.top == ("reserve", "both", "joined", "ship")
    of_tasks = "reserve both charge check which review pause stop joined ship".split()
    assert list(compiled.nodes) == [*of_tasks, "$input", "$output"]
    assert (compiled.timeout_ms, compiled.timeout_policy) == (3_600_500, TimeoutPolicy.TIME_OUT_WF)
    assert (compiled.compensation_order, compiled.compensation_grace_ms) == (CompensationOrder.PARALLEL, 5000)
    assert {key: bytes(value) for key, value in compiled.input_template.items()} == {
        "currency": b'"EUR"',
        "rate": b"1.10",
    }
    assert compiled.variables == b'{"tries":0}'
    assert compiled.output is not None
    assert compiled.output.references == ("ship",)
    assert compiled.output.uses_variables
    assert make_plan(compiled.nodes).joins_of == {"charge": ("joined",), "which": ("joined",)}


def test_what_follows_what(compiled: CompiledDefinition) -> None:
    rows = {node.reference: (node.next, node.parent, node.branch) for node in compiled.nodes.values()}
    assert rows == {
        "reserve": ("both", None, 0),
        "both": ("joined", None, 0),
        "charge": (None, "both", 0),
        "check": ("which", "both", 1),
        "which": (None, "both", 1),
        "review": ("pause", "which", 1),
        "pause": (None, "which", 1),
        "stop": (None, "which", 2),
        "joined": ("ship", None, 0),
        "ship": (None, None, 0),
        "$input": ("reserve", None, 0),
        "$output": (None, None, 0),
    }
    assert compiled.nodes["both"].fork == (("charge",), ("check", "which"))
    assert compiled.nodes["both"].join == "joined"
    assert compiled.nodes["joined"].join_on == ("charge", "which")
    cases = {"low": (), "high": ("review", "pause")}
    assert compiled.nodes["which"].switch == Switch("value-param", "score", "evaluationResult", cases, ("stop",))


def test_retries_and_timeouts(compiled: CompiledDefinition) -> None:
    default = RetryPolicy(19, RetryLogic.EXPONENTIAL_BACKOFF, 1000, 1.0, 60_000, 0)
    assert compiled.nodes["reserve"].retry == RetryPolicy()
    assert compiled.nodes["reserve"].timeouts == Timeouts()
    assert compiled.nodes["joined"].retry.count == 0
    assert compiled.nodes["joined"].timeouts.response_ms == 0
    # The task's own retryCount wins over that of its definition.
    assert compiled.nodes["charge"].retry == RetryPolicy(1, RetryLogic.EXPONENTIAL_BACKOFF)
    assert undo_of(compiled, "reserve").retry == default
    # Inline wins over registered, and says nothing about retries.
    assert undo_of(compiled, "charge").retry == default
    assert undo_of(compiled, "charge").timeouts.task_ms == 10_000
    assert undo_of(compiled, "review").retry == RetryPolicy(delay_ms=2000)


def test_details_of_nodes(compiled: CompiledDefinition) -> None:
    assert compiled.nodes["ship"].pivot
    assert compiled.nodes["ship"].start_delay_ms == 250
    assert compiled.nodes["check"].optional
    assert compiled.nodes["stop"].name == "TERMINATE"
    assert compiled.nodes["stop"].path == "tasks[1].forkTasks[2][1].defaultCase[0]"
    assert undo_of(compiled, "reserve").reference == "reserve__compensation"
    assert undo_of(compiled, "charge").reference == "give_back"
    assert undo_of(compiled, "charge").input.references == ("reserve",)
    # The task definition mentions a task that this workflow does not have.
    assert compiled.nodes["charge"].input.references == ()


def test_input_is_what_was_given_over_the_template_of_the_task_definition(compiled: CompiledDefinition) -> None:
    class Facts:
        has_blobs = False

        def goes_into(self, value: bytes, reference: Reference) -> None:
            raise AssertionError("nothing here is kept outside the log")

        def writes_out(self, value: bytes, part: Part) -> None:
            raise AssertionError("nothing here is kept outside the log")

        def workflow(self, field: str) -> bytes | None:
            return b'{"order":{"amount":1.50},"by":"me"}' if field == "input" else None

        def task(self, reference: str, field: str, wanted: str = "") -> bytes | None:
            return b'{"receipt":"r"}' if (reference, field) == ("step", "output") else None

        def task_id(self) -> bytes | None:
            return None

    assert resolve(compiled.nodes["charge"].input, Facts()) == (b'{"amount":1.50,"currency":"USD","by":"me","x":null}')
    assert resolve(undo_of(compiled, "charge").input, Facts()) == b'{"receipt":"r","where":null}'
    assert resolve(undo_of(compiled, "review").input, Facts()) == b'{"step":{"input":null,"output":{"receipt":"r"}}}'


def test_a_bundle_is_canonical() -> None:
    digest, document = make_bundle(SAGA, REGISTERED, {})
    assert make_bundle(SAGA.replace(b"\n", b"  \n"), dict(reversed(REGISTERED.items())), {}) == (digest, document)
    assert make_bundle(SAGA, {**REGISTERED, "charge": REGISTERED["charge"] + b" "}, {})[0] == digest
    assert make_bundle(SAGA, {}, {})[0] != digest
    assert len(digest) == 16
    assert b'"rate":1.10' in document
    assert list(json.loads(document)["tasks"]) == ["charge", "unreview"]
    # Stored by digest: the same definition must have the same one in every release.
    assert make_bundle(b'{"name":"w","tasks":[{"name":"a","taskReferenceName":"a"}]}', {}, {}) == (
        bytes.fromhex("2c0c2d56f07167b2e380aee6fec0ccfe"),
        b'{"definition":{"name":"w","tasks":[{"name":"a","taskReferenceName":"a"}]},"tasks":{}}',
    )


def test_a_bundle_of_a_broken_definition_is_not_made() -> None:
    with pytest.raises(DefinitionInvalid):
        make_bundle(b'{"name":"w"}', {}, {})
