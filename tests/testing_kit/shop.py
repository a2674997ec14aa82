"""A saga to test: three steps, of which the last one is its pivot, and compensations of the first two."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator_client import CompensationContext, Retry, TaskContext, Workflow, task


@dataclass
class Order:
    id: str
    cents: int


@dataclass
class Charge:
    receipt: str


@task
async def reserve(order: Order) -> str:
    return f"reservation of {order.id}"


@reserve.compensation
async def release(order: Order, done: str | None) -> None:
    """Nothing to do here."""


@task(timeout_ms=10_000, retry=Retry.exponential(first_ms=200, max_ms=5_000, attempts=5))
async def charge(order: Order, ctx: TaskContext) -> Charge:
    return Charge(f"receipt {ctx.idempotency_key}")


@charge.compensation
async def refund(order: Order, done: Charge | None, ctx: CompensationContext) -> None:
    """Nothing to do here."""


@task
def ship(order: Order, receipt: str) -> str:
    return f"tracking {order.id}"


saga = Workflow("order", input=Order)
saga.step(reserve, saga.input)
paid = saga.step(charge, saga.input)
sent = saga.step(ship, saga.input, paid.receipt, pivot=True)
saga.returns(tracking=sent)

ORDER = Order("17", 1200)
