"""Values to JSON and back, and what is said about those that do not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NewType, Optional, TypedDict
from uuid import UUID

import pytest

from orchestrator_client.codec import decode, dumps, encode, loads
from orchestrator_client.errors import CodecError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    sku: str
    quantity: int = 1
    tags: tuple[str, ...] = ()


@dataclass
class Order:
    id: str
    items: list[Item]
    placed: datetime
    colour: Colour | None = None
    note: Optional[str] = None  # noqa: UP045 - the older spelling is what is tested
    prices: dict[str, Decimal] = field(default_factory=dict)
    parent: Order | None = None


class Shape(TypedDict, total=False):
    width: int


Sku = NewType("Sku", str)

ORDER = Order(
    "7",
    [Item("a", 2, ("x", "y")), Item("b")],
    datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    Colour.BLUE,
    prices={"a": Decimal("1.10")},
    parent=Order("6", [], datetime(2030, 1, 1, tzinfo=UTC)),
)


def test_a_nested_dataclass_comes_back_as_it_was() -> None:
    document = loads(dumps(ORDER))
    assert document["colour"] == "blue"
    assert document["items"][0] == {"sku": "a", "quantity": 2, "tags": ["x", "y"]}
    assert decode(Order, document) == ORDER


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 3),
        (float, 2.5),
        (bool, True),
        (None, None),
        (Any, {"a": [1, None]}),
        (list[int], [1, 2]),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (tuple[int, str], (1, "a")),
        (dict[int, float], {1: 2.0}),
        (dict[Colour, int], {Colour.RED: 1}),
        (dict, {"a": 1}),
        (date, date(2030, 1, 2)),
        (timedelta, timedelta(milliseconds=1500)),
        (UUID, UUID(int=5)),
        (bytes, b"\x00\xff"),
        (Literal["a", "b"], "b"),
        (Shape, {"width": 3}),
        (Sku, Sku("s")),
        (int | str, "1"),
        (float | int, 1),
        (Item | list[Item], [Item("a")]),
    ],
)
def test_each_type_comes_back_as_it_was(kind: Any, value: Any) -> None:
    again = decode(kind, loads(dumps({"value": value}))["value"])
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": 7}, "id: expected text, found a number"),
        ({"items": [{"sku": "a"}, {"sku": None}]}, "items[1].sku: expected text, found null"),
        ({"items": {}}, "items: expected a list, found an object"),
        ({"items": [{}]}, "items[0].sku: missing (Item needs it)"),
        ({"items": [{"sku": "a", "quantity": 1.5}]}, "items[0].quantity: expected a whole number, found 1.5"),
        ({"items": [{"sku": "a", "quantity": True}]}, "items[0].quantity: expected a whole number, found a boolean"),
        ({"placed": "soon"}, "placed: expected a date and time (ISO 8601), found 'soon'"),
        ({"colour": "pink"}, "colour: expected a Colour ('red', 'blue'), found 'pink'"),
        ({"prices": {"a": "x"}}, "prices.a: expected a decimal number as text, found 'x'"),
        ({"parent": {"id": "1"}}, "parent.items: missing (Order needs it)"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(CodecError) as error:
        decode(Order, encode(ORDER) | change)
    assert str(error.value) == problem


def test_members_that_are_not_known_are_ignored_and_missing_ones_have_their_defaults() -> None:
    assert decode(Item, {"sku": "a", "weight": 3}) == Item("a")


@pytest.mark.parametrize("value", [object(), float("nan"), {1.5: 1}, {"a": [{1j}]}])
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(CodecError):
        dumps(value)


def test_checks_of_the_dataclass_itself_are_told_with_the_path() -> None:
    @dataclass
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 1:
                raise ValueError("n must be positive")

    with pytest.raises(CodecError, match=r"order\.x: Positive: n must be positive"):
        decode(Positive, {"n": 0}, "order.x")


def test_an_annotation_that_can_not_be_resolved_is_named() -> None:
    class Hidden: ...

    @dataclass
    class Holder:
        hidden: Hidden

    with pytest.raises(CodecError, match="names 'Hidden', which must be a global name of"):
        decode(Holder, {"hidden": {}})
