"""Functions as tasks: how JSON becomes their arguments, and how compensations find theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator_client import CodecError, CompensationContext, TaskContext, TerminalError, task
from orchestrator_client.options import TaskOptions


@dataclass
class Charge:
    receipt: str


def test_arguments_have_the_names_of_the_parameters() -> None:
    @task
    def ship(order: dict[str, int], express: bool = False, note: str | None = None) -> None: ...

    assert ship.decode_arguments({"order": {"a": 1}, "other": 1}) == {"order": {"a": 1}}
    # A path that leads nowhere resolves to null: the default stands in for it.
    assert ship.decode_arguments({"order": {}, "express": None, "note": None}) == {"order": {}, "note": None}
    with pytest.raises(CodecError, match="order: missing in the input"):
        ship.decode_arguments({})


@pytest.mark.parametrize(
    ("kind", "value", "document"),
    [
        (Charge, Charge("r"), {"receipt": "r"}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (str, "x", {"result": "x"}),
        (list[Charge], [Charge("r")], {"result": [{"receipt": "r"}]}),
        (Charge | None, Charge("r"), {"result": {"receipt": "r"}}),
        (Charge | None, None, {}),
        (None, None, {}),
        (Any, 3, {"result": 3}),
    ],
)
def test_results_travel_as_objects(kind: Any, value: Any, document: Any) -> None:
    def function() -> Any: ...

    function.__annotations__["return"] = kind
    made = task(function)
    assert made.encode_result(value) == document
    if kind is not Any and kind is not None:
        assert made.decode_result(document) == value


def test_a_task_is_still_its_function() -> None:
    @task(name="other")
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert double(4) == 8
    assert double.name == "other"
    assert double.__doc__ == "Twice as much."


def test_local_types_are_found_behind_string_annotations() -> None:
    @dataclass
    class Local:
        n: int

    @task
    def read(local: Local) -> None: ...

    assert read.decode_arguments({"local": {"n": 1}}) == {"local": Local(1)}


def test_a_compensation_takes_what_it_names() -> None:
    @task
    def ship(order: str, receipt: str) -> Charge:
        return Charge(order + receipt)

    @ship.compensation
    def recall(receipt: str, done: Charge | None, ctx: CompensationContext) -> None: ...

    given = {"order": "o", "receipt": "r"}
    assert recall.bind(given, {"receipt": "x"}) == {"receipt": "r", "done": Charge("x")}
    assert recall.bind(given, None) == {"receipt": "r", "done": None}
    assert recall.signature.context == "ctx"


def test_a_compensation_may_have_names_of_its_own() -> None:
    @task
    def charge(order: str, amount: int) -> str: ...

    @charge.compensation
    def refund(purchase: str, cents: int, receipt: str | None, ctx: TaskContext) -> None: ...

    assert refund.bind({"order": "o", "amount": 3}, {"result": "r"}) == {"purchase": "o", "cents": 3, "receipt": "r"}


def test_a_compensation_whose_parameters_mean_nothing_is_refused() -> None:
    @task
    def charge(order: str) -> str: ...

    @charge.compensation
    def refund(a: str, b: str, c: str) -> None: ...

    with pytest.raises(TypeError, match="the compensation refund can take order"):
        refund.bind({"order": "o"}, None)
    with pytest.raises(TypeError, match="is compensated by refund already"):
        charge.compensation(lambda: None)
    with pytest.raises(TypeError, match="it can't have one of its own"):
        refund.compensation(lambda: None)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="must be below timeout_ms"):
        TaskOptions(timeout_ms=1_000, response_timeout_ms=1_000)
    with pytest.raises(ValueError, match="can't be above total_timeout_ms"):
        TaskOptions(timeout_ms=2_000, total_timeout_ms=1_000)
    with pytest.raises(ValueError, match="go together"):
        TaskOptions(rate_limit=5)
    with pytest.raises(ValueError, match="concurrent_limit must be positive"):
        TaskOptions(concurrent_limit=0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        task(timeout=3)  # type: ignore[call-overload]  # what is tested


def test_a_task_takes_named_parameters() -> None:
    @task
    def spread(*orders: str) -> None: ...

    with pytest.raises(TypeError, match="plain named parameters"):
        _ = spread.signature


def test_a_context_can_be_made_by_hand() -> None:
    context = TaskContext(idempotency_key="k")
    context.heartbeat({"page": 1})
    context.log.info("hello")
    assert not context.cancelled.is_set()


def test_a_terminal_error_reads_well() -> None:
    assert str(TerminalError("NO_TRUCKS")) == "NO_TRUCKS"
    assert str(TerminalError("NO_TRUCKS", "none left")) == "NO_TRUCKS: none left"


def test_how_many_at_once_and_in_a_window_is_conductors_too() -> None:
    @task(concurrent_limit=3, rate_limit=10, rate_window_ms=1_500)
    def charge() -> None: ...

    definition = charge.options.definition("charge")
    assert definition["concurrentExecLimit"] == 3
    assert (definition["rateLimitPerFrequency"], definition["rateLimitFrequencyInSeconds"]) == (10, 1.5)
    assert not {"concurrentExecLimit", "rateLimitPerFrequency"} & set(TaskOptions().definition("free"))
