"""The shop: several clients that start orders at a steady pace and wait for the end of each.

An order counts from its acknowledgement: from then on the cluster may not lose it, whatever dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from clock import Stopwatch
from order_file import OrderLine
from orders import Order, order_saga
from scoreboard import Scoreboard

from orchestrator_client import Client, Run

CLIENTS = 2
# Of all clients together. A pause of the cluster is measured by the gaps between a client's starts, so to within 0.3 s.
STARTS_PER_S = 7.0
IN_FLIGHT_MAX = 64
# How long a call goes on through changes of the leader.
CALL_DEADLINE_S = 60.0


def workflow_id(order: OrderLine) -> str:
    return f"order-{order.id}"


class Shop:
    def __init__(
        self, orders: Sequence[OrderLine], endpoints: list[str], board: Scoreboard, stopwatch: Stopwatch
    ) -> None:
        self._orders = orders
        self._endpoints = endpoints
        self._board = board
        self._stopwatch = stopwatch
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        # Orders that were not yet acknowledged, and those that were and have not ended.
        self.unacknowledged = {order.id for order in orders}
        self.unfinished: set[str] = set()

    async def sell(self) -> None:
        """Returns when every order has ended."""
        numbered = list(enumerate(self._orders))
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(f"client-{number + 1}", numbered[number::CLIENTS]))

    def waits_for(self) -> str:
        unfinished = ", ".join(sorted(self.unfinished)) or "none"
        return f"{len(self.unacknowledged)} orders not yet acknowledged; not yet ended: {unfinished}"

    async def _client(self, name: str, orders: Sequence[tuple[int, OrderLine]]) -> None:
        async with Client(self._endpoints, deadline_s=CALL_DEADLINE_S) as client, asyncio.TaskGroup() as ends:
            for number, order in orders:
                # By the clock, not by the answer before: after a pause of the cluster the shop catches up.
                await asyncio.sleep(max(0.0, number / STARTS_PER_S - self._stopwatch.s))
                await self._room.acquire()
                run = await client.start(
                    order_saga,
                    Order(order.id, order.sku, order.quantity, order.amount_cents),
                    id=workflow_id(order),
                    if_exists="return",
                )
                self._board.acknowledged(self._stopwatch.s, name)
                self.unacknowledged.discard(order.id)
                self.unfinished.add(order.id)
                ends.create_task(self._see_off(run, order))

    async def _see_off(self, run: Run, order: OrderLine) -> None:
        execution = await run.wait()
        self._room.release()
        self.unfinished.discard(order.id)
        self._board.finished(shipped=execution.status == "COMPLETED")
