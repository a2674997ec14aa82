"""Waiters wake for what they wait for, and leave nothing behind."""

from __future__ import annotations

from orchestrator.engine.effects import ExecutionChanged, TaskQueued
from orchestrator.services.notifier import Notifier


def queued(name: str, domain: str = "", namespace: str = "default") -> TaskQueued:
    return TaskQueued(1, namespace, domain, name, 0)


async def test_a_change_wakes_all_who_wait_for_that_execution_and_nobody_else() -> None:
    notifier = Notifier()
    async with (
        notifier.execution("default", "w1") as first,
        notifier.execution("default", "w1") as second,
        notifier.execution("default", "w2") as other,
        notifier.execution("elsewhere", "w1") as elsewhere,
    ):
        notifier.perform(ExecutionChanged("default", "w1", terminal=False))
        assert [event.is_set() for event in (first, second, other, elsewhere)] == [True, True, False, False]


async def test_a_poller_wakes_for_each_of_its_queues() -> None:
    notifier = Notifier()
    keys = [("default", "", "pay"), ("default", "", "ship"), ("default", "", "pay")]
    async with notifier.queues(keys) as event:
        for effect, wakes in (
            (queued("pay"), True), (queued("ship"), True), (queued("pack"), False), (queued("pay", "eu"), False),
            (queued("pay", namespace="elsewhere"), False),
        ):
            event.clear()
            notifier.perform(effect)
            assert event.is_set() is wakes, effect


async def test_a_change_of_leadership_wakes_everybody() -> None:
    notifier = Notifier()
    async with notifier.execution("default", "w1") as waiter, notifier.queues([("default", "", "pay")]) as poller:
        notifier.wake_all()
        assert waiter.is_set() and poller.is_set()


async def test_who_waits_no_longer_is_forgotten() -> None:
    notifier = Notifier()
    async with notifier.execution("default", "w1"), notifier.queues([("default", "", "pay")]):
        async with notifier.execution("default", "w1"):
            assert len(notifier._watchers) == 2
        assert len(notifier._watchers) == 2
    assert notifier._watchers == {}
    notifier.perform(queued("pay"))
