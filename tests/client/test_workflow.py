"""Workflows as data: the code of the README, and its JSON to the letter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator_client import CompensationContext, Ref, Retry, TaskContext, Workflow, secret, task
from orchestrator_client.definitions import sort
from orchestrator_client.errors import InvalidRequest

GOLDEN = Path(__file__).parent / "golden"


@dataclass
class Order:
    id: str
    sku: str
    quantity: int
    amount_cents: int


@dataclass
class Charge:
    receipt: str


@dataclass
class Shipment:
    tracking: str


@task
async def reserve(order: Order) -> None: ...


@reserve.compensation
async def release(order: Order, ctx: CompensationContext) -> None: ...


@task(timeout_ms=10_000, retry=Retry.exponential(first_ms=200, max_ms=5_000, attempts=5))
async def charge(order: Order, ctx: TaskContext) -> Charge:
    return Charge("r")


@charge.compensation
async def refund(order: Order, done: Charge | None, ctx: CompensationContext) -> None: ...


@task
def ship(order: Order, receipt: str, express: bool = False) -> Shipment:
    return Shipment("t")


@task
def count(order: Order) -> int:
    return 1


def order_saga() -> Workflow:
    order_saga = Workflow("order", version=1, input=Order)
    order_saga.step(reserve, order_saga.input)
    paid = order_saga.step(charge, order_saga.input)
    sent = order_saga.step(ship, order_saga.input, paid.receipt, pivot=True)
    order_saga.returns(tracking=sent.tracking)
    return order_saga


def everything() -> Workflow:
    workflow = Workflow(
        "everything",
        version=2,
        input=Order,
        timeout_ms=90_500,
        compensation_order="PARALLEL",
        compensation_grace_ms=5_000,
        variables={"tries": 0},
        description="each kind of step",
    )
    order = workflow.input
    number = workflow.step(count, order, optional=True)
    with workflow.switch(order.sku) as sku:
        with sku.case("book"):
            workflow.step(reserve, order)
        with sku.default():
            workflow.step(reserve, order, ref="reserve_other")
    with workflow.fork() as fork:
        with fork.branch():
            workflow.step(charge, order, start_delay_ms=250)
        with fork.branch():
            workflow.wait(duration_ms=1_500)
            workflow.wait(until=datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    approval = workflow.wait(signal="approved", type=Charge)
    workflow.set_variables(tries=number, note=f"order {order.id} of {workflow.workflow_id}")
    workflow.step(ship, order=order, receipt=approval.receipt, express=True)
    workflow.terminate("TERMINATED", f"enough of {workflow.variables.note}", output={"n": number}, compensate=True)
    return workflow


@pytest.mark.parametrize("make", [order_saga, everything])
def test_the_definition_is_conductors_json(make: Callable[[], Workflow]) -> None:
    workflow = make()
    golden = GOLDEN / f"{workflow.name}.json"
    assert json.loads(workflow.to_json()) == json.loads(golden.read_text(encoding="utf-8"))


def test_task_definitions_say_everything_about_retries() -> None:
    assert order_saga().task_definitions()[1:4] == [
        {
            "name": "release",
            "retryCount": 19,
            "retryLogic": "EXPONENTIAL_BACKOFF",
            "retryDelaySeconds": 1,
            "maxRetryDelaySeconds": 60,
            "timeoutPolicy": "RETRY",
            "timeoutSeconds": 0,
            "responseTimeoutSeconds": 0,
        },
        {
            "name": "charge",
            "retryCount": 4,
            "retryLogic": "EXPONENTIAL_BACKOFF",
            "retryDelaySeconds": 0.2,
            "maxRetryDelaySeconds": 5,
            "timeoutPolicy": "RETRY",
            "timeoutSeconds": 10,
            "responseTimeoutSeconds": 0,
        },
        {
            "name": "refund",
            "retryCount": 19,
            "retryLogic": "EXPONENTIAL_BACKOFF",
            "retryDelaySeconds": 1,
            "maxRetryDelaySeconds": 60,
            "timeoutPolicy": "RETRY",
            "timeoutSeconds": 0,
            "responseTimeoutSeconds": 0,
        },
    ]


@pytest.mark.parametrize(
    ("retry", "fields"),
    [
        (Retry.none(), {"retryCount": 0, "retryLogic": "FIXED", "retryDelaySeconds": 0}),
        (Retry.fixed(delay_ms=50, attempts=3), {"retryCount": 2, "retryLogic": "FIXED", "retryDelaySeconds": 0.05}),
        (
            Retry.linear(first_ms=1_000, max_ms=3_000, attempts=4, jitter_ms=10),
            {
                "retryCount": 3,
                "retryLogic": "LINEAR_BACKOFF",
                "retryDelaySeconds": 1,
                "backoffScaleFactor": 1,
                "maxRetryDelaySeconds": 3,
                "backoffJitterMs": 10,
            },
        ),
    ],
)
def test_retry_policies(retry: Retry, fields: dict[str, Any]) -> None:
    assert retry.to_dict() == fields


def test_the_definition_is_data_of_its_own() -> None:
    workflow = order_saga()
    workflow.to_dict()["tasks"].clear()
    assert len(workflow.to_dict()["tasks"]) == 3
    assert workflow.digest() == order_saga().digest()


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda w, paid: bool(paid), "has no value while the workflow is being defined.*use workflow.switch"),
        (lambda w, paid: paid.receipt == "x", "can't compare it"),
        (lambda w, paid: list(paid), "can't loop over it"),
        (lambda w, paid: f"{paid.receipt:>10}", "can't be formatted"),
        (lambda w, paid: w.step(ship, w.input), "the step ship needs receipt"),
        (lambda w, paid: w.step(ship, w.input, paid), "the parameter receipt wants str, and .* is of type Charge"),
        (lambda w, paid: w.step(ship, w.input, 7), "wants str, and 7 is of type int"),
        (lambda w, paid: w.step(ship, w.input, "r", colour=1), "ship has no parameter 'colour'"),
        (lambda w, paid: w.step(ship, w.input, "r", order=w.input), "is given order twice"),
        (lambda w, paid: w.step(refund, w.input), "refund undoes charge"),
        (lambda w, paid: w.step(len, w.input), "a step executes a @task"),
        (lambda w, paid: w.wait(event="paid", correlation_key=["k"]), "a correlation_key is a text, a number or a"),
        (lambda w, paid: w.returns(paid.receipt), "returns\\(\\) takes named members"),
    ],
)
def test_misuse_is_explained(misuse: Callable[[Workflow, Ref], Any], message: str) -> None:
    workflow = Workflow("order", input=Order)
    paid = workflow.step(charge, workflow.input)
    with pytest.raises(TypeError, match=message):
        misuse(workflow, paid)


def test_parts_that_the_type_does_not_have_are_refused() -> None:
    workflow = order_saga()
    with pytest.raises(AttributeError, match="type Order, which has no 'amount'; it has id, sku"):
        _ = workflow.input.amount
    with pytest.raises(AttributeError, match="type str, which has no parts"):
        _ = workflow.input.id.length
    assert str(Ref("workflow.input", dict[str, list[int]])["odd key"][0]) == "${workflow.input['odd key'][0]}"


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda w: w.step(count, w.input, ref="step"), "'step' is a reserved reference name"),
        (lambda w: [w.step(count, w.input, ref="a") for _ in range(2)], "'a' is used twice"),
        (lambda w: w.wait(), "exactly one of"),
        (lambda w: w.wait(signal="s", event="paid", correlation_key="k"), "exactly one of"),
        (lambda w: w.wait(event="paid"), "a wait for an event, and no other, has a correlation_key"),
        (lambda w: w.wait(signal="s", correlation_key="k"), "a wait for an event, and no other"),
        (lambda w: w.wait(event="", correlation_key="k"), "an event is not empty"),
        (lambda w: w.wait(event="paid", correlation_key=""), "a correlation_key is not empty"),
        (lambda w: w.to_json(), "has no steps"),
    ],
)
def test_values_that_can_not_be_are_refused(misuse: Callable[[Workflow], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        misuse(Workflow("order", input=Order))


def test_an_event_is_waited_for_by_its_key() -> None:
    workflow = Workflow("order", input=Order)
    paid = workflow.wait(event="paid", correlation_key=f"order {workflow.input.id}", type=Charge)
    workflow.wait(event="redis:shipped", correlation_key=17)
    workflow.step(ship, workflow.input, paid.receipt)
    first, second, step = workflow.to_dict()["tasks"]
    assert (first["type"], first["inputParameters"]) == (
        "WAIT", {"event": "paid", "correlationKey": "order ${workflow.input.id}"},
    )
    assert second["inputParameters"] == {"event": "redis:shipped", "correlationKey": "17"}
    assert step["inputParameters"]["receipt"] == "${wait.output.receipt}"


def test_steps_of_one_task_are_numbered() -> None:
    workflow = Workflow("order", input=Order)
    for _ in range(3):
        workflow.step(reserve, workflow.input)
    assert [step["taskReferenceName"] for step in workflow.to_dict()["tasks"]] == ["reserve", "reserve_2", "reserve_3"]


def test_a_dataclass_can_be_returned_whole() -> None:
    workflow = Workflow("order", input=Order)
    workflow.returns(workflow.step(charge, workflow.input))
    assert workflow.to_dict()["outputParameters"] == {"receipt": "${charge.output.receipt}"}
    assert workflow.output_type is Charge


def test_definitions_are_read_from_files(tmp_path: Path) -> None:
    as_json = tmp_path / "order.json"
    as_json.write_text(json.dumps([order_saga().to_dict(), charge.definition()]), encoding="utf-8")
    found = sort([as_json])
    assert found.workflows == [order_saga().to_dict()]
    assert found.tasks == {"charge": charge.definition()}
    as_yaml = tmp_path / "order.yaml"
    as_yaml.write_text("name: a\ntasks: []\n---\nname: b\n", encoding="utf-8")
    assert sort([str(as_yaml)]).workflows == [{"name": "a", "tasks": []}]
    as_json.write_text("{", encoding="utf-8")
    with pytest.raises(InvalidRequest, match=f"{re.escape(str(as_json))} is not JSON"):
        sort([as_json])


def test_inline_task_definitions() -> None:
    first, *_ = order_saga().to_dict(inline_tasks=True)["tasks"]
    assert first["taskDefinition"]["retryCount"] == 4
    assert first["compensateWith"]["taskDefinition"]["retryCount"] == 19


def test_how_many_run_at_once_and_what_is_masked_are_conductors_too() -> None:
    limited = Workflow("w", concurrent_limit=2, concurrent_limit_key="${workflow.input.region}", masked_fields=["card"])
    limited.step(reserve, {"order": {}})
    document = limited.to_dict()
    assert document["rateLimitConfig"] == {"rateLimitKey": "${workflow.input.region}", "concurrentExecLimit": 2}
    assert document["maskedFields"] == ["card"]


def test_what_is_told_of_it_is_a_part_of_the_definition() -> None:
    flow = Workflow("w", status_event="ends", input=Order)
    told = {"paid": {"order": flow.input.id}, "seen": {}}
    paid = flow.step(charge, flow.input, on_change={"onSuccess,onFailed": told})
    flow.step(ship, flow.input, paid.receipt, on_change={"onStart": {"leaves": {"with": paid.receipt}}})
    document = flow.to_dict()
    assert document["workflowStatusListenerEnabled"] is True
    assert document["workflowStatusListenerSink"] == "conductor:ends"
    assert [step["onStateChange"] for step in document["tasks"]] == [
        {
            "onSuccess,onFailed": [
                {"type": "paid", "payload": {"order": "${workflow.input.id}"}},
                {"type": "seen", "payload": {}},
            ]
        },
        {"onStart": [{"type": "leaves", "payload": {"with": "${charge.output.receipt}"}}]},
    ]


def test_what_is_told_to_others_goes_to_streams() -> None:
    flow = Workflow("w", status_sink="redis:ends", task_status_sink="redis:tasks", input=Order)
    flow.step(charge, flow.input, on_change={"onSuccess": {"paid": {}}}, on_change_sink="redis:money")
    flow.event(f"redis:{flow.input.id}", order=flow.input.id, kind="new")
    flow.event("conductor:seen")
    document = flow.to_dict()
    assert document["workflowStatusListenerSink"] == "redis:ends"
    assert document["taskStatusListenerSink"] == "redis:tasks"
    step, first, second = document["tasks"]
    assert step["onStateChange"] == {"onSuccess": [{"type": "paid", "payload": {}, "sink": "redis:money"}]}
    assert (first["taskReferenceName"], first["type"]) == ("event", "EVENT")
    assert first["sink"] == "redis:${workflow.input.id}"
    assert first["inputParameters"] == {"order": "${workflow.input.id}", "kind": "new"}
    assert (second["taskReferenceName"], second["sink"]) == ("event_2", "conductor:seen")
    with pytest.raises(ValueError, match="status_event and status_sink"):
        Workflow("w", status_event="ends", status_sink="redis:ends")
    with pytest.raises(ValueError, match="needs a sink"):
        flow.event("")


def test_a_secret_is_named_in_what_a_step_takes() -> None:
    @task
    async def pay(auth: str, port: int) -> str:
        return auth

    built = Workflow("paying")
    built.step(pay, f"Bearer {secret('BANK-1')}", secret("LOGIN").ports[0])
    assert json.loads(built.to_json())["tasks"][0]["inputParameters"] == {
        "auth": "Bearer ${workflow.secrets.BANK-1}", "port": "${workflow.secrets.LOGIN.ports[0]}",
    }
    for name in ("", "1a", "a.b", "a b", "x" * 101):
        with pytest.raises(ValueError, match="the name of a secret"):
            secret(name)
