"""Two ways in which the services' events get about: streams of Redis, and, where there is none, this process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from shop_services import SERVICES, Books, Event

from orchestrator_client import Client, Task, Workflow


class RedisBus:
    """A stream for each event, called like it, which each service reads as a group of consumers of its own.

    The cluster reads the same streams and writes to them: nothing of the services is known to it, nor it to them.
    """

    prefix = "redis:"

    def __init__(self, url: str, books: Books) -> None:
        import redis.asyncio  # the only part of the example that needs it  # noqa: PLC0415

        self._redis: Any = redis.asyncio.from_url(url, decode_responses=True)
        self._books = books

    async def say(self, event: Event) -> None:
        payload = {"order": event.order, "by": event.by, "flow": event.flow}
        await self._redis.xadd(event.name, {"event_id": event.id, "payload": json.dumps(payload)})

    def told_by(self, flow: Workflow, event: str, called: str, tell: Task[Any, Any]) -> None:
        flow.event(f"redis:{event}", ref=_reference(event), order=flow.input.order, by="workflow", flow=called)

    async def run(self) -> None:
        """Until it is cancelled."""
        for name, (hears, _) in SERVICES.items():
            await self._redis.xgroup_create(hears, name, id="0", mkstream=True)
        try:
            async with asyncio.TaskGroup() as all_of_them:
                for name in SERVICES:
                    all_of_them.create_task(self._serve(name))
        finally:
            await self._redis.aclose()

    async def _serve(self, name: str) -> None:
        hears, service = SERVICES[name]
        while True:
            for _, entries in await self._redis.xreadgroup(name, "1", {hears: ">"}, block=200):
                for entry_id, fields in entries:
                    said = json.loads(fields["payload"])
                    answer = service(self._books, Event(hears, said["order"], said["by"], said["flow"]))
                    if answer is not None:
                        await self.say(answer)
                    await self._redis.xack(hears, name, entry_id)


class LocalBus:
    """The services are functions of this process, and the cluster is told of each event by a call."""

    prefix = ""

    def __init__(self, client: Client, books: Books) -> None:
        self._client = client
        self._books = books
        self._said: asyncio.Queue[Event] = asyncio.Queue()

    async def say(self, event: Event) -> None:
        payload = {"order": event.order, "by": event.by, "flow": event.flow}
        await self._client.events.publish(event.name, payload, message_id=event.id)
        await self._said.put(event)

    def told_by(self, flow: Workflow, event: str, called: str, tell: Task[Any, Any]) -> None:
        flow.step(tell, event, flow.input.order, called, ref=_reference(event))

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            heard = await self._said.get()
            for hears, service in SERVICES.values():
                answer = service(self._books, heard) if hears == heard.name else None
                if answer is not None:
                    await self.say(answer)


def _reference(event: str) -> str:
    return f"tell_{event.partition('.')[0]}"


Bus = RedisBus | LocalBus
