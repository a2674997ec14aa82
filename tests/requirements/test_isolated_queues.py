"""One test per rule of queues that are not called like their task; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import system
from orchestrator.engine.commands import NotePollers, PollTasks
from orchestrator.engine.explain import explain
from orchestrator.engine.queues import queue_of
from tests.engine.driver import Driver, simple, workflow

GOLD = {"executionNameSpace": "eu", "isolationGroupId": "gold"}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("flow", simple("a")))
    return driver


def queues(driver: Driver) -> list[str]:
    return [queue_of(row)[2] for row in driver.state.ready.values()]


def leased(driver: Driver, session: str) -> list[str]:
    return [lease.workflow_id for _, lease in sorted(driver.state.leases.items()) if lease.session_id == session]


@pytest.mark.parametrize(
    ("fields", "queue"),
    [
        ({}, "a"),
        ({"executionNameSpace": "eu"}, "a@eu"),
        ({"isolationGroupId": "gold"}, "a-gold"),
        (GOLD, "a@eu-gold"),
    ],
)
def test_the_queue_is_called_as_the_definition_says(driver: Driver, fields: dict[str, Any], queue: str) -> None:
    """Queue `[domain:]taskType[@execNamespace][-isolationGroup]`."""
    driver.register_task(name="a", **fields)
    driver.start("flow")
    assert queues(driver) == [queue]


def test_only_who_serves_the_queue_gets_its_tasks(driver: Driver) -> None:
    """A worker of the task's name alone gets nothing; one that names the whole queue does, and is told which it is."""
    driver.register_task(name="a", **GOLD)
    driver.worker("plain", "a", slots=5)
    driver.start("flow")
    assert not driver.state.leases
    driver.worker("gold", "a@eu-gold", slots=5)
    assert leased(driver, "gold") == ["w"]
    assert [(lease.name, lease.queue) for lease in driver.state.leases.values()] == [("a", "a@eu-gold")]
    driver.give("a")
    assert driver.header().status.name == "COMPLETED"


def test_a_poller_names_the_queue_too(driver: Driver) -> None:
    """Polling is by the same names."""
    driver.register_task(name="a", **GOLD)
    driver.start("flow")
    assert not driver.ok(PollTasks("p", "default", "", "p", ("a",), 1)).tokens
    assert len(driver.ok(PollTasks("p", "default", "", "p", ("a@eu-gold",), 1)).tokens) == 1


def test_a_domain_is_served_by_queue(driver: Driver) -> None:
    """taskToDomain names the task; whether a domain has somebody is asked of the queue."""
    driver.register_task(name="a", **GOLD)
    driver.ok(NotePollers("default", "one", ("a",)))
    driver.ok(NotePollers("default", "two", ("a@eu-gold",)))
    driver.start("flow", task_to_domain=(("a", "one,two,three"),))
    assert [queue_of(row) for row in driver.state.ready.values()] == [("default", "two", "a@eu-gold")]


def test_limits_are_those_of_the_task_in_all_its_queues(driver: Driver) -> None:
    """concurrentExecLimit and rate limits count the task, whatever queue its attempts come from."""
    driver.register(workflow("inline", simple("a", taskDefinition={"name": "a", "isolationGroupId": "gold"})))
    driver.register_task(name="a", concurrentExecLimit=1)
    driver.worker("plain", "a", slots=5)
    driver.worker("gold", "a-gold", slots=5)
    driver.start("flow", "first")
    driver.start("inline", "second")
    driver.start("flow", "third")
    assert (leased(driver, "plain"), leased(driver, "gold")) == (["first"], [])
    driver.give("a", workflow_id="first")
    assert (leased(driver, "plain"), leased(driver, "gold")) == ([], ["second"])
    driver.give("a", workflow_id="second")
    assert (leased(driver, "plain"), leased(driver, "gold")) == (["third"], [])


def test_a_window_turns_for_the_queue(driver: Driver) -> None:
    """What waits for the window of its task goes on when it turns, in a queue of another name as well."""
    driver.register_task(name="a", rateLimitPerFrequency=1, rateLimitFrequencyInSeconds=10, **GOLD)
    driver.worker("gold", "a@eu-gold", slots=5)
    driver.start("flow", "first")
    driver.start("flow", "second")
    assert leased(driver, "gold") == ["first"]
    driver.wait(11_000)
    assert leased(driver, "gold") == ["first", "second"]


def test_two_tasks_may_share_a_queue(driver: Driver) -> None:
    """A queue is its name: `a-b` is that of the task `a-b`, and of `a` in the group `b`; each keeps its own limits."""
    driver.register(workflow("other", simple("a-b")))
    driver.register_task(name="a", isolationGroupId="b", concurrentExecLimit=1)
    driver.worker("s", "a-b", slots=5)
    for number, name in enumerate(("flow", "flow", "other")):
        driver.start(name, f"w{number}")
    assert leased(driver, "s") == ["w0"]
    driver.give("a", workflow_id="w0")
    assert leased(driver, "s") == ["w1", "w2"]


def test_a_compensation_waits_in_its_own_queue(driver: Driver) -> None:
    """The definition of the compensating task says where it waits."""
    driver.register(workflow("saga", simple("a", "undo"), simple("b", retryCount=0)))
    driver.register_task(name="undo", isolationGroupId="gold")
    driver.worker("s", "a", "b", slots=5)
    driver.start("saga")
    driver.give("a")
    driver.fail("b")
    assert queues(driver) == ["undo-gold"]
    driver.worker("gold", "undo-gold")
    driver.give(driver.undoing("a"))
    assert driver.header().status.name == "FAILED"


def test_a_dynamic_task_waits_where_its_definition_says(driver: Driver) -> None:
    """Tasks that are only known at run time are no exception."""
    dynamic = {"name": "d", "taskReferenceName": "d", "type": "DYNAMIC", "dynamicTaskNameParam": "which"}
    driver.register(workflow("dynamic", {**dynamic, "inputParameters": {"which": "a"}}))
    driver.register_task(name="a", **GOLD)
    driver.start("dynamic")
    assert queues(driver) == ["a@eu-gold"]


def test_an_execution_keeps_the_queue_it_began_with(driver: Driver) -> None:
    """The task definition is copied at the start: a later one changes nothing for what runs."""
    driver.register_task(name="a", isolationGroupId="gold")
    driver.worker("gold", "a-gold")
    driver.start("flow")
    driver.register_task(name="a", isolationGroupId="silver", retryDelaySeconds=0)
    driver.fail("a")
    driver.wait(60_000)
    assert [lease.queue for lease in driver.state.leases.values()] == ["a-gold"]


def test_nodes_take_system_work_of_any_group(driver: Driver) -> None:
    """An isolated HTTP task is called by the nodes like any other: no worker shares their sessions anyway."""
    given = {"uri": "http://x", "method": "GET"}
    driver.register(workflow("call", simple("h", type="HTTP", inputParameters=given)))
    driver.register_task(name="h", **GOLD)
    driver.start("call")
    assert [queue_of(row) for row in driver.state.ready.values()] == [(system.NAMESPACE, "", "system/http")]


def test_who_waits_is_told_the_queue(driver: Driver) -> None:
    """An execution that waits for a worker names the queue that nobody serves."""
    driver.register_task(name="a", **GOLD)
    driver.worker("plain", "a")
    driver.start("flow")
    assert [one.waits_for for one in explain(driver.state, driver.hot())] == [
        "a worker for 'a@eu-gold': none is connected"
    ]
