"""The services keep their state in their books, and cause the trouble that an order is meant to meet, once."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import services
from books import Effect, Refused, Stale, read_book
from order_file import OrderLine, Trouble, write_orders
from services import CRASH_EXIT_CODE, Inventory, Payment, Shipping

SKU = "grinder-hand"
TROUBLES = {trouble: f"{number:04}" for number, trouble in enumerate(Trouble)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With one order for each trouble."""
    write_orders(
        tmp_path / "orders.jsonl", [OrderLine(TROUBLES[trouble], SKU, 1, 8490, trouble) for trouble in Trouble]
    )
    return tmp_path


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The services take no time; answers how long they would have taken."""
    taken: list[float] = []

    async def sleep(delay_s: float) -> None:
        taken.append(delay_s)

    monkeypatch.setattr("services.asyncio.sleep", sleep)
    return taken


async def test_reserved_pieces_leave_the_stock_and_released_ones_come_back(folder: Path) -> None:
    inventory = Inventory()
    inventory.open(folder)
    before = inventory.stock[SKU]
    await inventory.reserve("0000", SKU, 3, key="k", token=1)
    await inventory.reserve("0000", SKU, 3, key="k", token=2)
    assert inventory.stock[SKU] == before - 3
    inventory.close()

    restarted = Inventory()
    restarted.open(folder)
    assert restarted.stock[SKU] == before - 3
    await restarted.release("0000", key="u", token=3, reserve_key="k")
    await restarted.release("0000", key="u", token=4, reserve_key="k")
    assert restarted.stock[SKU] == before
    restarted.close()


async def test_more_than_there_is_cannot_be_reserved(folder: Path) -> None:
    inventory = Inventory()
    inventory.open(folder)
    inventory.stock[SKU] = 1
    with pytest.raises(Refused, match="2 of grinder-hand wanted, 1 left"):
        await inventory.reserve("0000", SKU, 2, key="k", token=1)
    assert inventory.stock[SKU] == 1


async def test_the_till_holds_what_was_charged_and_not_refunded(folder: Path) -> None:
    payment = Payment()
    payment.open(folder)
    await payment.charge("0000", 500, key="k1", token=1)
    await payment.charge("0001", 300, key="k2", token=2)
    await payment.refund("0000", key="u1", token=3, charge_key="k1")
    await payment.refund("0002", key="u3", token=4, charge_key="never")
    assert payment.till_cents == 300


async def test_a_declined_card_is_declined_for_good(folder: Path) -> None:
    payment = Payment()
    payment.open(folder)
    for token in (1, 2):
        with pytest.raises(Refused, match="declined"):
            await payment.charge(TROUBLES[Trouble.CARD_DECLINED], 500, key="k", token=token)
    assert payment.till_cents == 0


async def test_a_dropped_line_leaves_no_trace_and_works_the_second_time(folder: Path) -> None:
    payment = Payment()
    payment.open(folder)
    with pytest.raises(ConnectionError):
        await payment.charge(TROUBLES[Trouble.BANK_LINE_DROPS], 500, key="k", token=1)
    assert read_book(folder / "payment.jsonl") == []
    await payment.charge(TROUBLES[Trouble.BANK_LINE_DROPS], 500, key="k", token=2)
    assert payment.till_cents == 500


def test_the_payment_process_dies_once_after_its_effect_and_before_its_answer(folder: Path) -> None:
    order_id = TROUBLES[Trouble.PAYMENT_CRASHES]
    script = (
        "import asyncio, sys, pathlib; from services import Payment\n"
        "payment = Payment(); payment.open(pathlib.Path(sys.argv[1]))\n"
        f"print(asyncio.run(payment.charge({order_id!r}, 500, key='k', token=int(sys.argv[2]))))\n"
    )

    def attempt(token: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(folder), str(token)]
        where = Path(str(services.__file__)).parent
        return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=30, check=False)

    crashed, repeated = attempt(1), attempt(2)
    assert (crashed.returncode, crashed.stdout) == (CRASH_EXIT_CODE, "")
    assert repeated.returncode == 0
    assert [entry.effect for entry in read_book(folder / "payment.jsonl")] == [Effect.APPLIED, Effect.REPEATED]


async def test_a_silent_carrier_has_taken_the_parcel_and_says_so_when_asked_again(
    folder: Path, no_waiting: list[float]
) -> None:
    shipping = Shipping()
    shipping.open(folder)
    order_id = TROUBLES[Trouble.CARRIER_SILENT]
    first = await shipping.ship(order_id, SKU, 1, "receipt", key="k", token=1)
    assert services.HANG_S in no_waiting
    no_waiting.clear()
    assert await shipping.ship(order_id, SKU, 1, "receipt", key="k", token=2) == first
    assert services.HANG_S not in no_waiting
    assert [entry.effect for entry in read_book(folder / "shipping.jsonl")] == [Effect.APPLIED, Effect.REPEATED]


async def test_a_carrier_that_never_answers_does_not_when_asked_again_either(
    folder: Path, no_waiting: list[float]
) -> None:
    shipping = Shipping()
    shipping.open(folder)
    for token in (1, 2):
        no_waiting.clear()
        await shipping.ship(TROUBLES[Trouble.CARRIER_NEVER_ANSWERS], SKU, 1, "receipt", key="k", token=token)
        assert services.HANG_S in no_waiting


@pytest.mark.parametrize("trouble", [Trouble.NO_TRUCKS, Trouble.HANGS_THEN_NO_TRUCKS])
async def test_without_trucks_nothing_is_shipped(folder: Path, trouble: Trouble, no_waiting: list[float]) -> None:
    shipping = Shipping()
    shipping.open(folder)
    with pytest.raises(Refused, match="no trucks"):
        await shipping.ship(TROUBLES[trouble], SKU, 1, "receipt", key="k", token=1)
    assert (services.HANG_S in no_waiting) == (trouble is Trouble.HANGS_THEN_NO_TRUCKS)


async def test_a_shipment_that_arrives_after_its_recall_is_refused(folder: Path) -> None:
    shipping = Shipping()
    shipping.open(folder)
    await shipping.recall("0000", key="u", token=2, ship_key="k")
    with pytest.raises(Stale):
        await shipping.ship("0000", SKU, 1, "receipt", key="k", token=1)


async def test_a_cancelled_call_leaves_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shipping = Shipping()
    shipping.open(folder)
    call = asyncio.create_task(shipping.ship("0000", SKU, 1, "receipt", key="k", token=1))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert read_book(folder / "shipping.jsonl") == []
