"""A workflow that has not ended always waits for something that exists, and says for what."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine.commands import OpenSession, PauseWorkflow, RecordHeartbeat
from orchestrator.engine.explain import explain
from orchestrator.engine.model import SessionKind
from orchestrator.engine.resident import SecretRow
from orchestrator.engine.secret_commands import PutSecret
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import begin, element, fork


@pytest.fixture
def driver() -> Driver:
    return Driver()


def said(driver: Driver, workflow_id: str = "w") -> dict[str, str]:
    """What is waited for, by task."""
    return {one.reference: one.waits_for for one in explain(driver.state, driver.hot(workflow_id))}


def loop(*body: dict[str, Any]) -> dict[str, Any]:
    return element("DO_WHILE", "l", loopCondition="$.x", loopOver=list(body))


def test_a_task_waits_for_a_worker(driver: Driver) -> None:
    begin(driver, *fork([simple("a")], [simple("b")]))
    assert said(driver)["a"] == "a worker for 'a': none is connected"
    driver.worker("s", "a", slots=1)
    driver.start("flow", "w2")
    assert said(driver)["a"] == "worker-s, which executes it"
    assert said(driver, "w2")["a"] == "a free slot: all workers for 'a' are busy"
    assert said(driver)["j"] == "2 of the tasks that it joins: a, b"


def test_a_task_waits_for_its_next_attempt(driver: Driver) -> None:
    driver.worker("s", "a")
    begin(driver, simple("a", taskDefinition={"name": "a", "retryCount": 1, "retryDelaySeconds": 5}))
    driver.fail("a")
    [one] = explain(driver.state, driver.hot())
    assert "its next attempt" in one.waits_for
    assert one.until_ms == driver.now_ms + 5000


def test_a_secret_that_is_missing_or_that_nobody_can_read_is_named(driver: Driver) -> None:
    inputs = {"k": "${workflow.secrets.BANK}", "l": "${workflow.input.x}"}
    begin(driver, simple("a", inputParameters=inputs))
    assert said(driver)["a"] == (
        "a worker for 'a': none is connected; then for the secret 'BANK', which is not there: it will fail"
    )
    driver.ok(PutSecret("default", "BANK", 1, "k1", b"sealed"))
    assert said(driver)["a"] == "a worker for 'a': none is connected"

    def closed(row: SecretRow) -> str:
        return f"there is no key {row.key_id}"

    [one] = explain(driver.state, driver.hot(), closed)
    assert one.waits_for == "a worker for 'a': none is connected; then for the secret 'BANK': there is no key k1"
    driver.worker("s", "a")
    [one] = explain(driver.state, driver.hot(), closed)
    assert one.waits_for == "a node that can read the secret 'BANK': there is no key k1"
    assert said(driver)["a"] == "worker-s, which executes it"


def test_a_secret_among_the_values_for_workers_is_named_if_it_can_not_be_read(driver: Driver) -> None:
    driver.register_task(name="a", runtimeMetadata=["BANK", "URL"])
    driver.ok(PutSecret("default", "BANK", 1, "k1", b"sealed"))
    driver.worker("s", "a")
    begin(driver, simple("a"))
    [one] = explain(driver.state, driver.hot(), lambda row: "no key")
    assert one.waits_for == "a node that can read the secret 'BANK': no key"


def test_limits_are_named(driver: Driver) -> None:
    driver.register_task(name="a", concurrentExecLimit=1)
    driver.worker("s", "a", slots=5)
    begin(driver, simple("a"))
    driver.start("flow", "w2")
    assert said(driver, "w2")["a"] == "room under the limits of 'a': 1 of 1 at once"
    driver.register_task(name="a", concurrentExecLimit=5, rateLimitPerFrequency=2, rateLimitFrequencyInSeconds=60)
    for workflow_id in ("w3", "w4"):
        driver.start("flow", workflow_id)
    # The first one was handed out before anybody counted.
    assert said(driver, "w4")["a"] == "room under the limits of 'a': 3 of 5 at once, 2 of 2 within 60 s"


def test_waits_and_people_are_named(driver: Driver) -> None:
    waits = [element("WAIT", "w1", {"duration": "5 seconds", "signal": "go"})]
    begin(driver, *fork(waits, [element("HUMAN", "h", taskDefinition={"name": "h", "timeoutSeconds": 60})]))
    assert said(driver)["w1"] == "its time, or the signal 'go'"
    assert said(driver)["h"] == "the signal 'h', or an update of the task"
    until = {one.reference: one.until_ms for one in explain(driver.state, driver.hot())}
    assert until == {"w1": driver.now_ms + 5_000, "h": driver.now_ms + 60_000, "j": 0}


def test_a_condition_waits_for_a_node(driver: Driver) -> None:
    driver.worker("s", "a")
    begin(driver, loop(simple("a")))
    assert list(said(driver)) == ["a__1"]
    driver.give("a__1")
    nobody = "a node for system/script: none takes any, being drained or without slots for it"
    assert said(driver)["l"] == nobody
    driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", ("system/script",), 1, 10_000))
    assert said(driver)["l"] == "node, which executes it"
    driver.start("flow", "w2")
    driver.give("a__1", workflow_id="w2")
    assert said(driver, "w2")["l"] == "a node with a free slot for system/script"


def test_what_a_worker_has_is_since_it_has_it(driver: Driver) -> None:
    begin(driver, simple("a"))
    driver.wait(1_000)
    driver.worker("s", "a")
    leased_ms = driver.now_ms
    driver.wait(5_000)
    attempt = driver.latest("a")
    driver.ok(RecordHeartbeat("default", "w", attempt.task_id, attempt.fencing_token, b'{"done":1}'))
    [one] = explain(driver.state, driver.hot())
    assert (one.waits_for, one.since_ms) == ("worker-s, which executes it", leased_ms)


def test_a_place_under_the_rate_limit_of_the_workflow_is_named(driver: Driver) -> None:
    limited = workflow("flow", simple("a"), rateLimitConfig={"rateLimitKey": "${workflow.input.shop}",
                                                             "concurrentExecLimit": 1})
    driver.register(limited)
    for workflow_id in ("w1", "w2"):
        driver.start("flow", workflow_id, b'{"shop":"s1"}')
    assert said(driver, "w2") == {"": "a place under the rate limit key 's1': 1 of 1 run"}


def test_the_time_that_is_left_is_told(driver: Driver) -> None:
    driver.worker("s", "a")
    begin(driver, simple("a", taskDefinition={"name": "a", "timeoutSeconds": 30, "timeoutPolicy": "RETRY",
                                              "responseTimeoutSeconds": 5}))
    [one] = explain(driver.state, driver.hot())
    assert one.until_ms == driver.now_ms + 30_000


def test_a_parent_names_its_child(driver: Driver) -> None:
    driver.register(workflow("child", simple("a")))
    begin(driver, element("SUB_WORKFLOW", "s1", subWorkflowParam={"name": "child"}))
    [one] = explain(driver.state, driver.hot())
    assert one.child == driver.latest("s1").child
    assert said(driver, one.child) == {"a": "a worker for 'a': none is connected"}


def test_a_paused_and_an_ended_workflow(driver: Driver) -> None:
    driver.worker("s", "a")
    begin(driver, simple("a"))
    driver.ok(PauseWorkflow("default", "w"))
    assert said(driver) == {"": "an operator: it is paused, resume it"}
    driver = Driver()
    begin(driver, element("NOOP", "n"))
    assert said(driver) == {}


def test_a_stuck_compensation_names_the_operator(driver: Driver) -> None:
    driver.worker("s", "a", "b", "undo", slots=5)
    undone = {"name": "undo", "type": "SIMPLE", "retryCount": 0}
    begin(driver, {**simple("a"), "compensateWith": undone}, simple("b", retryCount=0))
    driver.give("a")
    driver.fail("b")
    driver.fail(driver.undoing("a"))
    assert said(driver)["a"] == "an operator: its compensation of a is stuck; retry, skip or abandon it"
