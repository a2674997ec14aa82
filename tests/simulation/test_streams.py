"""Redis and the leader are lost in turn, in virtual time: each event that comes in takes effect once, and each one that
goes out is written, in order."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.model import Table
from orchestrator.testing.loop import Process
from orchestrator.world import World
from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.simulation.cluster import Member, WatchedNode
from tests.simulation.failover import KINDS, LOST_SECONDS, Drive, QuietCluster
from tests.simulation.people import Person, Space
from tests.simulation.redis_server import RedisServer, ServerLink, told
from tests.simulation.run import repeatable, simulating

TURNS = 8
READ_SECONDS = 10.0
HOUR_MS = 3_600_000
IN, OUT, DEAD = "in", "out", "in:dead-letters"
NOTE = {
    "name": "note", "version": 1, "schemaVersion": 2,
    "tasks": [
        {"name": name, "taskReferenceName": name, "type": "EVENT", "sink": f"redis:{OUT}",
         "inputParameters": {"n": "${workflow.input.n}"}}
        for name in ("first", "second")
    ],
}
# So many in a row, of which one in a few comes twice, and one in a few is none.
DOUBLED, BROKEN = 3, 7


class StreamedCluster(QuietCluster):
    """All nodes have the same Redis."""

    def __init__(self, seed: int, scratch: Path) -> None:
        super().__init__(seed, 3, scratch, verbose=False)
        self.redis = RedisServer(self.loop, self.dice("redis"))
        for member in self.members.values():
            self._connect(member)

    def _connect(self, member: Member) -> None:
        member.config = dataclasses.replace(member.config, redis_endpoints="redis:6379")
        dice = self.dice(f"link of {member.name}")

        def make_node(world: World) -> WatchedNode:
            def link(settings: Any, **others: Any) -> Any:
                return ServerLink(self.redis, member.name, dice)

            return WatchedNode(member, dataclasses.replace(world, redis=link))

        member.make_node = make_node  # type: ignore[method-assign]  # of one member


class Owner(Person):
    """Has a handler of the stream, and knows afterwards what it has started."""

    def __init__(self, cluster: StreamedCluster) -> None:
        self.is_ready = False
        self.executions: dict[str, dict[str, Any]] = {}
        super().__init__(cluster, "owner", Space("default", [NOTE], ["note"]))

    async def live(self) -> None:
        client = await self.client
        # The nodes raise the level by themselves.
        await self._until_done(client.register, NOTE)
        start = {"action": "start_workflow", "start_workflow": {"name": "note", "input": {"n": "${n}"}}}
        await self._until_done(client.events.put_handler, {
            "name": "plain", "event": f"redis:{IN}", "active": True, "actions": [start],
        })
        self.is_ready = True

    async def _until_done(self, call: Any, argument: Any) -> None:
        while True:
            try:
                await call(argument)
            except (errors.ClusterError, errors.OrchestratorError) as error:
                self.cluster.watcher.trace(self.name, f"again: {error!r}")
                await asyncio.sleep(0.1)
            else:
                return

    async def read(self) -> None:
        """Everything that was started, by id."""
        client: Client = await self.client
        client.connection.deadline_s = READ_SECONDS
        async for found in client.search(page_size=500):
            execution = await client.get(found.workflow_id)
            self.executions[found.workflow_id] = {"status": execution.status, **execution.input}


class Shop:
    """Writes events to the stream, and keeps what it has written: after a loss it writes all of it again."""

    def __init__(self, cluster: StreamedCluster) -> None:
        self.redis, self.dice = cluster.redis, cluster.dice("shop")
        self.published: list[int] = []
        self.stopped = False
        self._life = cluster.redis.life
        process = Process("shop")
        self.living = cluster.loop.spawn(process, self._live(), "shop")

    async def _live(self) -> None:
        number = 0
        while not self.stopped:
            await asyncio.sleep(self.dice.choice((0.0, 0.002, 0.02, 0.2)))
            if self.redis.is_up:
                number += 1
                self._write(number)
                self.published.append(number)
                if self.dice.randrange(DOUBLED) == 0:
                    self._write(self.dice.choice(self.published))

    def write_again(self) -> None:
        for number in self.dice.sample(self.published, len(self.published)):
            self._write(number)

    def _write(self, number: int) -> None:
        payload = json.dumps({"n": number}) if number % BROKEN else "no JSON"
        self.redis.add(IN, {"event_id": f"e{number}".encode(), "payload": payload.encode()})


class Story:
    def __init__(self, cluster: StreamedCluster, kind: str) -> None:
        self.cluster, self.kind = cluster, kind
        self.drive = Drive(cluster)
        self.dice = cluster.dice("story")
        self.copy = cluster.redis.copy()

    def run(self) -> Told:
        cluster, drive = self.cluster, self.drive
        drive.do(lambda: [member.start() for member in cluster.members.values()])
        drive.until(lambda: cluster.ready, "the cluster forms")
        owner: Owner = drive.do(lambda: Owner(cluster))
        drive.until(lambda: owner.is_ready, "the stream has a handler")
        shop: Shop = drive.do(lambda: Shop(cluster))
        for turn in range(TURNS):
            drive.until(lambda: cluster.ready, "all nodes serve")
            drive.advance(self.dice.uniform(0.1, 0.5))
            if self.dice.random() < 0.5:
                drive.until(self._is_under_way, "entries were read, and not acknowledged")
                drive.advance(self.dice.uniform(0, 0.02))
            leader = cluster.leading()
            assert leader is not None
            if self.dice.random() < 0.3:
                self.copy = cluster.redis.copy()
            if turn % 2:
                self._lose_redis(leader, shop)
            else:
                self._lose(leader)
        shop.stopped = True
        drive.until(shop.living.done, "the shop is closed")
        drive.until(lambda: cluster.ready, "all nodes serve")
        drive.until(self._is_done, "all entries are taken up, and all events are written")
        reading = drive.do(lambda: owner.machine.spawn(owner.read(), "read"))
        drive.until(reading.done, "everything is read")
        assert not cluster.watcher.violations, cluster.watcher.violations
        return Told(owner.executions, shop.published, cluster.redis.written)

    def _is_under_way(self) -> bool:
        stream = self.cluster.redis.streams.get(IN)
        return stream is not None and any(group.pending for group in stream.groups.values())

    def _lose(self, leader: Member) -> None:
        end = self.drive.do(lambda: self.cluster.loop.create_task(KINDS[self.kind](self.cluster, leader)))
        self.drive.until(end.done, "the loss ends")

    def _lose_redis(self, leader: Member, shop: Shop) -> None:
        redis = self.cluster.redis
        # Where its data is lost the shop writes all again, and would make good what somebody else has lost.
        losses = ("without its data", "from an older copy") if self.cluster.seed % 2 else ()
        how = self.dice.choice(("killed", "cut off", *losses))
        self.cluster.watcher.trace("FAULT", f"Redis is {how}")
        if how == "cut off":
            redis.cut.add(leader.name)
        else:
            redis.kill()
        self.drive.advance(self.dice.uniform(0.1, LOST_SECONDS))
        redis.cut.clear()
        if how == "without its data":
            # On another machine, maybe, whose clock is another.
            redis.start({}, clock_ms=self.dice.choice((0, -HOUR_MS)))
            shop.write_again()
        elif how == "from an older copy":
            redis.start(self.copy)
            self.copy = redis.copy()
            shop.write_again()
        elif how == "killed":
            redis.start()

    def _is_done(self) -> bool:
        leader = self.cluster.leading()
        if leader is None or leader.node is None:
            return False
        state = leader.node._machine().state
        row = state.resident[Table.STREAM].get(("default", f"redis:{IN}"))
        read = row is not None and row.cursor == told(self.cluster.redis.streams[IN].last).decode()
        return read and not state.resident[Table.EVENT] and not state.triggers.owed.count


@dataclass
class Told:
    """What is left of a run: executions by id, what was published, and everything that Redis ever took."""

    executions: dict[str, dict[str, Any]]
    published: list[int]
    written: list[tuple[str, dict[str, bytes]]]


def played(seed: int, kind: str) -> Told:
    with simulating(verbose=False) as scratch:
        told = _played(StreamedCluster(seed, scratch), kind)
        # Tasks that were cut off end here, where nobody listens.
        gc.collect()
    return told


def _played(cluster: StreamedCluster, kind: str) -> Told:
    with repeatable(cluster):
        return Story(cluster, kind).run()


# Redis loses its data where the seed is odd.
@pytest.mark.parametrize(("kind", "seed"), [("kill", 0), ("kill", 1), ("pause", 0), ("partition", 1)])
def test_each_event_takes_effect_once_and_what_goes_out_is_written(kind: str, seed: int) -> None:
    told = played(seed, kind)
    good = [number for number in told.published if number % BROKEN]
    assert len(good) > 20
    done = Counter(each["n"] for each in told.executions.values())
    assert done == dict.fromkeys(good, 1)
    dead = {fields["event_id"].partition(b"/")[0] for stream, fields in told.written if stream == DEAD}
    assert dead == {f"e{number}".encode() for number in told.published if number % BROKEN == 0}
    _is_written_in_order(told)


def _is_written_in_order(told: Told) -> None:
    """At least once each, with one id: so whoever drops repeats has the events of a workflow in their order."""
    events: dict[str, dict[bytes, bytes]] = {}  # by workflow: names by id, in the order of their first time
    for stream, fields in told.written:
        if stream == OUT:
            events.setdefault(fields["workflow_id"].decode(), {}).setdefault(fields["event_id"], fields["event"])
    assert events.keys() == told.executions.keys()
    assert {tuple(names.values()) for names in events.values()} == {(b"first", b"second")}


class Starter(Owner):
    """Goes on starting workflows that publish, whatever becomes of Redis."""

    async def start(self, workflow_id: str) -> Any:
        run = await (await self.client).start("note", {"n": 0}, id=workflow_id)
        await run.result()


@pytest.mark.long
def test_nothing_is_lost_while_redis_is_away_for_an_hour() -> None:
    with simulating(verbose=False) as scratch:
        cluster = StreamedCluster(7, scratch)
        with repeatable(cluster):
            _an_hour_without_redis(cluster)
        gc.collect()


def _an_hour_without_redis(cluster: StreamedCluster) -> None:
    drive = Drive(cluster)
    drive.do(lambda: [member.start() for member in cluster.members.values()])
    drive.until(lambda: cluster.ready, "the cluster forms")
    starter: Starter = drive.do(lambda: Starter(cluster))
    drive.until(lambda: starter.is_ready, "the workflow is registered")
    cluster.redis.kill()
    killed = cluster.loop.now
    started = 0
    for quarter in range(4):
        for _ in range(25):
            started += 1
            running = drive.do(lambda number=started: starter.machine.spawn(starter.start(f"w{number}"), "starts"))  # type: ignore[misc]  # run now
            drive.until(running.done, "the workflow completes without Redis")
            running.result()
        leader = cluster.leading()
        assert leader is not None and leader.node is not None
        state = leader.node._machine().state
        oldest = state.triggers.owed.oldest(OUT)
        assert state.triggers.owed.count_of(OUT) == 2 * started and oldest is not None and oldest.workflow_id == "w1"
        if quarter == 1:
            drive.do(leader.machine.kill)
            drive.until(lambda gone=leader: cluster.leading(other_than=gone) is not None, "another one leads")  # type: ignore[misc]  # run now
            drive.do(leader.start)
        drive.advance(max(0.0, killed + (quarter + 1) * HOUR_MS / 4000 - cluster.loop.now))
    cluster.redis.start()

    def is_written() -> bool:
        leader = cluster.leading()
        return leader is not None and leader.node is not None and not leader.node._machine().state.triggers.owed.count

    drive.until(is_written, "everything that was owed is written")
    written = [(fields["workflow_id"].decode(), fields["event"].decode(), fields["event_id"])
               for stream, fields in cluster.redis.written if stream == OUT]
    assert [each[:2] for each in dict.fromkeys(written)] == [
        (f"w{number}", name) for number in range(1, started + 1) for name in ("first", "second")
    ]
    assert len({each[2] for each in written}) == 2 * started
    assert not cluster.watcher.violations, cluster.watcher.violations
