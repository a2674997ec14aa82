"""The workflows that take the shop's orders over, one service after the other, and what handles the events for them."""

from __future__ import annotations

from typing import Any

from shop_buses import Bus
from shop_services import EVENTS, PAID, PAYING, PLACED, SENT, WATCHED, WHOLE, Books, Event

from orchestrator_client import Task, Workflow, task

DAY_MS = 86_400_000


class Tasks:
    """What the workflows call: the same work that the services do when they hear of an order."""

    def __init__(self, books: Books, bus: Bus) -> None:
        @task
        async def charge(order: str) -> None:
            books.once("charge", order)

        @charge.compensation
        async def refund(order: str) -> None:
            books.once("refund", order)

        @task
        async def ship(order: str) -> None:
            books.once("ship", order)

        @task
        async def tell(event: str, order: str, flow: str) -> None:
            await bus.say(Event(event, order, "workflow", flow))

        self.charge: Task[Any, Any] = charge
        self.ship: Task[Any, Any] = ship
        self.tell: Task[Any, Any] = tell
        self.all = [charge, ship, tell]


def watched() -> Workflow:
    """Waits for the events that the services send anyway, each for its order; they may come before it waits."""
    flow = Workflow("order_watched", timeout_ms=DAY_MS)
    flow.wait(event=PAID, correlation_key=flow.input.order, ref="paid")
    flow.wait(event=SENT, correlation_key=flow.input.order, ref="sent")
    return flow


def paying(tasks: Tasks, bus: Bus) -> Workflow:
    """Calls one service, and tells those that still wait for its event."""
    flow = Workflow("order_paying", timeout_ms=DAY_MS)
    flow.step(tasks.charge, flow.input.order)
    bus.told_by(flow, PAID, PAYING, tasks.tell)
    flow.wait(event=SENT, correlation_key=flow.input.order, ref="sent")
    return flow


def whole(tasks: Tasks, bus: Bus) -> Workflow:
    """Calls all of them; who only listens is still told."""
    flow = Workflow("order_whole", timeout_ms=DAY_MS)
    flow.step(tasks.charge, flow.input.order)
    flow.step(tasks.ship, flow.input.order, pivot=True)
    bus.told_by(flow, SENT, WHOLE, tasks.tell)
    return flow


def followers(prefix: str) -> list[dict[str, Any]]:
    """What makes every event of the services visible, and nothing else."""
    record = {"action": "record", "record": {"correlationId": "${order}", "service": "${by}"}}
    return [
        {"name": f"follow_{event}", "event": prefix + event, "active": True, "actions": [record]} for event in EVENTS
    ]


def leaders(prefix: str) -> list[dict[str, Any]]:
    """What starts the workflow that an order names, and gives it the events that it waits for."""
    start = {"name": "order_${flow}", "correlationId": "${order}", "input": {"order": "${order}"}}
    return [
        {
            "name": "start_order", "event": prefix + PLACED, "active": True, "condition": "$.flow !== 'choreographed'",
            "actions": [{"action": "start_workflow", "start_workflow": start}],
        },
        _giver(prefix, PAID, WATCHED),
        _giver(prefix, SENT, WATCHED, PAYING),
    ]


def _giver(prefix: str, event: str, *flows: str) -> dict[str, Any]:
    """`flows`: those whose workflows wait for it. For others it would be kept for a day, and nobody would come."""
    given = {"event": event, "correlationKey": "${order}", "output": {"by": "${by}"}}
    return {
        "name": f"give_{event}", "event": prefix + event, "active": True,
        "condition": f"[{', '.join(repr(flow) for flow in flows)}].includes($.flow)",
        "actions": [{"action": "correlate", "correlate": given}],
    }
