"""The audit can be trusted: a clean run has no violations, and each thing planted into it is found and named."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from audit import Evidence, ExecutionView, Report, audit, read_evidence, write_executions
from books import Effect, Entry
from catalogue import opening_stock
from order_file import OrderLine, Trouble, write_orders

UNDO = {"reserve": "release", "charge": "refund", "ship": "recall"}


@dataclass
class Run:
    """A run that never was: what each order left in the books and in the cluster."""

    orders: list[OrderLine] = field(default_factory=list)
    executions: dict[str, ExecutionView] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    stock: dict[str, int] = field(default_factory=opening_stock)

    def order(self, name: str, trouble: Trouble = Trouble.NONE) -> OrderLine:
        order = OrderLine(name, "mug-blue", 2, 1480, trouble)
        self.orders.append(order)
        return order

    def write(self, order: OrderLine, call: str, effect: Effect = Effect.APPLIED, **changes: object) -> Entry:
        step = {undo: step for step, undo in UNDO.items()}.get(call)
        money = call in ("charge", "refund")
        applied = effect is Effect.APPLIED
        entry = Entry(
            time=1000.0 + len(self.entries),
            call=call,
            order_id=order.id,
            idempotency_key=f"{order.id}/{call}",
            fencing_token=len(self.entries),
            effect=effect,
            undoes=f"{order.id}/{step}" if step else "",
            shown=f"answer of charge {order.id}" if call == "ship" else "",
            sku=order.sku if applied and not money else "",
            quantity=order.quantity if applied and not money else 0,
            amount_cents=order.amount_cents if applied and money else 0,
            answer=f"answer of {call} {order.id}",
        )
        entry = replace(entry, **changes)  # type: ignore[arg-type]  # the tests give what an Entry has
        self.entries.append(entry)
        return entry

    def ends(self, order: OrderLine, status: str, *done: str) -> None:
        self.executions[order.id] = ExecutionView(status, "COMPLETE" if done else "NONE", done)

    def find(self, order_id: str, call: str) -> Entry:
        return next(entry for entry in self.entries if (entry.order_id, entry.call) == (order_id, call))

    def drop(self, order_id: str, call: str) -> Entry:
        entry = self.find(order_id, call)
        self.entries.remove(entry)
        return entry

    def change(self, order_id: str, call: str, **changes: object) -> None:
        entry = self.find(order_id, call)
        self.entries[self.entries.index(entry)] = replace(entry, **changes)  # type: ignore[arg-type]

    def view(self, order_id: str, **changes: object) -> None:
        self.executions[order_id] = replace(self.executions[order_id], **changes)  # type: ignore[arg-type]

    def evidence(self) -> Evidence:
        return Evidence(self.orders, self.executions, self.entries, opening_stock(), self.stock)

    def audit(self) -> Report:
        return audit(self.evidence())


@pytest.fixture
def run() -> Run:
    """One order of each kind; their ids say what becomes of them."""
    run = Run()
    shipped = run.order("shipped")
    for call in ("reserve", "charge"):
        run.write(shipped, call)
    run.write(shipped, "charge", Effect.REPEATED)
    run.write(shipped, "ship")
    run.ends(shipped, "COMPLETED")
    run.stock[shipped.sku] -= shipped.quantity

    disappointed = run.order("no-stock", Trouble.OUT_OF_STOCK)
    run.write(disappointed, "reserve", Effect.REFUSED_BUSINESS)
    run.ends(disappointed, "FAILED")

    declined = run.order("declined", Trouble.CARD_DECLINED)
    run.write(declined, "reserve")
    run.write(declined, "charge", Effect.REFUSED_BUSINESS)
    run.write(declined, "release")
    run.ends(declined, "FAILED", "reserve")

    stranded = run.order("no-trucks", Trouble.NO_TRUCKS)
    for call in ("reserve", "charge", "refund", "release"):
        run.write(stranded, call)
    run.ends(stranded, "FAILED", "charge", "reserve")

    unknown = run.order("unknown", Trouble.HANGS_THEN_NO_TRUCKS)
    for call in ("reserve", "charge"):
        run.write(unknown, call)
    run.write(unknown, "recall", sku="", quantity=0)
    for call in ("refund", "release"):
        run.write(unknown, call)
    run.ends(unknown, "FAILED", "ship", "charge", "reserve")

    recalled = run.order("recalled", Trouble.CARRIER_SILENT)
    for call in ("reserve", "charge", "ship", "recall", "refund", "release"):
        run.write(recalled, call)
    run.ends(recalled, "TIMED_OUT", "ship", "charge", "reserve")
    return run


def test_a_clean_run_has_no_violations(run: Run) -> None:
    report = run.audit()
    assert report.violations == []
    assert (report.orders, report.shipped, report.compensated, report.nothing_owed) == (6, 1, 5, 1)
    assert report.sentence() == (
        "6 orders: 1 shipped, 5 fully compensated, 0 lost, 0 double effects "
        "(1 repeated calls absorbed by idempotency keys) · stock and money balance"
    )


def lost(run: Run) -> None:
    del run.executions["shipped"]


def never_ended(run: Run) -> None:
    run.view("no-trucks", status="COMPENSATING", compensation="STUCK")


def double_shipment_under_one_key(run: Run) -> None:
    run.write(run.orders[0], "ship")


def double_shipment_under_two_keys(run: Run) -> None:
    run.write(run.orders[0], "ship", idempotency_key="another")


def second_key_for_a_repeated_call(run: Run) -> None:
    run.write(run.orders[0], "charge", Effect.REPEATED, idempotency_key="another")


def double_refund(run: Run) -> None:
    run.write(run.orders[3], "refund", idempotency_key="another")


def completed_without_charge(run: Run) -> None:
    run.drop("shipped", "charge")


def completed_and_released(run: Run) -> None:
    run.write(run.orders[0], "release")


def shipped_and_called_failed(run: Run) -> None:
    run.view("shipped", status="FAILED")


def missing_refund(run: Run) -> None:
    run.drop("no-trucks", "refund")


def missing_release_of_the_first_step(run: Run) -> None:
    run.drop("declined", "release")


def refund_of_too_little(run: Run) -> None:
    run.change("no-trucks", "refund", amount_cents=1)


def refund_of_nothing_for_a_charge(run: Run) -> None:
    run.change("no-trucks", "refund", amount_cents=0)


def refund_of_another_step(run: Run) -> None:
    run.change("no-trucks", "refund", undoes="declined/charge")


def shipment_after_its_recall(run: Run) -> None:
    run.write(run.orders[4], "ship")


def undone_in_the_order_of_doing(run: Run) -> None:
    refund, release = run.find("no-trucks", "refund"), run.find("no-trucks", "release")
    run.change("no-trucks", "refund", time=release.time)
    run.change("no-trucks", "release", time=refund.time)


def cluster_claims_too_much(run: Run) -> None:
    run.view("declined", done=("charge", "reserve"))


def cluster_claims_too_little(run: Run) -> None:
    run.view("no-trucks", done=("charge",))


def cluster_denies_a_compensation(run: Run) -> None:
    run.view("declined", compensation="NONE", done=())


def cluster_leaves_a_step(run: Run) -> None:
    run.view("declined", compensation="INCOMPLETE", left=("reserve",))


def shipped_before_paid(run: Run) -> None:
    run.change("shipped", "charge", time=2000.0)


def shipped_after_the_refund(run: Run) -> None:
    run.change("recalled", "refund", time=run.find("recalled", "charge").time + 0.5)


def shipped_against_a_foreign_receipt(run: Run) -> None:
    run.change("shipped", "ship", shown="answer of charge recalled")


def charged_too_much(run: Run) -> None:
    run.change("shipped", "charge", amount_cents=9999)


def shipped_too_many(run: Run) -> None:
    run.change("shipped", "ship", quantity=3)


def stock_has_shrunk(run: Run) -> None:
    run.stock["tea-assam-250g"] -= 1


def money_without_an_order(run: Run) -> None:
    run.drop("shipped", "ship")


def effects_of_no_order(run: Run) -> None:
    run.write(OrderLine("ghost", "mug-blue", 1, 740), "charge")


@pytest.mark.parametrize(
    ("plant", "kind", "order_id"),
    [
        (lost, "LOST", "shipped"),
        (never_ended, "LOST", "no-trucks"),
        (double_shipment_under_one_key, "DOUBLE EFFECT", "shipped"),
        (double_shipment_under_two_keys, "DOUBLE EFFECT", "shipped"),
        (second_key_for_a_repeated_call, "SECOND KEY", "shipped"),
        (double_refund, "DOUBLE EFFECT", "no-trucks"),
        (completed_without_charge, "MISSING STEP", "shipped"),
        (completed_and_released, "UNDONE STEP", "shipped"),
        (shipped_and_called_failed, "NOT COMPLETED", "shipped"),
        (missing_refund, "NOT UNDONE", "no-trucks"),
        (missing_release_of_the_first_step, "NOT UNDONE", "declined"),
        (refund_of_too_little, "NOT UNDONE", "no-trucks"),
        (refund_of_nothing_for_a_charge, "NOT UNDONE", "no-trucks"),
        (refund_of_another_step, "NOT UNDONE", "no-trucks"),
        (shipment_after_its_recall, "NOT UNDONE", "unknown"),
        (undone_in_the_order_of_doing, "UNDO ORDER", "no-trucks"),
        (cluster_claims_too_much, "DISAGREEMENT", "declined"),
        (cluster_claims_too_little, "DISAGREEMENT", "no-trucks"),
        (cluster_denies_a_compensation, "DISAGREEMENT", "declined"),
        (cluster_leaves_a_step, "NOT UNDONE", "declined"),
        (shipped_before_paid, "UNPAID", "shipped"),
        (shipped_after_the_refund, "UNPAID", "recalled"),
        (shipped_against_a_foreign_receipt, "UNPAID", "shipped"),
        (charged_too_much, "WRONG AMOUNT", "shipped"),
        (shipped_too_many, "WRONG AMOUNT", "shipped"),
        (missing_refund, "MONEY", ""),
        (stock_has_shrunk, "STOCK", ""),
        (money_without_an_order, "MONEY", ""),
        (effects_of_no_order, "STRAY", "ghost"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_planted_is_found(run: Run, plant: Callable[[Run], None], kind: str, order_id: str) -> None:
    plant(run)
    report = run.audit()
    assert not report.ok
    assert (kind, order_id) in [(violation.kind, violation.order_id) for violation in report.violations]


def test_orders_that_are_off_are_not_counted_as_good(run: Run) -> None:
    missing_refund(run)
    double_shipment_under_one_key(run)
    report = run.audit()
    assert (report.shipped, report.compensated) == (0, 4)
    assert report.sentence() == (
        "6 orders: 0 shipped, 4 fully compensated, 0 lost, 1 double effects "
        "(1 repeated calls absorbed by idempotency keys) · money OFF BALANCE"
    )


def test_the_script_names_what_is_off_and_fails(run: Run, tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.jsonl", run.orders)
    write_executions(tmp_path, run.executions)
    write_books(tmp_path, run.entries)
    assert run_script(tmp_path).returncode == 0

    run.drop("no-trucks", "refund")
    write_books(tmp_path, run.entries)
    failed = run_script(tmp_path)
    assert failed.returncode == 1
    assert "NOT UNDONE: order no-trucks failed and has a charge without refund" in failed.stdout


def test_the_evidence_of_a_folder_is_that_of_the_run(run: Run, tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.jsonl", run.orders)
    write_executions(tmp_path, run.executions)
    write_books(tmp_path, run.entries)
    found, expected = read_evidence(tmp_path), run.evidence()
    assert (found.orders, found.executions) == (expected.orders, expected.executions)
    assert sorted(found.entries, key=lambda entry: entry.time) == expected.entries
    assert found.remaining_stock == expected.remaining_stock


def write_books(folder: Path, entries: list[Entry]) -> None:
    calls = {"inventory": ("reserve", "release"), "payment": ("charge", "refund"), "shipping": ("ship", "recall")}
    for service, names in calls.items():
        lines = [json.dumps(vars(entry)) + "\n" for entry in entries if entry.call in names]
        (folder / f"{service}.jsonl").write_text("".join(lines))


def run_script(folder: Path) -> subprocess.CompletedProcess[str]:
    script = Path(str(sys.modules["audit"].__file__))
    return subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
