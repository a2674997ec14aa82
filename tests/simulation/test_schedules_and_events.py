"""Leaders are lost again and again, in virtual time: each time of a schedule runs once, each action is done once."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.engine.model import Table
from orchestrator.integrations.work import Ended, Executor, Kind, Outcome, Work
from orchestrator.services import scheduler
from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.simulation.cluster import Member
from tests.simulation.failover import KINDS, Drive, QuietCluster
from tests.simulation.people import Person, Space
from tests.simulation.run import repeatable, simulating

LOSSES = 6
READ_SECONDS = 10.0
NOTE = {
    "name": "note", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "n", "taskReferenceName": "n", "type": "NOOP"}],
}
NAP = {
    "name": "nap", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "n", "taskReferenceName": "n", "type": "WAIT", "inputParameters": {"duration": "300ms"}}],
}
BEATS = {
    "every": {"startWorkflowRequest": {"name": "note"}},
    "behind": {"startWorkflowRequest": {"name": "nap"}, "jitterMs": 100},
}


class Odd:
    """Evaluates every condition to whether `n` is odd."""

    async def execute(self, work: Work) -> Outcome:
        await asyncio.sleep(0.01)
        odd = json.loads(work.input)["n"] % 2 == 1
        return Outcome(ended=Ended.COMPLETED, output=json.dumps({"result": odd}).encode())

    async def close(self) -> None:
        pass


def evaluators(config: Any, surroundings: Any) -> dict[str, Executor]:
    return {Kind.SCRIPT: Odd()}


class Evaluators(QuietCluster):
    """Only leaders evaluate: nodes take no system work."""

    def __init__(self, seed: int, scratch: Path) -> None:
        super().__init__(seed, 3, scratch, verbose=False)
        for member in self.members.values():
            member.machine.executors = evaluators

    @staticmethod
    def _small(dice: Random) -> dict[str, int]:
        return {"script_slots": 0}


class Owner(Person):
    """Has two schedules of every second, and publishes events as long as it is not told to stop."""

    # Less than an election takes, so that requests are given up and made again, as others.
    patience_seconds = 0.2

    def __init__(self, cluster: QuietCluster) -> None:
        self.published: list[str] = []
        self.acknowledged: list[str] = []
        self.stopped = False
        self.is_publishing = False
        self.executions: dict[str, dict[str, Any]] = {}
        super().__init__(cluster, "owner", Space("default", [NOTE, NAP], ["note", "nap"]))

    async def live(self) -> None:
        client = await self.client
        await client.register(NOTE, NAP)
        for name, more in BEATS.items():
            await self._until_done(client.schedules.put, {
                "name": name, "cronExpression": "* * * * * *", "runCatchupScheduleInstances": True, **more,
            })
        start = {"action": "start_workflow", "start_workflow": {"name": "note", "input": {"n": "${n}"}}}
        for name, condition in (("plain", None), ("odd", "$.n % 2")):
            await self._until_done(client.events.put_handler, {
                "name": name, "event": "tick", "active": True, "actions": [start], "condition": condition,
            })
        number = 0
        while not self.stopped:
            number += 1
            self.published.append(str(number))
            # Asked again with the same message id, whatever became of the request before.
            self.is_publishing = True
            await self._until_done(lambda n: client.events.publish("tick", {"n": n}, message_id=str(n)), number)
            self.is_publishing = False
            self.acknowledged.append(str(number))
            await asyncio.sleep(self.dice.uniform(0.05, 0.3))

    async def _until_done(self, call: Any, argument: Any) -> None:
        while True:
            try:
                await call(argument)
            except errors.ClusterError as error:
                self.cluster.watcher.trace(self.name, f"again: {error!r}")
            else:
                return

    async def read(self) -> None:
        """Everything that was started, by id."""
        client: Client = await self.client
        client.connection.deadline_s = READ_SECONDS
        self.executions = {}
        async for found in client.search(page_size=500):
            execution = await client.get(found.workflow_id)
            self.executions[found.workflow_id] = {"status": execution.status, **execution.input}


class Story:
    def __init__(self, cluster: QuietCluster, kind: str) -> None:
        self.cluster, self.kind = cluster, kind
        self.drive = Drive(cluster)
        self.dice = cluster.dice("story")
        self.bounds: dict[str, tuple[int, int]] = {}

    def run(self) -> Owner:
        cluster, drive = self.cluster, self.drive
        drive.do(lambda: [member.start() for member in cluster.members.values()])
        drive.until(lambda: cluster.ready, "the cluster forms")
        owner: Owner = drive.do(lambda: Owner(cluster))
        drive.until(lambda: len(owner.acknowledged) > 2, "somebody is answered")
        for number in range(LOSSES):
            drive.advance(self.dice.uniform(0.2, 1.2))
            drive.until(lambda: cluster.ready, "all nodes serve")
            if number % 2:
                drive.until(lambda: owner.is_publishing, "an event is under way")
            else:
                drive.until(self._is_full_second, "a schedule runs")
            # Between any two entries, and in the midst of one.
            drive.advance(self.dice.uniform(0, 0.02))
            leader = cluster.leading()
            assert leader is not None
            self._lose(leader)
        owner.stopped = True
        drive.until(owner.life.done, "the last event is published")
        drive.until(lambda: cluster.ready, "all nodes serve")
        drive.advance(3.0)
        self.bounds = {name: self._times(name) for name in BEATS}
        reading = drive.do(lambda: owner.machine.spawn(owner.read(), "read"))
        drive.until(reading.done, "everything is read")
        assert not cluster.watcher.violations, cluster.watcher.violations
        return owner

    def _is_full_second(self) -> bool:
        leader = self.cluster.leading()
        return leader is not None and leader.node is not None and leader.node._log_clock.peek_ms() % 1000 < 5

    def _lose(self, leader: Member) -> None:
        end = self.drive.do(lambda: self.cluster.loop.create_task(KINDS[self.kind](self.cluster, leader)))
        self.drive.until(end.done, "the loss ends")

    def _times(self, name: str) -> tuple[int, int]:
        """(the first time that the schedule could have, the last that it has covered)."""
        leader = self.cluster.leading()
        assert leader is not None and leader.node is not None
        row = leader.node._machine().state.resident[Table.SCHEDULE]["default", name]
        return -(-(row.created_ms + 1) // 1000) * 1000, row.covered_ms


@dataclass
class Told:
    """What is left of a run: executions by id, and the first and last time of each schedule."""

    executions: dict[str, dict[str, Any]]
    bounds: dict[str, tuple[int, int]]
    published: list[str]
    acknowledged: list[str]


def played(seed: int, kind: str) -> Told:
    with simulating(verbose=False) as scratch:
        told = _played(Evaluators(seed, scratch), kind)
        # Tasks that were cut off end here, where nobody listens.
        gc.collect()
    return told


def _played(cluster: Evaluators, kind: str) -> Told:
    with repeatable(cluster):
        story = Story(cluster, kind)
        owner = story.run()
        return Told(owner.executions, story.bounds, owner.published, owner.acknowledged)


@pytest.fixture(autouse=True)
def few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few are armed that leaders are lost while a schedule waits for more."""
    monkeypatch.setattr(scheduler, "TIMES_ARMED", 2)
    monkeypatch.setattr(scheduler, "REFILL_BELOW", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_time_and_each_action_takes_effect_once(kind: str) -> None:
    for seed in range(2):
        told = played(seed, kind)
        given = told.executions.values()
        for name, (first, last) in told.bounds.items():
            times = Counter(each["_scheduledTime"] for each in given if each.get("_startedByScheduler") == name)
            assert last - first > 5_000
            expected = dict.fromkeys(range(first, last + 1, 1000), 1)
            # More may have come while everything was read.
            assert {time_ms: times[time_ms] for time_ms in expected} == expected, f"{kind}, seed {seed}, {name}"
            assert max(times.values()) == 1
        done = Counter(each["n"] for each in given if "n" in each)
        assert told.acknowledged == told.published and len(told.published) > 10
        assert done == {int(n): 1 + int(n) % 2 for n in told.published}, f"{kind}, seed {seed}"
