"""Wakes those who wait: for a change of an execution, or for an attempt to be queued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.engine.effects import AnyEffect, ExecutionChanged, ExecutionDeleted, QueueOpened, TaskQueued

QueueKey = tuple[str, str, str]
"""(namespace, domain, task name)"""

_Topic = tuple[str, ...]


class Notifier:
    """One event per waiter; changes that follow each other closely are seen as one."""

    def __init__(self) -> None:
        self._events: dict[_Topic, dict[asyncio.Event, None]] = {}

    def perform(self, effect: AnyEffect) -> None:
        """Wakes the waiters that the effect concerns."""
        match effect:
            case ExecutionChanged() | ExecutionDeleted():
                self._wake(("execution", effect.namespace, effect.workflow_id))
            case TaskQueued(namespace=namespace, domain=domain, name=name) | QueueOpened(
                namespace=namespace, domain=domain, name=name
            ):
                self._wake(("queue", namespace, domain, name))
            case _:
                pass

    def wake_all(self) -> None:
        """Leadership has changed: every waiter looks again."""
        for events in self._events.values():
            for event in events:
                event.set()

    @asynccontextmanager
    async def execution(
        self, namespace: str, workflow_id: str, event: asyncio.Event | None = None
    ) -> AsyncIterator[asyncio.Event]:
        """An event, which may be the caller's, that is set after each change of the execution."""
        async with self._subscribed([("execution", namespace, workflow_id)], event) as subscribed:
            yield subscribed

    @asynccontextmanager
    async def queues(self, keys: list[QueueKey]) -> AsyncIterator[asyncio.Event]:
        """An event that is set when an attempt is queued in one of these, or its limit holds it back no longer."""
        async with self._subscribed([("queue", *key) for key in keys]) as event:
            yield event

    @asynccontextmanager
    async def _subscribed(
        self, topics: list[_Topic], event: asyncio.Event | None = None
    ) -> AsyncIterator[asyncio.Event]:
        event = event or asyncio.Event()
        topics = list(dict.fromkeys(topics))
        for topic in topics:
            self._events.setdefault(topic, {})[event] = None
        try:
            yield event
        finally:
            for topic in topics:
                events = self._events[topic]
                del events[event]
                if not events:
                    del self._events[topic]

    def _wake(self, topic: _Topic) -> None:
        for event in self._events.get(topic, ()):
            event.set()
