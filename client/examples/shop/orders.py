"""An order: goods are reserved, the card is charged, a parcel is sent; and how each of these is undone.

`test_orders.py` beside this file tries it under every kill of the leader.
"""

from __future__ import annotations

from dataclasses import dataclass

from services import Carrier, Declined, Psp, Warehouse

from orchestrator_client import CompensationContext, Retry, TaskContext, TerminalError, Workflow, task

warehouse, psp, carrier = Warehouse(), Psp(), Carrier()


@dataclass
class Order:
    id: str
    sku: str
    quantity: int
    amount_cents: int


@dataclass
class Charge:
    receipt: str


@dataclass
class Parcel:
    tracking: str


@task
async def reserve(order: Order, ctx: TaskContext) -> None:
    await warehouse.take(order.sku, order.quantity, key=ctx.idempotency_key)


@reserve.compensation
async def release(order: Order, ctx: CompensationContext) -> None:
    await warehouse.give_back(taken_key=ctx.step.idempotency_key)


@task(timeout_ms=10_000, retry=Retry.exponential(first_ms=200, max_ms=5_000, attempts=5))
async def charge(order: Order, ctx: TaskContext) -> Charge:
    try:
        return Charge(await psp.charge(order.amount_cents, key=ctx.idempotency_key))
    except Declined as error:
        raise TerminalError("CARD_DECLINED", str(error)) from error  # no retry; the saga turns round


@charge.compensation  # done is None: outcome unknown, may never have happened
async def refund(order: Order, done: Charge | None, ctx: CompensationContext) -> None:
    await psp.refund(charge_key=ctx.step.idempotency_key)  # the key of the step being undone


@task
async def ship(order: Order, receipt: str, ctx: TaskContext) -> Parcel:
    return Parcel(await carrier.send(order.id, receipt, key=ctx.idempotency_key))


order_saga = Workflow("order", version=1, input=Order)
order_saga.step(reserve, order_saga.input)
paid = order_saga.step(charge, order_saga.input)
sent = order_saga.step(ship, order_saga.input, paid.receipt, pivot=True)
order_saga.returns(tracking=sent.tracking)
