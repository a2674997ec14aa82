"""The order saga: reserve the goods, charge the card, ship. Whatever fails, what was done is undone.

Each step passes on its idempotency key and its fencing token, so that a service can tell a repeated call from a new
one and an overtaken attempt from the current one. Each compensation names the key of the step that it undoes.
"""

from __future__ import annotations

from dataclasses import dataclass

from books import Refused
from services import inventory, payment, shipping

from orchestrator_client import CompensationContext, Retry, TaskContext, TerminalError, Workflow, task

PATIENCE = Retry.exponential(first_ms=200, max_ms=2_000, attempts=6)
# A carrier that does not answer three times is given up.
LITTLE_PATIENCE = Retry.exponential(first_ms=200, max_ms=2_000, attempts=3)
UNDO_PATIENCE = Retry.exponential(first_ms=200, max_ms=2_000, attempts=20)


@dataclass
class Order:
    id: str
    sku: str
    quantity: int
    amount_cents: int


@dataclass
class Reservation:
    shelf: str


@dataclass
class Charge:
    receipt: str


@dataclass
class Shipment:
    tracking: str


@task(timeout_ms=3_000, retry=PATIENCE)
async def reserve(order: Order, ctx: TaskContext) -> Reservation:
    try:
        shelf = await inventory.reserve(
            order.id, order.sku, order.quantity, key=ctx.idempotency_key, token=ctx.fencing_token
        )
    except Refused as refused:
        raise TerminalError("OUT_OF_STOCK", str(refused)) from refused  # no retry; the saga turns round
    return Reservation(shelf)


@reserve.compensation(retry=UNDO_PATIENCE)  # done is None: outcome unknown, may never have happened
async def release(order: Order, done: Reservation | None, ctx: CompensationContext) -> None:
    await inventory.release(
        order.id, key=ctx.idempotency_key, token=ctx.fencing_token, reserve_key=ctx.step.idempotency_key
    )


@task(timeout_ms=3_000, retry=PATIENCE)
async def charge(order: Order, ctx: TaskContext) -> Charge:
    try:
        receipt = await payment.charge(order.id, order.amount_cents, key=ctx.idempotency_key, token=ctx.fencing_token)
    except Refused as refused:
        raise TerminalError("CARD_DECLINED", str(refused)) from refused
    return Charge(receipt)


@charge.compensation(retry=UNDO_PATIENCE)
async def refund(order: Order, done: Charge | None, ctx: CompensationContext) -> None:
    await payment.refund(
        order.id, key=ctx.idempotency_key, token=ctx.fencing_token, charge_key=ctx.step.idempotency_key
    )


@task(timeout_ms=3_000, retry=LITTLE_PATIENCE)
async def ship(order: Order, receipt: str, ctx: TaskContext) -> Shipment:
    try:
        tracking = await shipping.ship(
            order.id, order.sku, order.quantity, receipt, key=ctx.idempotency_key, token=ctx.fencing_token
        )
    except Refused as refused:
        raise TerminalError("NO_TRUCKS", str(refused)) from refused
    return Shipment(tracking)


# Runs only if nobody knows whether the parcel was taken: once ship has completed, there is no way back.
@ship.compensation(retry=UNDO_PATIENCE)
async def recall(order: Order, done: Shipment | None, ctx: CompensationContext) -> None:
    await shipping.recall(order.id, key=ctx.idempotency_key, token=ctx.fencing_token, ship_key=ctx.step.idempotency_key)


order_saga = Workflow("order", version=1, input=Order)
order_saga.step(reserve, order_saga.input)
paid = order_saga.step(charge, order_saga.input)
sent = order_saga.step(ship, order_saga.input, paid.receipt, pivot=True)
order_saga.returns(tracking=sent.tracking)
