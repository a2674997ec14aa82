"""One test per rule of maskedFields; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import RecordHeartbeat, RestartWorkflow, TerminateWorkflow
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.parse import validate_workflow
from orchestrator.engine.masking import masked
from orchestrator.rpc import views
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import text
from tests.rpc.bench import nothing

CARD = b'{"card":{"number":"4111","exp":"12/30"},"amount":10.50}'


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo_a", slots=10)
    return driver


def start(driver: Driver, *fields: str, **more: Any) -> None:
    given = {"paid_with": "${workflow.input.card}", "n": "${workflow.input.amount}"}
    first = simple("a", "undo_a", inputParameters=given)
    second = simple("b", inputParameters={"token": "${a.output.token}", "list": ["${a.output}"]}, retryCount=0)
    driver.register(workflow("flow", first, second, maskedFields=list(fields), **more))
    driver.start("flow", given=CARD)


def shown(driver: Driver) -> Any:
    return views.workflow(driver.state, driver.hot(), include_tasks=True)


def decoded(payload: Any) -> Any:
    return msgspec.json.decode(payload.inline)


def test_readers_see_stars_in_inputs_outputs_and_variables(driver: Driver) -> None:
    """A masked path is *** in the workflow's input, output and variables, and in its tasks' inputs and outputs."""
    start(
        driver, "card", "token", "pin", variables={"pin": 1234, "open": 1},
        outputParameters={"token": "${a.output.token}", "sum": "${workflow.input.amount}"},
    )
    driver.give("a", b'{"token":"secret","ok":true}')
    driver.give("b", b'{"deep":{"token":["x"]}}')
    message = shown(driver)
    assert message.input.inline == b'{"card":"***","amount":10.50}'
    assert decoded(message.output) == {"token": "***", "sum": 10.5}
    assert decoded(message.variables) == {"pin": "***", "open": 1}
    a, b = message.tasks
    assert decoded(a.output) == {"token": "***", "ok": True}
    assert decoded(b.input) == {"token": "***", "list": [{"token": "***", "ok": True}]}
    assert decoded(b.output) == {"deep": {"token": "***"}}


def test_the_worker_gets_what_it_needs(driver: Driver) -> None:
    """The task that needs a value gets it, by its input and by expressions; a compensation, too."""
    start(driver, "card", "paid_with", "token")
    attempt = driver.latest("a")
    given = views.assignment(driver.state, driver.hot(), attempt.fencing_token, nothing(driver))
    assert given is not None
    assert decoded(given.input)["paid_with"] == {"number": "4111", "exp": "12/30"}
    driver.give("a", b'{"token":"secret"}')
    given = views.assignment(driver.state, driver.hot(), driver.latest("b").fencing_token, nothing(driver))
    assert given is not None
    assert decoded(given.input)["token"] == "secret"
    driver.fail("b")
    given = views.assignment(driver.state, driver.hot(), driver.undoing("a").fencing_token, nothing(driver))
    assert given is not None
    assert decoded(given.compensation.step_output) == {"token": "secret"}


def test_what_is_stored_is_not_masked(driver: Driver) -> None:
    """Masking is a matter of reading: expressions go on with the values."""
    start(driver, "token", outputParameters={"copy": "${a.output.token}"})
    driver.give("a", b'{"token":"secret"}')
    driver.give("b")
    assert text(driver, "a") == {"token": "secret"}
    assert decoded(shown(driver).output) == {"copy": "secret"}


def test_a_dotted_path_masks_what_is_at_its_end(driver: Driver) -> None:
    """Dotted paths: the value at the end of the path, and nothing beside it."""
    start(driver, "card.number", "paid_with.exp")
    message = shown(driver)
    assert decoded(message.input) == {"card": {"number": "***", "exp": "12/30"}, "amount": 10.5}
    assert decoded(message.tasks[0].input) == {"paid_with": {"number": "4111", "exp": "***"}, "n": 10.5}


def test_the_details_of_heartbeats_are_masked(driver: Driver) -> None:
    """They are the task's own, like its output."""
    start(driver, "token")
    attempt = driver.latest("a")
    driver.ok(RecordHeartbeat("default", "w", attempt.task_id, attempt.fencing_token, b'{"token":"x","at":1}'))
    assert decoded(shown(driver).tasks[0].heartbeat_details) == {"token": "***", "at": 1}


