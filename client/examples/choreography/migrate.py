"""A choreographed flow comes under orchestration, one service at a time: client/MIGRATING.md, step by step.

    python client/examples/choreography/migrate.py localhost:7400
    python client/examples/choreography/migrate.py localhost:7400 redis://localhost:6379

The second: where the nodes have the same Redis, in `redis_endpoints`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator

from shop_buses import Bus, LocalBus, RedisBus
from shop_flows import Tasks, followers, leaders, paying, watched, whole
from shop_services import CHOREOGRAPHED, PAYING, PLACED, SENT, WATCHED, WHOLE, Books, Event

from orchestrator_client import TLS, Client, TrailEntry, TrailEntryKind, Worker

PATIENCE_S = 60


class Shop:
    def __init__(self, client: Client, bus: Bus, books: Books, tasks: Tasks) -> None:
        self.client = client
        self.bus = bus
        self.books = books
        self.tasks = tasks
        self._day = uuid.uuid4().hex[:8]  # orders have ids of their own, however often this runs

    async def follow(self) -> None:
        """1. Nothing changes but that everything is seen."""
        for document in followers(self.bus.prefix):
            await self.client.events.put_handler(document)

    async def wait_along(self) -> None:
        """2. A workflow waits for what the services do by themselves: it knows how far an order is."""
        await self.client.register(watched())
        for document in leaders(self.bus.prefix):
            await self.client.events.put_handler(document)

    async def call_one(self) -> None:
        """3. The orchestrator calls payment; shipping and mail hear the events that they know."""
        await self.client.register(paying(self.tasks, self.bus))

    async def call_all(self) -> None:
        """4. It calls shipping, too. Mail is none of its business."""
        await self.client.register(whole(self.tasks, self.bus))

    async def order(self, flow: str, number: int) -> list[TrailEntry]:
        """Places an order that is led like this; what is known of it once it is done."""
        order = f"order-{self._day}-{number}"
        await self.bus.say(Event(PLACED, order, "shop", flow))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                trail = [entry async for entry in self.client.events.trail(order)]
                if self._is_done(order, trail, flow):
                    return trail
                await asyncio.sleep(0.1)

    def _is_done(self, order: str, trail: list[TrailEntry], flow: str) -> bool:
        kinds = [entry.kind for entry in trail]
        is_led = flow != CHOREOGRAPHED
        is_told = any(entry.event == self.bus.prefix + SENT for entry in trail)
        return ("mail", order) in self.books.entries and is_told and is_led == (TrailEntryKind.WORKFLOW_ENDED in kinds)


@contextlib.asynccontextmanager
async def opened(endpoints: str, redis_url: str = "") -> AsyncIterator[Shop]:
    shown = os.environ.get("ORCHESTRATOR_TOKEN_FILE")
    async with Client(endpoints, tls=TLS.from_environment(), token_file=shown) as client:
        books = Books()
        bus: Bus = RedisBus(redis_url, books) if redis_url else LocalBus(client, books)
        tasks = Tasks(books, bus)
        worker = Worker(client, tasks=tasks.all)
        running = [asyncio.create_task(worker.run()), asyncio.create_task(bus.run())]
        try:
            yield Shop(client, bus, books, tasks)
        finally:
            running[1].cancel()
            await worker.stop()
            await asyncio.gather(*running, return_exceptions=True)


def shown(entry: TrailEntry) -> str:
    who = entry.source or entry.handler or f"workflow {entry.workflow}"
    return f"    {entry.kind:<16} {entry.event or entry.workflow:<20} {who:<22} {entry.action}".rstrip()


async def main(endpoints: str, redis_url: str = "") -> None:
    async with opened(endpoints, redis_url) as shop:
        steps = [
            ("follow", shop.follow, CHOREOGRAPHED), ("wait along", shop.wait_along, WATCHED),
            ("call payment", shop.call_one, PAYING), ("call all", shop.call_all, WHOLE),
        ]
        for number, (title, take, flow) in enumerate(steps, 1):
            await take()
            print(f"{number}. {title}")
            print("\n".join(shown(entry) for entry in await shop.order(flow, number)))
        print("Back by one step, side by side with the others: the next order says so, and that is all.")
        await asyncio.gather(shop.order(PAYING, 5), shop.order(CHOREOGRAPHED, 6), shop.order(WHOLE, 7))
        print(f"{len(shop.books.entries)} entries in the books, three for each of seven orders")


if __name__ == "__main__":
    asyncio.run(main(*(sys.argv[1:] or ["localhost:7400"])))
