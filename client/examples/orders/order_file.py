"""The orders of the demo, one JSON object a line, and the trouble that each of them will meet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

ORDERS_FILE = Path(__file__).with_name("orders.jsonl")


class Trouble(StrEnum):
    """What goes wrong with an order. Only the services know of it; the saga has to cope."""

    NONE = "NONE"
    # Ten times what the warehouse holds: refused at the first step, so nothing is owed.
    OUT_OF_STOCK = "OUT_OF_STOCK"
    # The bank says no: the reservation is released.
    CARD_DECLINED = "CARD_DECLINED"
    # The bank's line drops before anything has happened: a retry helps.
    BANK_LINE_DROPS = "BANK_LINE_DROPS"
    # The payment process dies after it has charged and before it can say so.
    PAYMENT_CRASHES = "PAYMENT_CRASHES"
    # The carrier takes its time, yet answers before the task times out.
    CARRIER_SLOW = "CARRIER_SLOW"
    # The carrier takes the parcel, and its answer comes after the task has timed out.
    CARRIER_SILENT = "CARRIER_SILENT"
    # The carrier takes the parcel and never answers, so at last the shop gives up: the parcel has to be called back.
    CARRIER_NEVER_ANSWERS = "CARRIER_NEVER_ANSWERS"
    # The carrier has no trucks: the money goes back, the reservation is released.
    NO_TRUCKS = "NO_TRUCKS"
    # The carrier hangs beyond the timeout and then has no trucks: nobody knows whether the first attempt shipped.
    HANGS_THEN_NO_TRUCKS = "HANGS_THEN_NO_TRUCKS"


@dataclass(frozen=True)
class OrderLine:
    """One line of the file."""

    id: str
    sku: str
    quantity: int
    amount_cents: int
    trouble: Trouble = Trouble.NONE


def read_orders(path: Path) -> list[OrderLine]:
    """The orders in the order of the file."""
    orders = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        orders.append(OrderLine(**{**fields, "trouble": Trouble(fields["trouble"])}))
    return orders


def write_orders(path: Path, orders: Iterable[OrderLine]) -> None:
    path.write_text("".join(json.dumps(asdict(order)) + "\n" for order in orders), encoding="utf-8")
