"""Makes `orders.jsonl`. The same seed gives the same file, and a longer file begins with the shorter one.

python client/examples/orders/generate_orders.py
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from catalogue import CATALOGUE
from order_file import ORDERS_FILE, OrderLine, Trouble, write_orders

ORDERS_COUNT = 300
# With this seed already the first 30 orders meet every trouble, so a short run of the demo shows them all.
ORDERS_SEED = 78

# How many of 100 orders meet which trouble; the rest meet none.
TROUBLES_PER_HUNDRED = {
    Trouble.OUT_OF_STOCK: 4,
    Trouble.CARD_DECLINED: 6,
    Trouble.BANK_LINE_DROPS: 6,
    Trouble.PAYMENT_CRASHES: 1,
    Trouble.CARRIER_SLOW: 7,
    Trouble.CARRIER_SILENT: 4,
    Trouble.CARRIER_NEVER_ANSWERS: 2,
    Trouble.NO_TRUCKS: 5,
    Trouble.HANGS_THEN_NO_TRUCKS: 2,
}


def make_orders(count: int = ORDERS_COUNT, seed: int = ORDERS_SEED) -> list[OrderLine]:
    """The first `count` orders of the endless sequence that the seed stands for."""
    return list(islice(_endless(random.Random(seed)), count))


def _endless(chance: random.Random) -> Iterator[OrderLine]:
    skus = list(CATALOGUE)
    # What does not run out: an order that is to meet trouble at the bank has to get past the warehouse.
    plentiful = [sku for sku in skus if CATALOGUE[sku].stock >= 60]
    number = 0
    while True:
        for trouble in _hundred_troubles(chance):
            number += 1
            choice = skus if trouble is Trouble.NONE else plentiful
            sku = chance.choices(choice, [CATALOGUE[sku].popularity for sku in choice])[0]
            quantity = chance.choices((1, 2, 3, 4), (55, 27, 12, 6))[0]
            if trouble is Trouble.OUT_OF_STOCK:
                quantity = 10 * CATALOGUE[sku].stock
            yield OrderLine(f"{number:04}", sku, quantity, quantity * CATALOGUE[sku].price_cents, trouble)


def _hundred_troubles(chance: random.Random) -> list[Trouble]:
    troubles = [trouble for trouble, count in TROUBLES_PER_HUNDRED.items() for _ in range(count)]
    troubles += [Trouble.NONE] * (100 - len(troubles))
    chance.shuffle(troubles)
    return troubles


if __name__ == "__main__":
    write_orders(ORDERS_FILE, make_orders())
    print(f"wrote {ORDERS_COUNT} orders to {ORDERS_FILE}")
