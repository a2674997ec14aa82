"""Compares what the cluster says about each order with what the services' books say, and trusts neither.

    python client/examples/orders/audit.py FOLDER        of a run of the demo with --keep

Prints each order that is off and why, and exits with 1 if there is any.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from books import Effect, Entry, read_book
from catalogue import opening_stock
from order_file import OrderLine, read_orders
from services import Inventory

# Each step of the saga and what undoes it, in the order of the saga.
UNDO_OF = {"reserve": "release", "charge": "refund", "ship": "recall"}
STEP_OF = {undo: step for step, undo in UNDO_OF.items()}
SERVICES = ("inventory", "payment", "shipping")
ENDED = ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED")


@dataclass(frozen=True)
class ExecutionView:
    """What the cluster says about one order."""

    status: str
    # NONE, RUNNING, STUCK, COMPLETE or INCOMPLETE; the undone steps are in the order of undoing.
    compensation: str = "NONE"
    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that an audit looks at: the acknowledged orders, the cluster's view by order id, and the services' books."""

    orders: Sequence[OrderLine]
    executions: Mapping[str, ExecutionView]
    entries: Sequence[Entry]
    opening_stock: Mapping[str, int]
    # As the warehouse itself counts it.
    remaining_stock: Mapping[str, int]


@dataclass(frozen=True)
class Violation:
    kind: str
    order_id: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {f'order {self.order_id} ' if self.order_id else ''}{self.why}"


@dataclass
class Report:
    """What the audit found. Orders that are off count neither as shipped nor as compensated."""

    orders: int = 0
    shipped: int = 0
    # Ended without a shipment and with nothing left to undo, those included that failed before any effect.
    compensated: int = 0
    nothing_owed: int = 0
    # Calls that came again and changed nothing, and calls of overtaken attempts.
    repeated: int = 0
    refused_stale: int = 0
    violations: list[Violation] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.violations

    def count(self, kind: str) -> int:
        return sum(violation.kind == kind for violation in self.violations)

    def sentence(self) -> str:
        off = [kind.lower() for kind in ("STOCK", "MONEY") if self.count(kind)]
        balance = f"{' and '.join(off)} OFF BALANCE" if off else "stock and money balance"
        return (
            f"{self.orders} orders: {self.shipped} shipped, {self.compensated} fully compensated, "
            f"{self.count('LOST')} lost, {self.count('DOUBLE EFFECT')} double effects "
            f"({self.repeated} repeated calls absorbed by idempotency keys) · {balance}"
        )


@dataclass
class History:
    """One order: what the shop wanted, what the cluster says, and what the services did."""

    order: OrderLine
    execution: ExecutionView | None
    entries: list[Entry]

    def off(self, kind: str, why: str) -> Violation:
        return Violation(kind, self.order.id, why)

    def applied(self, call: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.call == call and entry.effect is Effect.APPLIED]

    @property
    def undone(self) -> list[str]:
        """The steps that were undone, in the order of undoing; those that never happened included."""
        return [STEP_OF[e.call] for e in self.entries if e.call in STEP_OF and e.effect is Effect.APPLIED]

    @property
    def shipped(self) -> bool:
        return len(self.applied("ship")) > len([entry for entry in self.applied("recall") if entry.quantity])


def audit(evidence: Evidence) -> Report:
    """Looks at every order in turn, then at the sums."""
    by_order: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(evidence.entries, key=lambda entry: entry.time):
        by_order[entry.order_id].append(entry)
    histories = [
        History(order, evidence.executions.get(order.id), by_order.pop(order.id, [])) for order in evidence.orders
    ]
    report = Report(orders=len(histories))
    for history in histories:
        found = [violation for rule in ORDER_RULES for violation in rule(history)]
        report.violations += found
        if not found and history.execution is not None:
            completed = history.execution.status == "COMPLETED"
            report.shipped += completed
            report.compensated += not completed
            report.nothing_owed += not completed and not any(history.applied(step) for step in UNDO_OF)
    for order_id in by_order:
        report.violations.append(Violation("STRAY", order_id, "is in the books, and no such order was acknowledged"))
    report.violations += [*stock_balances(evidence, histories), *money_balances(histories)]
    report.repeated = sum(entry.effect is Effect.REPEATED for entry in evidence.entries)
    report.refused_stale = sum(entry.effect is Effect.REFUSED_STALE for entry in evidence.entries)
    return report


def nothing_is_lost(history: History) -> Iterator[Violation]:
    """Every acknowledged order exists and has ended."""
    if history.execution is None:
        yield history.off("LOST", "was acknowledged, and the cluster does not know it")
    elif history.execution.status not in ENDED:
        yield history.off("LOST", f"has not ended: it is {history.execution.status}")


def nothing_happens_twice(history: History) -> Iterator[Violation]:
    """No call takes effect twice, neither under one key nor under two; and a step has one key for all attempts."""
    for call in (*UNDO_OF, *STEP_OF):
        for again in history.applied(call)[1:]:
            yield history.off("DOUBLE EFFECT", f"{call} took effect again at {again.time:.3f}")
        keys = {entry.idempotency_key for entry in history.entries if entry.call == call}
        if len(keys) > 1:
            yield history.off("SECOND KEY", f"{call} was called with {len(keys)} idempotency keys")


def completed_means_all_steps(history: History) -> Iterator[Violation]:
    """COMPLETED if and only if every step took effect and none was undone."""
    if history.execution is None or history.execution.status not in ENDED:
        return
    missing = [step for step in UNDO_OF if not history.applied(step)]
    if history.execution.status != "COMPLETED":
        if not missing and not history.undone:
            yield history.off("NOT COMPLETED", f"is done, and the cluster says {history.execution.status}")
        return
    for step in missing:
        yield history.off("MISSING STEP", f"is COMPLETED without {step}")
    for step in history.undone:
        yield history.off("UNDONE STEP", f"is COMPLETED, and yet {UNDO_OF[step]} was called")