def test_an_execution_keeps_the_masks_it_began_with(driver: Driver) -> None:
    """They are of its definition as it was at its start."""
    start(driver, "card")
    driver.register({**workflow("flow", simple("a")), "maskedFields": []})
    assert decoded(shown(driver).input)["card"] == "***"


def test_a_restart_with_another_definition_has_its_masks(driver: Driver) -> None:
    """Restarted with the latest definition, it has the masks of that."""
    start(driver, "amount")
    driver.ok(TerminateWorkflow("default", "w", "", TerminateCompensation.SKIP))
    driver.register({**workflow("flow", simple("a")), "maskedFields": ["card"]})
    driver.ok(RestartWorkflow("default", "w", use_latest_definitions=True))
    assert decoded(shown(driver).input) == {"card": "***", "amount": 10.5}


def test_without_masked_fields_nothing_changes(driver: Driver) -> None:
    """Payloads are shown byte by byte as they are stored."""
    start(driver)
    assert shown(driver).input.inline == CARD


@pytest.mark.parametrize(("fields", "path"), [
    ("card", "maskedFields"), ([5], "maskedFields[0]"), (["a", ""], "maskedFields[1]"), (["a..b"], "maskedFields[0]"),
    ([".a"], "maskedFields[0]"), (["x" * 201], "maskedFields[0]"), ([f"f{n}" for n in range(101)], "maskedFields"),
])
def test_a_path_has_rules(fields: Any, path: str) -> None:
    """At most 100 paths of names with dots between them."""
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(msgspec.json.encode(workflow("flow", simple("a"), maskedFields=fields)))
    assert refused.value.path == path


@pytest.mark.parametrize(("given", "fields", "expected"), [
    (b'{"a":{"b":1,"c":2}}', ("a.b",), b'{"a":{"b":"***","c":2}}'),
    (b'{"x":{"a":{"b":1}}}', ("a.b",), b'{"x":{"a":{"b":"***"}}}'),
    (b'[{"a":[{"b":1},{"b":{"b":2}}]}]', ("a.b",), b'[{"a":[{"b":"***"},{"b":"***"}]}]'),
    (b'{"a":{"a":{"b":1}}}', ("a.a.b",), b'{"a":{"a":{"b":"***"}}}'),
    (b'{"a":{"a":{"a":{"b":1}}}}', ("a.a.b",), b'{"a":{"a":{"a":{"b":"***"}}}}'),
    (b'{"a":1.0e5,"b":null}', ("c",), b'{"a":1.0e5,"b":null}'),
    (b'{"\\u0061":1}', ("a",), b'{"a":"***"}'),
    (b'{"a":null}', ("a",), b'{"a":"***"}'),
    (b'"a"', ("a",), b'"a"'),
    (b"", ("a",), b""),
])
def test_where_a_path_may_begin(given: bytes, fields: tuple[str, ...], expected: bytes) -> None:
    """Anywhere in the payload, through lists; numbers keep their text; a name is the same however it is written."""
    assert masked(given, fields) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["secret", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=20,
)


def naive(value: Any, path: list[str], at: tuple[str, ...] = ()) -> Any:
    """A dumb masking: by the names on the way to each value."""
    if len(at) >= len(path) and list(at[-len(path):]) == path:
        return "***"
    if isinstance(value, dict):
        return {name: naive(inner, path, (*at, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [naive(inner, path, at) for inner in value]
    return value


@given(json_values, st.lists(st.sampled_from("abc"), min_size=1, max_size=3))
def test_masking_is_what_a_dumb_one_does(value: Any, path: list[str]) -> None:
    """For any payload and path."""
    found = msgspec.json.decode(masked(msgspec.json.encode(value), [".".join(path)]))
    assert found == (value if not isinstance(value, dict | list) else naive(value, path))
