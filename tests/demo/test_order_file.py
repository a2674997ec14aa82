"""The file of orders is what its generator makes, and holds enough trouble to be worth a run."""

from collections import Counter
from pathlib import Path

from catalogue import CATALOGUE, opening_stock
from generate_orders import ORDERS_COUNT, make_orders
from order_file import ORDERS_FILE, Trouble, read_orders, write_orders


def test_the_file_is_reproduced_by_its_generator(tmp_path: Path) -> None:
    write_orders(tmp_path / "again.jsonl", make_orders())
    assert (tmp_path / "again.jsonl").read_bytes() == ORDERS_FILE.read_bytes()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.jsonl", make_orders(40))
    assert read_orders(tmp_path / "orders.jsonl") == make_orders(40)


def test_a_longer_file_begins_with_the_shorter_one() -> None:
    assert make_orders(450)[:300] == make_orders(300)


def test_another_seed_gives_other_orders() -> None:
    assert make_orders(seed=1) != make_orders(seed=2)


def test_the_first_thirty_orders_meet_every_trouble() -> None:
    assert {order.trouble for order in make_orders(30)} == set(Trouble)


def test_orders_are_what_a_shop_sees() -> None:
    orders = read_orders(ORDERS_FILE)
    assert len(orders) == ORDERS_COUNT == len({order.id for order in orders})
    assert {order.sku for order in orders} == set(CATALOGUE)
    assert len(CATALOGUE) == 12
    assert all(order.amount_cents == order.quantity * CATALOGUE[order.sku].price_cents for order in orders)
    counts = Counter(order.trouble for order in orders)
    assert counts[Trouble.NONE] > ORDERS_COUNT / 2
    assert counts[Trouble.PAYMENT_CRASHES] == 3


def test_some_of_the_stock_runs_out_and_most_does_not() -> None:
    wanted: Counter[str] = Counter()
    for order in make_orders():
        if order.trouble is not Trouble.OUT_OF_STOCK:
            wanted[order.sku] += order.quantity
    short = [sku for sku, stock in opening_stock().items() if wanted[sku] > stock]
    assert 2 <= len(short) <= 4


def test_a_longer_run_begins_with_more_stock() -> None:
    assert opening_stock(300) == opening_stock(30)
    assert opening_stock(301)["mug-blue"] == 2 * CATALOGUE["mug-blue"].stock