def failed_means_all_undone(history: History) -> Iterator[Violation]:
    """If the order failed, each effect has one undo, of just that effect and by the same amount, the last one first."""
    if history.execution is None or history.execution.status == "COMPLETED":
        return
    for step, undo in UNDO_OF.items():
        undos = {entry.undoes: entry for entry in history.applied(undo)}
        for entry in history.applied(step):
            undone = undos.get(entry.idempotency_key)
            if undone is None:
                yield history.off("NOT UNDONE", f"failed and has a {step} without {undo}")
            elif undone.moved != entry.moved:
                yield history.off("NOT UNDONE", f"{undo} gave back {undone.moved}, not {entry.moved}")
    steps = list(UNDO_OF)
    if history.undone != sorted(history.undone, key=steps.index, reverse=True):
        yield history.off("UNDO ORDER", f"was undone in the order {', '.join(history.undone)}")


def cluster_and_books_agree(history: History) -> Iterator[Violation]:
    """The cluster says that the compensation is COMPLETE if and only if the books say so, step by step."""
    view = history.execution
    if view is None or view.status not in ENDED:
        return
    if view.left or view.compensation not in ("NONE", "COMPLETE"):
        left = ", ".join(view.left) or "nothing"
        yield history.off("NOT UNDONE", f"has its compensation {view.compensation}, left: {left}")
    claimed = list(view.done)
    if claimed != history.undone or (view.compensation == "NONE") != (not claimed):
        said = f"{view.compensation} ({', '.join(claimed) or 'nothing'})"
        books = ", ".join(history.undone) or "nothing"
        yield history.off("DISAGREEMENT", f"is compensated {said} for the cluster; in the books: {books}")


def shipped_means_paid(history: History) -> Iterator[Violation]:
    """Nothing leaves before it is paid, against that very receipt, or once the money has gone back."""
    for shipment in history.applied("ship"):
        earlier = [entry for entry in history.entries if entry.time <= shipment.time]
        paid = [e for e in earlier if e.call == "charge" and e.effect is Effect.APPLIED]
        refunded = [e for e in earlier if e.call == "refund" and e.effect is Effect.APPLIED and e.amount_cents]
        if not paid:
            yield history.off("UNPAID", "was shipped before it was charged")
        elif refunded:
            yield history.off("UNPAID", "was shipped after the money had gone back")
        elif shipment.shown != paid[0].answer:
            yield history.off("UNPAID", f"was shipped against {shipment.shown!r}, not {paid[0].answer!r}")


def amounts_are_those_ordered(history: History) -> Iterator[Violation]:
    """What was reserved, charged and shipped is what was ordered."""
    order = history.order
    wanted = {
        "reserve": (order.sku, order.quantity, 0),
        "charge": ("", 0, order.amount_cents),
        "ship": (order.sku, order.quantity, 0),
    }
    for step, amounts in wanted.items():
        for entry in history.applied(step):
            if (entry.sku, entry.quantity, entry.amount_cents) != amounts:
                yield history.off("WRONG AMOUNT", f"{step} moved {entry.moved}")


ORDER_RULES = (
    nothing_is_lost,
    nothing_happens_twice,
    completed_means_all_steps,
    failed_means_all_undone,
    cluster_and_books_agree,
    shipped_means_paid,
    amounts_are_those_ordered,
)


def stock_balances(evidence: Evidence, histories: Iterable[History]) -> Iterator[Violation]:
    """What the warehouse had, less what the carrier took, is what the warehouse has."""
    shipped: Counter[str] = Counter()
    for history in histories:
        if history.shipped:
            shipped[history.order.sku] += history.order.quantity
    for sku, opening in evidence.opening_stock.items():
        remaining = evidence.remaining_stock.get(sku, 0)
        if opening - shipped[sku] != remaining:
            yield Violation("STOCK", "", f"of {sku}: {opening} less {shipped[sku]} shipped is not {remaining}")


def money_balances(histories: Sequence[History]) -> Iterator[Violation]:
    """What was charged, less what was refunded, is the price of what was shipped."""
    charged = sum(entry.amount_cents for history in histories for entry in history.applied("charge"))
    refunded = sum(entry.amount_cents for history in histories for entry in history.applied("refund"))
    sold = sum(history.order.amount_cents for history in histories if history.shipped)
    if charged - refunded != sold:
        yield Violation("MONEY", "", f"{charged} cents charged less {refunded} refunded is not {sold} shipped")


def write_executions(folder: Path, executions: Mapping[str, ExecutionView]) -> None:
    document = {order_id: asdict(execution) for order_id, execution in executions.items()}
    (folder / "executions.json").write_text(json.dumps(document, indent=1))


def read_evidence(folder: Path) -> Evidence:
    """What a run has left behind, after its services have stopped."""
    orders = read_orders(folder / "orders.jsonl")
    views = json.loads((folder / "executions.json").read_text())
    warehouse = Inventory()
    warehouse.open(folder)
    warehouse.close()
    return Evidence(
        orders=orders,
        executions={
            order_id: ExecutionView(**{**view, "done": tuple(view["done"]), "left": tuple(view["left"])})
            for order_id, view in views.items()
        },
        entries=[entry for service in SERVICES for entry in read_book(folder / f"{service}.jsonl")],
        opening_stock=opening_stock(len(orders)),
        remaining_stock=warehouse.stock,
    )


def main() -> int:
    report = audit(read_evidence(Path(sys.argv[1])))
    for violation in report.violations:
        print(violation)
    print(report.sentence())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
