"""What was kept for long enough goes, found in a real database and purged by the real state machine."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.codec.rows import HASH_MODULUS, encode_row, row_hash
from orchestrator.engine import limits
from orchestrator.engine.choices import DeleteEffects
from orchestrator.engine.commands import AnyCommand, DeleteWorkflow, PurgeExecutions, SetRetention
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, Done
from orchestrator.replication.errors import NotLeader
from orchestrator.services import retention
from orchestrator.services.retention import SETTLED_MS, Retainer
from orchestrator.storage.database import Database
from orchestrator.storage.ended import EndedExecutions
from orchestrator.storage.flusher import Flusher, FlusherSettings
from orchestrator.storage.reading import content_hash
from orchestrator.storage.search import ExecutionFilter, search_executions
from tests.engine.driver import Driver, simple, workflow
from tests.engine.test_steps import all_rows

DAY_MS = 86_400_000
BIG = b'{"v":"' + b"x" * 100_000 + b'"}'


class Bench:
    """One node's state and database, and the leader's service over them."""

    def __init__(self, database: Database, flusher: Flusher) -> None:
        self.driver = Driver()
        self.database = database
        self.flusher = flusher
        self.proposed: list[PurgeExecutions] = []
        self.oldest: list[float] = []
        self.retainer = Retainer(
            self.submit, self.machine, lambda: self.driver.now_ms, EndedExecutions(database), self.settle,
            self.oldest.append,
        )
        self.driver.worker("s", "a", slots=9)
        self.register("order")

    def machine(self) -> Machine:
        return self.driver.machine

    async def submit(self, command: AnyCommand) -> AnyResult:
        assert isinstance(command, PurgeExecutions)
        self.proposed.append(command)
        self.driver.now_ms += 1
        return self.driver.do(command)

    async def settle(self) -> None:
        """Everything that is applied is in the database."""
        self.driver.index += 1
        chain = self.driver.machine.chain
        self.flusher.stage(self.driver.state.take_changes(), self.driver.index, 1, b"", chain)
        await self.flusher.drain()

    def register(self, name: str, **fields: Any) -> None:
        self.driver.register(workflow(name, simple("a"), **fields))

    def run(self, *ids: str, name: str = "order", given: bytes = b"{}") -> None:
        """Each to its end, a second after the other."""
        for workflow_id in ids:
            self.driver.start(name, workflow_id, given)
            self.driver.wait(1_000)
            self.driver.give("a", given, workflow_id=workflow_id)

    async def purge(self) -> list[str]:
        """As the service does until it finds nothing more; answers what is left."""
        await self.settle()
        while await self.retainer.round():
            await self.settle()
        await self.settle()
        return self.kept()

    def kept(self) -> list[str]:
        return [key[1] for key in self.driver.state.hot_keys()]


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(retention, "PACE_SECONDS", 0.0)
    database = Database.open(tmp_path / "state.db", cluster_id="c")
    failures: list[BaseException] = []

    async def durable(index: int) -> None:
        return None

    flusher = Flusher(
        database, durable_index=lambda: 1 << 60, wait_durable=durable, on_flushed=lambda index: None,
        on_fatal=failures.append, settings=FlusherSettings(interval_ms=0, gap_ms=0),
    )
    flusher.start()
    yield Bench(database, flusher)
    assert not failures
    await flusher.close()
    await database.close()


def ids(count: int, prefix: str = "w") -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


# --- by age


async def test_what_ended_long_enough_ago_goes(bench: Bench) -> None:
    bench.driver.ok(SetRetention(DAY_MS, 0, 0))
    bench.run("old1", "old2")
    bench.driver.wait(DAY_MS)
    bench.run("new")
    bench.driver.start("order", "live")
    assert await bench.purge() == ["live", "new", "old1", "old2"]
    bench.driver.wait(SETTLED_MS)
    assert await bench.purge() == ["live", "new"]
    found = await search_executions(bench.database, ExecutionFilter("default"))
    assert [each.workflow_id for each in found.executions] == ["live", "new"]


async def test_a_definition_says_otherwise_for_its_executions(bench: Bench) -> None:
    bench.driver.ok(SetRetention(DAY_MS, 0, 0))
    bench.register("long", retentionSeconds=30 * 86_400)
    bench.register("short", retentionSeconds=60)
    bench.run("l1", name="long")
    bench.run("o1")
    bench.run("s1", name="short")
    assert await bench.purge() == ["l1", "o1", "s1"]
    bench.driver.wait(60_000 + SETTLED_MS)
    assert await bench.purge() == ["l1", "o1"]
    bench.driver.wait(DAY_MS)
    assert await bench.purge() == ["l1"]
    bench.driver.wait(29 * DAY_MS)
    assert await bench.purge() == []
    assert not bench.driver.state.resident[Table.BUNDLE]


async def test_without_a_limit_everything_stays(bench: Bench) -> None:
    bench.driver.ok(SetRetention(0, 0, 0))
    bench.run(*ids(3))
    bench.driver.wait(1000 * DAY_MS)
    assert len(await bench.purge()) == 3


async def test_a_shorter_policy_counts_for_what_has_ended_before(bench: Bench) -> None:
    bench.run(*ids(3))
    bench.driver.wait(DAY_MS)
    assert len(await bench.purge()) == 3
    bench.driver.ok(SetRetention(DAY_MS // 2, 0, 0))
    assert await bench.purge() == []


async def test_pages_follow_each_other_and_nothing_is_proposed_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    bench.driver.ok(SetRetention(1, 0, 0))
    bench.register("own", retentionSeconds=1)
    bench.run(*ids(5))
    bench.run(*ids(5, "o"), name="own")
    bench.driver.wait(SETTLED_MS + 1_000)
    await bench.settle()
    while await bench.retainer.round():
        pass
    assert bench.kept() == []
    proposed = [item.workflow_id for command in bench.proposed for item in command.items]
    assert sorted(proposed) == sorted(ids(5) + ids(5, "o"))


async def test_what_has_not_gone_is_looked_for_again_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.driver.ok(SetRetention(1, 0, 0))
    bench.run(*ids(2))
    bench.driver.wait(SETTLED_MS + 1)

    async def lost(command: AnyCommand) -> AnyResult:
        bench.proposed.append(command)  # type: ignore[arg-type]  # it proposes nothing else
        return Done()

    with monkeypatch.context() as patched:
        patched.setattr(bench.retainer, "_submit", lost)
        assert len(await bench.purge()) == 2
    assert len(await bench.purge()) == 2
    assert len(bench.proposed) == 1
    monkeypatch.setattr(retention, "RESCAN_SECONDS", -1.0)
    assert await bench.purge() == []


# --- by count


async def test_the_newest_of_each_name_stay(bench: Bench) -> None:
    bench.driver.ok(SetRetention(0, 2, 0))
    bench.register("other")
    bench.register("more", retentionCount=3)
    for name, prefix in (("order", "o"), ("other", "x"), ("more", "m")):
        bench.run(*ids(5, prefix), name=name)
        bench.driver.start(name, f"{prefix}-live")
    assert await bench.purge() == [
        "m-live", "m002", "m003", "m004", "o-live", "o003", "o004", "x-live", "x003", "x004",
    ]


async def test_one_that_was_promised_more_stays_although_the_newest_says_less(bench: Bench) -> None:
    bench.driver.ok(SetRetention(0, 0, 0))
    bench.register("order", retentionCount=4)
    bench.run(*ids(3, "a"))
    bench.register("order", retentionCount=1)
    bench.run(*ids(3, "b"))
    assert await bench.purge() == ["a002", "b002"]


async def test_more_than_a_page_of_a_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE", 3)
    monkeypatch.setattr(retention, "PAGES_PER_NAME", 2)
    bench.driver.ok(SetRetention(0, 1, 0))
    bench.run(*ids(20))
    for _ in range(6):
        await bench.purge()
    assert bench.kept() == ["w019"]


async def test_of_many_names_a_few_are_looked_at_in_each_round(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "NAMES_PER_ROUND", 2)
    bench.driver.ok(SetRetention(0, 1, 0))
    for name in ("n1", "n2", "n3", "n4", "n5"):
        bench.register(name)
        bench.run(f"{name}-old", f"{name}-new", name=name)
    await bench.settle()
    for left in (8, 6, 5, 5):
        await bench.retainer.round()
        await bench.settle()
        assert len(bench.kept()) == left


# --- by room


async def test_the_oldest_go_until_the_database_fits(bench: Bench) -> None:
    bench.register("long", retentionSeconds=30 * 86_400)
    bench.run(*ids(5), name="long", given=BIG)
    bench.run(*ids(20, "x"), given=BIG)
    await bench.settle()
    before = bench.retainer._ended.used_bytes
    assert before > 25 * 200_000
    most = before // 2
    bench.driver.ok(SetRetention(0, 0, most))
    kept = await bench.purge()
    assert most * 0.8 < bench.retainer._ended.used_bytes <= most
    # The oldest, whatever their definition says, and none in between.
    assert kept == ids(20, "x")[-len(kept):]
    assert 10 <= len(kept) <= 13


async def test_what_is_left_is_live_and_nothing_is_tried_for_ever(bench: Bench) -> None:
    bench.driver.ok(SetRetention(0, 0, 1))
    bench.run(*ids(3))
    bench.driver.start("order", "live", BIG)
    bench.driver.wait(1)
    assert await bench.purge() == ["live"]
    before = len(bench.proposed)
    assert not await bench.retainer.round()
    assert len(bench.proposed) == before


async def test_the_pages_of_what_has_gone_are_used_again(bench: Bench) -> None:
    """A steady load of starts and purges does not make the file grow."""
    bench.driver.ok(SetRetention(SETTLED_MS, 0, 0))
    sizes = []
    for turn in range(12):
        bench.run(*ids(20, f"t{turn}-"), given=BIG)
        await bench.purge()
        sizes.append(bench.database.file_bytes)
    assert len(bench.kept()) < 30
    assert max(sizes[4:]) <= 1.05 * sizes[3]


# --- how


async def test_commands_are_of_few_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_COMMAND", 10)
    monkeypatch.setattr(limits, "ROWS_REMOVED_PER_STEP", 4)
    bench.driver.ok(SetRetention(1, 0, 0))
    bench.run(*ids(6), given=BIG)
    bench.driver.wait(SETTLED_MS + 1)
    assert await bench.purge() == []
    assert len(bench.proposed) > 1
    assert sum(len(command.items) for command in bench.proposed) == 6


async def test_one_that_is_being_deleted_is_not_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.driver.ok(SetRetention(1, 1, 1))
    bench.run(*ids(2), given=BIG)
    bench.driver.wait(SETTLED_MS)
    bench.driver.index += 1
    bench.driver.machine.begin_entry(bench.driver.index, 1, bench.driver.now_ms)
    for workflow_id in ids(2):
        bench.driver.machine.apply(DeleteWorkflow("default", workflow_id, DeleteEffects.KEEP))
    bench.driver.machine.end_entry(b"")
    await bench.settle()
    assert not await bench.retainer.round()
    for wanted in (ExecutionFilter("default"), ExecutionFilter("default", name="order"),
                   ExecutionFilter("default", ended_from_ms=0)):
        assert not (await search_executions(bench.database, wanted)).executions


async def test_the_age_of_the_oldest_is_told(bench: Bench) -> None:
    await bench.purge()
    bench.run("w")
    bench.driver.wait(60_000)
    await bench.purge()
    assert bench.oldest == [0.0, 60.0]


async def test_it_ends_when_this_node_leads_no_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.driver.ok(SetRetention(1, 0, 0))
    bench.run("w")
    bench.driver.wait(SETTLED_MS + 1)
    await bench.settle()

    async def refuse(command: AnyCommand) -> AnyResult:
        raise NotLeader("n2")

    monkeypatch.setattr(bench.retainer, "_submit", refuse)
    monkeypatch.setattr(retention, "ROUND_SECONDS", 0.0)
    with pytest.raises(NotLeader):
        async with asyncio.timeout(30):
            await bench.retainer.run()


async def test_the_database_holds_what_is_left_and_nothing_else(bench: Bench) -> None:
    """Whatever is started, deleted and started again between two flushes; told by its hash, kept up and by a scan."""
    rng = random.Random(5)
    bench.driver.ok(SetRetention(1, 0, 0))
    for turn in range(30):
        for workflow_id in rng.sample(ids(8), 4):
            given = rng.choice((b"{}", BIG))
            if bench.driver.is_gone(workflow_id):
                bench.run(workflow_id, given=given)
            else:
                bench.driver.wait(1)
                bench.driver.ok(DeleteWorkflow("default", workflow_id, DeleteEffects.KEEP))
        if turn % 3 == 2:
            await bench.purge()
        elif rng.random() < 0.7:
            await bench.settle()
    await bench.settle()
    scanned = await bench.database.search(content_hash)
    assert scanned == bench.database.applied().content_hash
    state = bench.driver.state
    left = {mark: encode_row(state.read(*mark)) for mark in all_rows(state)}
    assert scanned == sum(row_hash(*mark, data) for mark, data in left.items()) % HASH_MODULUS
    assert 0 < len(bench.kept()) < 8
