"""System work: attempts of all namespaces that the nodes' own sessions execute, leased like any worker's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import pending, queries, system
from orchestrator.engine.choices import IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    ExpireSession,
    OpenSession,
    PollTasks,
    RegisterTasks,
    RegisterWorkflows,
    ReleaseTask,
    StartWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.effects import Cancel, Deliver, TaskQueued
from orchestrator.engine.model import SessionKind, TaskStatus
from orchestrator.engine.results import Rejected
from tests.engine.driver import Driver, simple, workflow

QUEUE = "system/http"


CALL = simple("call", type="HTTP", inputParameters={"uri": "http://there"})


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("calls", CALL))
    return driver


def node(driver: Driver, name: str, slots: int = 1) -> None:
    kind, namespace = SessionKind.STREAM, system.NAMESPACE
    driver.ok(OpenSession(name, kind, namespace, "", name, (QUEUE, "system/jq"), slots, 10_000))


def start(driver: Driver, workflow_id: str, namespace: str = "default", **fields: Any) -> None:
    driver.ok(StartWorkflow(namespace, "calls", 0, workflow_id, IfExists.FAIL, b"{}", **fields))


def leased_to(driver: Driver) -> list[tuple[str, str]]:
    """(workflow id, session) of each lease, in the order in which they were given."""
    return [(lease.workflow_id, lease.session_id) for _, lease in sorted(driver.state.leases.items())]


def test_a_node_is_given_the_work_of_every_namespace(driver: Driver) -> None:
    driver.ok(RegisterWorkflows("shop", (msgspec.json.encode(workflow("calls", CALL)),), True))
    node(driver, "n1", slots=2)
    start(driver, "w")
    start(driver, "v", "shop")
    assert [(lease.namespace, lease.name) for lease in driver.state.leases.values()] == [
        ("default", QUEUE), ("shop", QUEUE)
    ]
    assert driver.give("call", b'{"status":200}')
    assert driver.header().output == b'{"status":200}'


def test_work_that_waits_is_taken_by_whoever_comes(driver: Driver) -> None:
    """Of two namespaces, the one with the higher priority first."""
    driver.ok(RegisterWorkflows("shop", (msgspec.json.encode(workflow("calls", CALL)),), True))
    start(driver, "w", priority=1)
    start(driver, "v", "shop", priority=2)
    assert driver.effects.count(TaskQueued(2, system.NAMESPACE, "", QUEUE, 0)) == 1
    node(driver, "n1")
    assert leased_to(driver) == [("v", "n1")]


def test_the_work_spreads_over_the_nodes(driver: Driver) -> None:
    for name in ("n1", "n2", "n3"):
        node(driver, name, slots=2)
    for number in range(6):
        start(driver, f"w{number}")
    assert sorted(session for _, session in leased_to(driver)) == ["n1", "n1", "n2", "n2", "n3", "n3"]


def test_it_has_no_domain(driver: Driver) -> None:
    node(driver, "n1")
    start(driver, "w", task_to_domain=(("*", "eu"),))
    assert leased_to(driver) == [("w", "n1")]


def test_no_worker_gets_it(driver: Driver) -> None:
    """Not under the name of the queue, nor under that of the task."""
    driver.worker("s", QUEUE, "call", slots=5)
    start(driver, "w")
    driver.ok(PollTasks("poller", "default", "", "p", (QUEUE, "call"), 5))
    assert leased_to(driver) == []


def test_no_node_gets_what_is_a_workers(driver: Driver) -> None:
    driver.register(workflow("mixed", CALL, simple("pay")))
    node(driver, "n1", slots=5)
    driver.start("mixed")
    driver.give("call")
    assert driver.latest("pay").status is TaskStatus.SCHEDULED


def test_a_cancelled_attempt_keeps_its_slot_until_the_node_has_stopped_it(driver: Driver) -> None:
    node(driver, "n1")
    start(driver, "w")
    start(driver, "v")
    token = driver.latest("call").fencing_token
    driver.ok(TerminateWorkflow("default", "w", "enough", TerminateCompensation.SKIP))
    assert [(effect.token, effect.fenced) for effect in driver.effects if isinstance(effect, Cancel)] == [(token, True)]
    assert driver.latest("call", "v").status is TaskStatus.SCHEDULED
    driver.ok(ReleaseTask("n1", token))
    assert leased_to(driver) == [("v", "n1")]


@pytest.mark.parametrize("end", [CloseSession("n1"), ExpireSession("n1")])
def test_what_a_node_takes_with_it_is_handed_to_another(driver: Driver, end: Any) -> None:
    """Which uses up none of its retries."""
    driver.register_task(name="call", retryCount=1)
    node(driver, "n1")
    start(driver, "w")
    node(driver, "n2")
    lost = driver.latest("call")
    driver.ok(end)
    again = driver.latest("call")
    assert leased_to(driver) == [("w", "n2")]
    assert (again.retry_count, again.idempotency_key) == (0, lost.idempotency_key)
    assert again.fencing_token > lost.fencing_token
    assert driver.hot().tasks[lost.sequence].error_code == "WORKER_LOST"


def test_a_node_may_give_back_what_it_has_begun(driver: Driver) -> None:
    driver.register_task(name="call", retryCount=1)
    node(driver, "n1")
    start(driver, "w")
    node(driver, "n2")
    driver.ok(ReleaseTask("n1", driver.latest("call").fencing_token))
    # The one that has waited longer for a task is next.
    assert leased_to(driver) == [("w", "n2")]


def test_who_leads_next_knows_every_lease_and_every_queue(driver: Driver) -> None:
    """A running call is not handed out again because the leader has died."""
    node(driver, "n1")
    start(driver, "w")
    start(driver, "v")
    token = driver.latest("call").fencing_token
    other = driver.restart()
    assert pending.effects_owed(other.state) == [
        Deliver("n1", token, "default", "w", driver.latest("call").sequence),
        TaskQueued(2, system.NAMESPACE, "", QUEUE, 0),
    ]
    node(other, "n2")
    assert leased_to(other) == [("w", "n1"), ("v", "n2")]
    assert other.rows()


def test_a_node_is_told_the_kind_of_work_and_a_worker_of_none(driver: Driver) -> None:
    driver.register(workflow("mixed", CALL, simple("pay")))
    node(driver, "n1")
    driver.worker("s", "pay")
    driver.start("mixed")
    told = queries.assignment_view(driver.state, driver.hot(), driver.latest("call").fencing_token)
    assert told is not None and (told.kind, told.parameters, told.name) == (QUEUE, b"{}", "call")
    driver.give("call")
    told = queries.assignment_view(driver.state, driver.hot(), driver.latest("pay").fencing_token)
    assert told is not None and (told.kind, told.parameters) == ("", b"")


@pytest.mark.parametrize("document", [
    workflow("w", simple("a") | {"name": QUEUE}),
    workflow("w", simple("a", undo=QUEUE)),
    workflow("w", simple("a", taskDefinition={"name": QUEUE})),
])
def test_a_definition_names_no_queue_of_the_system(driver: Driver, document: dict[str, Any]) -> None:
    refused = driver.do(RegisterWorkflows("default", (msgspec.json.encode(document),), True))
    assert isinstance(refused, Rejected) and refused.reason == "DEFINITION_INVALID"
    assert "the cluster's own" in refused.message


def test_a_task_definition_has_no_name_of_a_queue_of_the_system(driver: Driver) -> None:
    refused = driver.do(RegisterTasks("default", (b'{"name":"system/anything"}',)))
    assert isinstance(refused, Rejected) and refused.reason == "DEFINITION_INVALID"
