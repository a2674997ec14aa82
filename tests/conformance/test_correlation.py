"""What both buses promise of an event that is awaited by its key: it is given to one task, whichever is first."""

from __future__ import annotations

from orchestrator_client import Run
from tests.cluster.workload import eventually
from tests.conformance.buses import Bus, action, wait_task

PATIENCE_S = 60


async def correlate(bus: Bus) -> None:
    given = {"event": bus.named("payment"), "correlationKey": "${order}", "output": {"n": "${n}"}}
    await bus.handler("paid", action("correlate", **given))


async def waiting(bus: Bus, order: str) -> Run:
    run = await bus.start(
        wait_task("pays", event=bus.named("payment"), correlationKey=order), outputParameters={"n": "${pays.output.n}"})

    async def begun() -> bool:
        return [task.status for task in (await run.get(tasks=True)).tasks] == ["IN_PROGRESS"]

    await eventually(begun, f"{run.workflow_id} to wait for {order}")
    return run


async def paid(run: Run) -> int:
    execution = await run.wait(PATIENCE_S)
    assert execution.status == "COMPLETED"
    return int(execution.output["n"])


async def test_an_event_finds_the_task_that_waits_for_its_key(bus: Bus) -> None:
    await correlate(bus)
    one, other = await waiting(bus, "o-1"), await waiting(bus, "o-2")
    await bus.publish("paid", {"order": "o-2", "n": 2})
    assert await paid(other) == 2
    assert (await one.get()).status == "RUNNING"
    await bus.publish("paid", {"order": "o-1", "n": 1})
    assert await paid(one) == 1


async def test_an_event_that_comes_first_is_kept_for_the_task(bus: Bus) -> None:
    await correlate(bus)
    seen = await bus.collect("paid")
    await bus.publish("paid", {"order": "o-1", "n": 1})
    assert await seen.until(1)
    run = await bus.start(wait_task("pays", event=bus.named("payment"), correlationKey="o-1"),
                          outputParameters={"n": "${pays.output.n}"})
    assert await paid(run) == 1


async def test_several_events_are_given_in_the_order_in_which_tasks_have_waited(bus: Bus) -> None:
    await correlate(bus)
    runs = [await waiting(bus, "o-1") for _ in range(3)]
    for n in range(3):
        await bus.publish("paid", {"order": "o-1", "n": n})
    assert [await paid(run) for run in runs] == [0, 1, 2]


async def test_several_events_that_come_first_are_taken_in_their_order_and_once_each(bus: Bus) -> None:
    await correlate(bus)
    seen = await bus.collect("paid")
    for n, event_id in enumerate(("a", "b", "a")):
        await bus.publish("paid", {"order": "o-1", "n": n}, event_id)
    assert await seen.all() == [0, 1]
    pays = [wait_task(f"pays_{n}", event=bus.named("payment"), correlationKey="o-1") for n in range(3)]
    run = await bus.start(*pays, outputParameters={"n": ["${pays_0.output.n}", "${pays_1.output.n}"]}, id="takes")

    async def third() -> bool:
        return [task.status for task in (await run.get(tasks=True)).tasks] == ["COMPLETED", "COMPLETED", "IN_PROGRESS"]

    await eventually(third, "the third task to wait")
    await bus.publish("paid", {"order": "o-1", "n": 3})
    execution = await run.wait(PATIENCE_S)
    assert execution.output["n"] == [0, 1]
