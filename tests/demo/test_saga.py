"""All 300 orders through the real tasks and services, driven by a few lines that keep the rules of a saga.

No cluster: what is shown here is that whoever keeps the rules gets through the trouble with a clean audit, and who
breaks one of them does not.
"""

import asyncio
import json
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import services
from audit import ExecutionView, Report, audit, read_evidence, write_executions
from generate_orders import make_orders
from order_file import OrderLine, write_orders
from orders import Charge, Order, charge, order_saga, reserve, ship

from orchestrator_client import CompensatedStepContext, CompensationContext, Task, TaskContext, TerminalError

SERVICE_OF = {"reserve": services.inventory, "charge": services.payment, "ship": services.shipping}


class Crash(BaseException):
    """The process of a service is gone."""


class TimedOut(Exception):
    """The attempt took longer than its task may take."""


@dataclass
class SagaRunner:
    """One order after the other, one attempt after the other. `breaks` names the rule that it does not keep."""

    folder: Path
    breaks: str = ""
    executions: dict[str, ExecutionView] = field(default_factory=dict)
    # Rises with each attempt of anything.
    tokens: Any = field(default_factory=lambda: count(1))

    async def run(self, line: OrderLine) -> None:
        order = Order(line.id, line.sku, line.quantity, line.amount_cents)
        owed: list[tuple[Task[..., Any], Any]] = []
        arguments: tuple[Any, ...] = ()
        status, reason = "COMPLETED", ""
        for step in (reserve, charge, ship):
            done, unknown, error = await self._step(step, line, order, *arguments)
            if error:
                status, reason = "FAILED", error
                if unknown and self.breaks != "undo what is unknown":
                    owed.append((step, None))
                break
            owed.append((step, done))
            arguments = (done.receipt,) if isinstance(done, Charge) else ()
        undone = [] if status == "COMPLETED" else owed[::-1]
        if self.breaks == "undo in reverse":
            undone.reverse()
        if self.breaks == "undo everything":
            undone = undone[:1]
        for step, done in undone:
            await self._undo(step, line, order, done)
        view = ExecutionView(
            status, "COMPLETE" if undone else "NONE", tuple(step.name for step, _ in undone), (), reason
        )
        self.executions[line.id] = view

    async def _step(self, step: Task[..., Any], line: OrderLine, *arguments: Any) -> tuple[Any, bool, str]:
        """The result; whether any attempt's outcome is unknown; why it failed for good."""
        unknown = False
        for attempt in range(1, step.options.retry.attempts + 1):
            fresh_key = self.breaks == "one key per step" and attempt > 1
            key = f"{line.id}/{step.name}/{attempt if fresh_key else 1}"
            context = TaskContext(idempotency_key=key, fencing_token=next(self.tokens))
            try:
                return await step(*arguments, context), unknown, ""
            except TerminalError as error:
                return None, unknown, str(error)
            except ConnectionError:
                continue
            except TimedOut:
                unknown = True
            except Crash:
                unknown = True
                SERVICE_OF[step.name].close()
                SERVICE_OF[step.name].open(self.folder)
        return None, unknown, "too many attempts"

    async def _undo(self, step: Task[..., Any], line: OrderLine, order: Order, done: Any) -> None:
        assert step.compensator is not None
        context = CompensationContext(
            idempotency_key=f"{line.id}/{step.compensator.name}",
            fencing_token=next(self.tokens),
            step=CompensatedStepContext(f"{line.id}/{step.name}/1", step.name),
            outcome="COMPLETED" if done else "UNKNOWN",
        )
        await step.compensator(order, done, context)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(delay_s: float) -> None:
        if delay_s >= services.HANG_S:
            raise TimedOut

    def leave(code: int) -> None:
        raise Crash

    monkeypatch.setattr("services.asyncio.sleep", sleep)
    monkeypatch.setattr("services.os._exit", leave)
    monkeypatch.setattr("books.os.fsync", lambda descriptor: None)


async def run_orders(folder: Path, breaks: str = "") -> Report:
    orders = make_orders()
    write_orders(folder / "orders.jsonl", orders)
    for service in SERVICE_OF.values():
        service.open(folder)
    try:
        runner = SagaRunner(folder, breaks)
        for order in orders:
            await runner.run(order)
    finally:
        for service in SERVICE_OF.values():
            service.close()
    write_executions(folder, runner.executions)
    return audit(read_evidence(folder))


@pytest.mark.usefixtures("no_waiting")
async def test_who_keeps_the_rules_has_a_clean_audit(tmp_path: Path) -> None:
    report = await run_orders(tmp_path)
    assert report.violations == []
    assert report.shipped + report.compensated == 300
    assert report.shipped > 200
    # Three crashes after the charge, twelve silent carriers, and six that never answer three times.
    assert report.repeated == 3 + 12 + 6 * 2
    assert report.nothing_owed >= 12


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("breaks", "kinds"),
    [
        ("one key per step", {"DOUBLE EFFECT", "SECOND KEY"}),
        ("undo everything", {"NOT UNDONE", "STOCK"}),
        ("undo in reverse", {"UNDO ORDER"}),
        ("undo what is unknown", {"NOT UNDONE", "MONEY"}),
    ],
)
async def test_who_breaks_a_rule_is_found_out(tmp_path: Path, breaks: str, kinds: set[str]) -> None:
    report = await run_orders(tmp_path, breaks)
    assert kinds <= {violation.kind for violation in report.violations}


def test_the_saga_is_reserve_charge_and_at_last_ship_the_pivot() -> None:
    document = json.loads(order_saga.to_json())
    steps = [(task["name"], task["compensateWith"]["name"], task.get("pivot", False)) for task in document["tasks"]]
    assert steps == [("reserve", "release", False), ("charge", "refund", False), ("ship", "recall", True)]


def test_a_hanging_carrier_hangs_for_longer_than_the_task_may_take() -> None:
    assert services.HANG_S * 1000 > (ship.options.timeout_ms or 0) > 0
    assert asyncio.iscoroutinefunction(ship.function)
