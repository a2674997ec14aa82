"""The two buses of workflows and those they talk to, told alike: inside the cluster, and streams of a real Redis."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import redis

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, EventRun, EventRunState, Execution, Run
from tests.cluster.workload import eventually

Json = dict[str, Any]
END = "end"
_numbers = itertools.count()


def action(kind: str, **parameters: Any) -> Json:
    return {"action": kind, kind: parameters}


def event_task(reference: str, sink: str, **inputs: Any) -> Json:
    return {"name": reference, "taskReferenceName": reference, "type": "EVENT", "sink": sink, "inputParameters": inputs}


def wait_task(reference: str, **inputs: Any) -> Json:
    return {"name": reference, "taskReferenceName": reference, "type": "WAIT", "inputParameters": inputs}


class Collected:
    """What a handler has seen of its events, in the order in which it has."""

    def __init__(self, bus: Bus, word: str, workflow_id: str) -> None:
        self._bus = bus
        self._word = word
        self._workflow_id = workflow_id

    async def now(self) -> list[Any]:
        execution = await self._bus.client.get(self._workflow_id)
        found: list[Any] = execution.variables.get("seen", [])
        return found

    async def until(self, value: Any) -> list[Any]:
        """All up to and with the first such value."""
        async def found() -> list[Any]:
            seen = await self.now()
            return seen if value in seen else []

        seen = await eventually(found, f"{value!r} to be seen of {self._word}")
        return seen[:seen.index(value) + 1]

    async def all(self) -> list[Any]:
        """All of what was published to this name before; nothing is behind what is published now."""
        await self._bus.publish(self._word, {"n": END})
        return (await self.until(END))[:-1]


class Bus(ABC):
    """One of a test's own: its names are nobody else's. `word` is what the test calls an event."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.tag = str(next(_numbers))
        # Whose events are meant where nobody else is named.
        self.workflow = self.named("flow")

    def named(self, word: str) -> str:
        return f"{word}-{self.tag}"

    @abstractmethod
    def sink(self, word: str) -> str:
        """Of an EVENT task or a listener."""

    @abstractmethod
    def event(self, word: str, workflow: str = "") -> str:
        """What handlers handle of it, if `workflow` or one of this name publishes it."""

    @abstractmethod
    async def publish(self, word: str, payload: Mapping[str, Any], event_id: str = "") -> None:
        """From outside, as somebody who is no workflow."""

    @abstractmethod
    async def failures(self, word: str, count: int) -> list[str]:
        """The reasons of so many failures, as those are told who look after them."""

    async def handler(self, word: str, *actions: Json, name: str = "", active: bool = True, **fields: Any) -> str:
        """Puts a handler; answers its name."""
        name = self.named(name or f"on-{word}")
        await self.client.events.put_handler(
            {"name": name, "event": self.event(word), "active": active, "actions": list(actions), **fields})
        return name

    async def collect(self, word: str, value: str = "${n}", *, name: str = "", **fields: Any) -> Collected:
        """A handler that keeps what it sees, in order."""
        name = name or f"collect-{word}"
        workflow_id = self.named(name)
        await self.client.start({"name": "collects", "tasks": [wait_task("ever", signal="never")]}, id=workflow_id)
        seen = {"workflowId": workflow_id, "variables": {"seen": [value]}, "appendArray": True}
        await self.handler(word, action("update_workflow_variables", **seen), name=name, **fields)
        return Collected(self, word, workflow_id)

    async def start(self, *tasks: Json, id: str = "", input: Any = None, **fields: Any) -> Run:
        """An execution of `workflow`, of these tasks."""
        return await self.client.start(
            {"name": self.workflow, "tasks": list(tasks), **fields}, input, id=id and self.named(id))

    async def runs(self, word: str, state: EventRunState | None = None) -> list[EventRun]:
        """What actions came to, the oldest first."""
        found = [run async for run in self.client.events.runs(event=self.event(word))]
        return [run for run in reversed(found) if state is None or run.state is state]

    async def started(self, name: str, count: int) -> list[Execution]:
        """Executions of the name, of which there will be so many; the oldest first."""
        async def found() -> list[Execution]:
            executions = [each async for each in self.client.search(name=name, full=True)]
            return executions if len(executions) >= count else []

        return list(reversed(await eventually(found, f"{count} executions of {name}")))


class EmbeddedBus(Bus):
    """Without Redis: events go from workflow to workflow, and come through the API."""

    def sink(self, word: str) -> str:
        return f"conductor:{word}"

    def event(self, word: str, workflow: str = "") -> str:
        return f"conductor:{workflow or self.workflow}:{word}"

    async def publish(self, word: str, payload: Mapping[str, Any], event_id: str = "") -> None:
        await self.client.events.publish(self.event(word), payload, message_id=event_id)

    async def failures(self, word: str, count: int) -> list[str]:
        async def found() -> list[EventRun]:
            runs = await self.runs(word, EventRunState.FAILED)
            return runs if len(runs) >= count else []

        return [run.reason for run in await eventually(found, f"{count} failures of {word}")]


class RedisBus(Bus):
    """Each word is a stream."""

    def __init__(self, client: Client, server: redis.Redis) -> None:
        super().__init__(client)
        self.server = server

    def stream(self, word: str) -> str:
        return self.named(word)

    def sink(self, word: str) -> str:
        return f"redis:{self.stream(word)}"

    def event(self, word: str, workflow: str = "") -> str:
        return f"redis:{self.stream(word)}"

    async def publish(self, word: str, payload: Mapping[str, Any], event_id: str = "") -> None:
        self.add(word, payload=json.dumps(payload), **({"event_id": event_id} if event_id else {}))

    def add(self, word: str, **fields: str) -> str:
        """An entry as it is said, whatever that is; answers its id."""
        return str(self.server.xadd(self.stream(word), fields))

    async def failures(self, word: str, count: int) -> list[str]:
        return [entry["reason"] for entry in await self.entries(f"{self.stream(word)}:dead-letters", count)]

    async def entries(self, stream: str, count: int) -> list[dict[str, str]]:
        """Those of a stream in which there will be so many."""
        def found() -> list[Any]:
            entries = self.server.xrange(stream)
            return entries if len(entries) >= count else []

        return [fields for _, fields in await eventually(found, f"{count} entries in the stream {stream}")]


@asynccontextmanager
async def bus_of(cluster: LocalCluster, server: redis.Redis | None) -> AsyncIterator[Bus]:
    """Of a cluster that has no Redis, or this one."""
    async with Client(cluster.endpoints) as client:
        yield EmbeddedBus(client) if server is None else RedisBus(client, server)
