"""Wakes those who wait: for a change of an execution, or for an attempt to be queued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from orchestrator.engine.effects import AnyEffect, ExecutionChanged, ExecutionDeleted, QueueOpened, TaskQueued
from orchestrator.services.ports import Performs, perform

QueueKey = tuple[str, str, str]
"""(namespace, domain, task name)"""

_Topic = tuple[str, ...]
_LEADERSHIP: _Topic = ("leadership",)


class Watcher(Protocol):
    """An event, or what else is to be told."""

    def set(self) -> None: ...


class Notifier:
    """One watcher per waiter; changes that follow each other closely are seen as one."""

    def __init__(self) -> None:
        self._watchers: dict[_Topic, dict[Watcher, None]] = {}
        self.performs: Performs = {
            ExecutionChanged: self._execution_changed,
            ExecutionDeleted: self._execution_changed,
            TaskQueued: self._queue_changed,
            QueueOpened: self._queue_changed,
        }

    def perform(self, effect: AnyEffect) -> None:
        """Wakes the waiters that the effect concerns."""
        perform(self, effect)

    def _execution_changed(self, effect: ExecutionChanged | ExecutionDeleted) -> None:
        self._wake(("execution", effect.namespace, effect.workflow_id))

    def _queue_changed(self, effect: TaskQueued | QueueOpened) -> None:
        self._wake(("queue", effect.namespace, effect.domain, effect.name))

    def wake_all(self) -> None:
        """Leadership has changed: every waiter looks again."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()

    def watch_execution(self, namespace: str, workflow_id: str, watcher: Watcher) -> None:
        """Until `unwatch_execution` the watcher is set in the turn of each change, and must not do much then."""
        self._add(("execution", namespace, workflow_id), watcher)

    def unwatch_execution(self, namespace: str, workflow_id: str, watcher: Watcher) -> None:
        self._remove(("execution", namespace, workflow_id), watcher)

    def watch_leadership(self, watcher: Watcher) -> None:
        """The watcher is set when this node leads no longer."""
        self._add(_LEADERSHIP, watcher)

    def unwatch_leadership(self, watcher: Watcher) -> None:
        self._remove(_LEADERSHIP, watcher)

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
            self._add(topic, event)
        try:
            yield event
        finally:
            for topic in topics:
                self._remove(topic, event)

    def _add(self, topic: _Topic, watcher: Watcher) -> None:
        self._watchers.setdefault(topic, {})[watcher] = None

    def _remove(self, topic: _Topic, watcher: Watcher) -> None:
        watchers = self._watchers[topic]
        del watchers[watcher]
        if not watchers:
            del self._watchers[topic]

    def _wake(self, topic: _Topic) -> None:
        for watcher in self._watchers.get(topic, ()):
            watcher.set()
