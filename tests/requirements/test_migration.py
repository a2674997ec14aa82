"""What runs is moved to another version of its definition only where everything it has begun stands in its place."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import queries
from orchestrator.engine.commands import MigrateWorkflow
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.results import Done, Rejected
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import begin, element, fork, switch

ONE = ("default", "w")


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", *"abcdex", "undo_a", slots=50)
    return driver


def move(driver: Driver, *tasks: dict[str, Any]) -> Any:
    """To version 2, which has these tasks; what the dry run says is what happens."""
    driver.register({**workflow("flow", *tasks), "version": 2})
    foreseen = queries.obstacles_to(driver.state, driver.hot(), 2)
    result = driver.do(MigrateWorkflow(*ONE, 2))
    if foreseen:
        assert isinstance(result, Rejected)
        assert result.reason == "MIGRATION_UNSAFE"
        assert driver.header().version == 1
        return foreseen
    assert result == Done()
    assert driver.header().version == 2
    return []


def test_what_comes_later_may_be_another(driver: Driver) -> None:
    begin(driver, simple("a"), simple("b"))
    assert not move(driver, simple("a"), simple("x"), simple("c"))
    for reference in ("a", "x", "c"):
        driver.give(reference)
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ([simple("b"), simple("c")], "a has begun, and is not in the new definition"),
        ([simple("x"), simple("a")], "x stands before a, which has begun: it would never be executed"),
        ([element("NOOP", "a")], "a has begun as a SIMPLE, and is a NOOP there"),
        ([switch("w1", "x", {"x": [simple("a")]})], "a has begun, and stands in another place there"),
        ([{**simple("a"), "name": "b"}], "a is under way as 'a', and is 'b' there"),
    ],
)
def test_what_has_begun_stays_where_it_is(driver: Driver, tasks: list[dict[str, Any]], why: str) -> None:
    begin(driver, simple("a"), simple("b"))
    assert why in move(driver, *tasks)


def test_branches_that_have_begun_stay(driver: Driver) -> None:
    begin(driver, *fork([simple("a")], [simple("b")]), simple("c"))
    assert "the branches of f have begun, and are others there" in move(
        driver, *fork([simple("a")], [simple("b")], [simple("x")]), simple("c")
    )


def test_a_branch_may_go_on_otherwise(driver: Driver) -> None:
    begin(driver, *fork([simple("a"), simple("c")], [simple("b")], on=["a", "b"]))
    assert not move(driver, *fork([simple("a"), simple("x")], [simple("b")], on=["a", "b"]))
    for reference in ("a", "b", "x"):
        driver.give(reference)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_join_waits_for_the_same(driver: Driver) -> None:
    begin(driver, *fork([simple("a"), simple("c")], [simple("b")]))
    assert "j waits for other tasks than it would there" in move(
        driver, *fork([simple("a"), simple("c"), simple("d")], [simple("b")])
    )


def test_what_is_owed_stays_owed(driver: Driver) -> None:
    begin(driver, simple("a", "undo_a"), simple("b"))
    driver.give("a")
    assert "a has completed and would have no compensation any more" in move(driver, simple("a"), simple("b"))


def test_what_has_ended_stays_what_it_was(driver: Driver) -> None:
    begin(driver, simple("a"))
    driver.give("a")
    assert move(driver, simple("a"), simple("b")) == ["the workflow is COMPLETED"]


def test_the_bundle_of_nobody_goes(driver: Driver) -> None:
    """The old definition is forgotten with the last execution that has it."""
    begin(driver, simple("a"), simple("b"))
    before = driver.header().bundle
    assert not move(driver, simple("a"), simple("c"))
    assert (before,) not in driver.state.resident[Table.BUNDLE]
