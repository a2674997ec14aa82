"""One test per rule of how a task's domain is chosen; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine.commands import CloseSession, NotePollers, PollTasks
from orchestrator.engine.model import Table
from tests.engine.driver import Driver, simple, workflow


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("flow", simple("a")))
    return driver


def domain_of(driver: Driver, workflow_id: str, **domains: str) -> str:
    """Where the execution's first task waits; nobody must take it at once."""
    mapped = tuple(("*" if name == "others" else name, value) for name, value in domains.items())
    driver.start("flow", workflow_id, task_to_domain=mapped)
    return next(row.domain for row in driver.state.ready.values() if row.workflow_id == workflow_id)


def session(driver: Driver, name: str, domain: str, *tasks: str) -> None:
    driver.worker(name, *(tasks or ("a",)), slots=0, domain=domain)


def note(driver: Driver, domain: str, *names: str) -> Any:
    return driver.ok(NotePollers("default", domain, names or ("a",)))


def test_the_first_domain_with_an_open_session_is_chosen(driver: Driver) -> None:
    """The first domain of the list that has a worker is chosen at scheduling."""
    session(driver, "s", "two")
    session(driver, "t", "three")
    assert domain_of(driver, "w", a="one,two, three") == "two"


def test_without_any_worker_it_is_the_last(driver: Driver) -> None:
    """Else the last in the list."""
    session(driver, "s", "two", "another task")
    assert domain_of(driver, "w", a="one,two,three") == "three"


def test_a_poll_of_the_last_ten_seconds_counts(driver: Driver) -> None:
    """A poller that was seen in the last 10 s serves its domain, whether or not it found anything."""
    note(driver, "one")
    driver.wait(10_000)
    assert domain_of(driver, "w", a="one,two") == "one"
    driver.wait(5_000)
    assert domain_of(driver, "v", a="one,two") == "two"


def test_a_poller_that_goes_on_polling_stays_known(driver: Driver) -> None:
    """Each poll counts from its own time: ten seconds later at least, fifteen at most."""
    for _ in range(8):
        note(driver, "one")
        driver.wait(4_999)
    assert domain_of(driver, "w", a="one,two") == "one"
    driver.wait(15_001)
    assert not driver.state.resident[Table.POLLER]
    assert not driver.state.timers
    assert domain_of(driver, "v", a="one,two") == "two"


def test_a_poll_that_finds_something_needs_no_note(driver: Driver) -> None:
    """The session of a poller lasts as long as it holds leases."""
    driver.start("flow", "held", task_to_domain=(("a", "one"),))
    assert driver.ok(PollTasks("p", "default", "one", "p", ("a",), 1)).tokens
    assert domain_of(driver, "w", a="one,two") == "one"


def test_a_domain_is_that_of_a_task(driver: Driver) -> None:
    """Who takes other tasks of the domain does not serve this one; nor does another namespace."""
    note(driver, "one", "b")
    driver.ok(NotePollers("other", "one", ("a",)))
    assert domain_of(driver, "w", a="one,two") == "two"


def test_the_star_is_for_all_tasks_that_are_not_named(driver: Driver) -> None:
    """"*" is a wildcard; a task's own entry wins."""
    note(driver, "one")
    assert domain_of(driver, "w", others="one,two") == "one"
    assert domain_of(driver, "v", others="one", a="three") == "three"


def test_no_domain_is_a_domain_of_the_list(driver: Driver) -> None:
    """NO_DOMAIN as the last: workers without a domain, if nobody serves those before it."""
    assert domain_of(driver, "w", a="one,NO_DOMAIN") == ""
    note(driver, "one")
    assert domain_of(driver, "v", a="one,NO_DOMAIN") == "one"


def test_pollers_without_a_domain_are_not_noted(driver: Driver) -> None:
    """They are nearly all, and no choice depends on them."""
    note(driver, "")
    assert not driver.state.resident[Table.POLLER]


def test_the_choice_stays_when_workers_go(driver: Driver) -> None:
    """It is made at scheduling: a retry chooses anew, what waits stays where it is."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=1)
    session(driver, "s", "one")
    assert domain_of(driver, "w", a="one,two") == "one"
    driver.ok(CloseSession("s"))
    assert [row.domain for row in driver.state.ready.values()] == ["one"]
    assert driver.ok(PollTasks("p", "default", "one", "p", ("a",), 1)).tokens
    driver.fail("a")
    driver.wait(1_000)
    assert [row.domain for row in driver.state.ready.values()] == ["two"]


def test_pollers_are_replicated(driver: Driver) -> None:
    """A new leader knows them: they are rows."""
    note(driver, "one")
    driver = driver.restart()
    assert domain_of(driver, "w", a="one,two") == "one"
