"""Three small services, each with its own book: a warehouse, a bank and a carrier, with the trouble they cause.

A service is opened by the one process that serves it. Each call says who asks (`key`, `token`), and each undoing call
also names the key of the step to undo. The calls are awaited for as long as a real service would take.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from pathlib import Path

from books import Book, Effect, Entry, Moved, Refused, Request
from catalogue import opening_stock
from order_file import Trouble, read_orders

# What a crashing service exits with, so that its supervisor can tell a planned crash from a bug.
CRASH_EXIT_CODE = 70
# Longer than any timeout of a task.
HANG_S = 6.0


class Service:
    """What the three have in common: a book, and the knowledge of which order brings which trouble."""

    name: str

    def open(self, folder: Path) -> None:
        orders = read_orders(folder / "orders.jsonl")
        self._troubles = {order.id: order.trouble for order in orders}
        self._asked: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._prepare(len(orders))
        self._book = Book(folder / f"{self.name}.jsonl", self._took)

    def close(self) -> None:
        self._book.close()

    def _prepare(self, orders_count: int) -> None:
        """Sets the state as it was before the first entry of the book."""

    def _took(self, entry: Entry) -> None:
        """Follows the book: the only place where state changes."""

    def _brings(self, trouble: Trouble, order_id: str) -> bool:
        return self._troubles.get(order_id) is trouble

    def _first(self, call: str, order_id: str) -> bool:
        """Whether this process is asked for the first time."""
        self._asked[call, order_id] += 1
        return self._asked[call, order_id] == 1


class Inventory(Service):
    """The warehouse: reserved pieces leave the stock, released ones come back."""

    name = "inventory"

    def _prepare(self, orders_count: int) -> None:
        self.stock = opening_stock(orders_count)

    async def reserve(self, order_id: str, sku: str, quantity: int, *, key: str, token: int) -> str:
        await _takes(0.3, 0.7, "reserve", order_id)

        def decide() -> Moved:
            if self.stock.get(sku, 0) < quantity:
                raise Refused(f"{quantity} of {sku} wanted, {self.stock.get(sku, 0)} left")
            return Moved(sku, quantity)

        return self._book.do(Request("reserve", order_id, key, token), decide, f"shelf-{order_id}").answer

    async def release(self, order_id: str, *, key: str, token: int, reserve_key: str) -> None:
        await _takes(0.1, 0.3, "release", order_id)
        self._book.undo(Request("release", order_id, key, token, reserve_key))

    def _took(self, entry: Entry) -> None:
        if entry.effect is Effect.APPLIED and entry.quantity:
            self.stock[entry.sku] += entry.quantity if entry.undoes else -entry.quantity


class Payment(Service):
    """The bank: what was charged is in the till until it is refunded."""

    name = "payment"

    def _prepare(self, orders_count: int) -> None:
        self.till_cents = 0

    async def charge(self, order_id: str, amount_cents: int, *, key: str, token: int) -> str:
        first = self._first("charge", order_id)
        await _takes(0.3, 0.7, "charge", order_id)
        if first and self._brings(Trouble.BANK_LINE_DROPS, order_id):
            raise ConnectionError("the line to the bank dropped")

        def decide() -> Moved:
            if self._brings(Trouble.CARD_DECLINED, order_id):
                raise Refused("the card was declined")
            return Moved(amount_cents=amount_cents)

        entry = self._book.do(Request("charge", order_id, key, token), decide, f"receipt-{order_id}-{key[:6]}")
        if entry.effect is Effect.APPLIED and self._brings(Trouble.PAYMENT_CRASHES, order_id):
            os._exit(CRASH_EXIT_CODE)  # the money is taken and nobody knows: the worst moment
        await _takes(0.1, 0.3, "receipt", order_id)
        return entry.answer

    async def refund(self, order_id: str, *, key: str, token: int, charge_key: str) -> None:
        await _takes(0.1, 0.3, "refund", order_id)
        self._book.undo(Request("refund", order_id, key, token, charge_key))

    def _took(self, entry: Entry) -> None:
        if entry.effect is Effect.APPLIED:
            self.till_cents += -entry.amount_cents if entry.undoes else entry.amount_cents


class Shipping(Service):
    """The carrier: what was taken is on the road unless it is recalled."""

    name = "shipping"

    async def ship(self, order_id: str, sku: str, quantity: int, receipt: str, *, key: str, token: int) -> str:
        first = self._first("ship", order_id)
        await _takes(0.3, 0.7, "ship", order_id)
        if first and self._brings(Trouble.HANGS_THEN_NO_TRUCKS, order_id):
            await asyncio.sleep(HANG_S)

        def decide() -> Moved:
            if self._brings(Trouble.NO_TRUCKS, order_id) or self._brings(Trouble.HANGS_THEN_NO_TRUCKS, order_id):
                raise Refused("the carrier has no trucks")
            return Moved(sku, quantity)

        request = Request("ship", order_id, key, token, shown=receipt)
        entry = self._book.do(request, decide, f"tracking-{order_id}-{key[:6]}")
        silent = entry.effect is Effect.APPLIED and self._brings(Trouble.CARRIER_SILENT, order_id)
        if silent or self._brings(Trouble.CARRIER_NEVER_ANSWERS, order_id):
            await asyncio.sleep(HANG_S)
        if self._brings(Trouble.CARRIER_SLOW, order_id):
            await _takes(0.8, 1.3, "slow", order_id)
        await _takes(0.1, 0.5, "tracking", order_id)
        return entry.answer

    async def recall(self, order_id: str, *, key: str, token: int, ship_key: str) -> None:
        await _takes(0.1, 0.3, "recall", order_id)
        self._book.undo(Request("recall", order_id, key, token, ship_key))


async def _takes(least_s: float, most_s: float, call: str, order_id: str) -> None:
    # The same for an order in every run, whatever else happens.
    await asyncio.sleep(random.Random(f"{call} {order_id}").uniform(least_s, most_s))


inventory = Inventory()
payment = Payment()
shipping = Shipping()
