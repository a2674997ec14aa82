"""What waits for workers, over the wire, and who takes it."""

from __future__ import annotations

from typing import Any

from orchestrator.engine import commands
from orchestrator.rpc import poll_data
from orchestrator.rpc.poll_data import PollData
from orchestrator_api.v1 import workers_pb2 as pb
from tests.rpc.bench import Bench, Stubs, soon, until


async def queues(stubs: Stubs, *names: str) -> dict[tuple[str, str], pb.TaskQueue]:
    reply = await stubs.workers.ListTaskQueues(pb.ListTaskQueuesRequest(task_names=names))
    return {(queue.name, queue.domain): queue for queue in reply.queues}


async def poll(stubs: Stubs, *names: str, **fields: Any) -> pb.PollTasksResponse:
    return await stubs.workers.PollTasks(pb.PollTasksRequest(**{"worker_id": "p", "task_names": names, **fields}))


async def test_what_waits_and_what_is_with_workers_is_counted(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    for number in range(3):
        bench.start(f"w{number}")
    await poll(stubs, "pay")
    bench.driver.now_ms += 5_000
    bench.driver.ok(commands.Continue())
    queue = (await queues(stubs))["pay", ""]
    assert (queue.ready, queue.leased, queue.oldest_ready_age_ms) == (2, 1, 5_000)
    assert not queue.held_back


async def test_limits_and_what_they_hold_back_are_told(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    bench.driver.register_task(
        name="pay", concurrentExecLimit=2, rateLimitPerFrequency=1, rateLimitFrequencyInSeconds=60
    )
    for number in range(2):
        bench.start(f"w{number}")
    assert not (await queues(stubs))["pay", ""].held_back
    await poll(stubs, "pay")
    queue = (await queues(stubs))["pay", ""]
    limits = (queue.concurrent_limit, queue.rate_limit, queue.rate_window_ms, queue.handed_out_in_window)
    assert limits == (2, 1, 60_000, 1)
    assert queue.held_back


async def test_workers_are_those_with_sessions_and_those_that_polled(bench: Bench, stubs: Stubs) -> None:
    bench.driver.worker("s", "pay", "ship", slots=3, domain="eu")
    await poll(stubs, "pay", domain="eu", worker_id="poller")
    found = await queues(stubs)
    assert sorted(found) == [("pay", "eu"), ("ship", "eu")]
    session, poller = found["pay", "eu"].workers
    assert (session.worker_id, session.slots, session.used) == ("worker-s", 3, 0)
    assert (poller.worker_id, poller.slots) == ("poller", 0)
    assert found["pay", "eu"].worker_count == 2
    assert sorted(await queues(stubs, "ship", "other")) == [("ship", "eu")]


async def test_a_queue_is_called_as_conductor_calls_it(bench: Bench, stubs: Stubs) -> None:
    """[domain:]task[@executionNameSpace][-isolationGroupId]; its limits are those of its task, whose name finds it."""
    bench.order("pay")
    bench.driver.register_task(name="pay", executionNameSpace="eu", isolationGroupId="gold", concurrentExecLimit=1)
    for number in range(2):
        bench.start(f"w{number}", task_to_domain=(("pay", "d"),))
    [assigned] = (await poll(stubs, "pay@eu-gold", domain="d")).assignments
    assert (assigned.name, assigned.queue) == ("pay", "pay@eu-gold")
    [queue] = (await queues(stubs, "pay")).values()
    assert (queue.queue, queue.name, queue.domain) == ("d:pay@eu-gold", "pay@eu-gold", "d")
    assert (queue.ready, queue.leased, queue.concurrent_limit, queue.held_back) == (1, 1, 1, True)
    assert [worker.worker_id for worker in queue.workers] == ["p"]
    assert sorted(await queues(stubs, "pay@eu-gold")) == [("pay@eu-gold", "d")]


async def test_other_namespaces_are_not_shown(bench: Bench, stubs: Stubs) -> None:
    await poll(stubs, "pay", namespace="other")
    assert not await queues(stubs)


async def test_that_a_domain_is_polled_is_noted_from_time_to_time(bench: Bench, stubs: Stubs) -> None:
    for _ in range(3):
        await poll(stubs, "pay", domain="eu")
    assert bench.submitted == [commands.NotePollers("default", "eu", ("pay",))]
    await poll(stubs, "ship", domain="eu")
    assert len(bench.submitted) == 2


async def test_polls_without_a_domain_are_not(bench: Bench, stubs: Stubs) -> None:
    await poll(stubs, "pay")
    assert not bench.submitted


async def test_who_waits_for_long_is_noted_again(bench: Bench, stubs: Stubs, monkeypatch: Any) -> None:
    """A poll may wait for a minute: its domain is served all the time."""
    monkeypatch.setattr("orchestrator.engine.limits.POLLS_NOTED_MS", 1)
    monkeypatch.setattr("orchestrator.rpc.workers.LEADERSHIP_CHECK_SECONDS", 0.02)
    bench.order("pay")
    waiting = stubs.workers.PollTasks(
        pb.PollTasksRequest(worker_id="p", task_names=["pay"], domain="eu", wait_ms=60_000)
    )
    await until("several notes", lambda: len(bench.submitted) > 3)
    waiting.cancel()


async def test_the_memory_of_polls_is_bounded(monkeypatch: Any) -> None:
    noted: list[commands.NotePollers] = []
    now = 0.0

    async def note(command: commands.NotePollers) -> None:
        noted.append(command)

    monkeypatch.setattr(poll_data, "_QUEUES_MAX", 3)
    monkeypatch.setattr(poll_data, "_WORKERS_MAX", 2)
    polls = PollData(note, lambda: now)

    def polled(worker: str, *names: str) -> commands.PollTasks:
        return commands.PollTasks("s", "default", "eu", worker, names, 1)

    for number in range(5):
        await soon("a poll", polls.seen(polled(f"w{number}", "a")))
        await soon("a poll", polls.seen(polled("w", f"t{number}")))
    # Forgotten are those that nobody has polled for the longest time.
    assert sorted(name for _, _, name in polls.queues("default")) == ["a", "t3", "t4"]
    assert list(polls.of(("default", "eu", "a"))) == ["w3", "w4"]
    for number in range(5):
        await soon("a poll", polls.seen(polled(f"w{number}", "t4")))
    assert list(polls.of(("default", "eu", "t4"))) == ["w3", "w4"]
    now = poll_data.REMEMBERED_SECONDS
    assert not polls.queues("default")
