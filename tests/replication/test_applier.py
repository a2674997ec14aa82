"""Entries are applied in order, each whole, with what they need in memory; the store gets them between entries only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from orchestrator.codec.entries import EntryHeader, encode_entry
from orchestrator.engine import limits
from orchestrator.engine.choices import DeleteEffects, IfExists, PurgeRule
from orchestrator.engine.commands import (
    AnyCommand,
    Checkpoint,
    DeleteWorkflow,
    PurgeExecutions,
    PurgeItem,
    RaiseBehaviour,
    RegisterWorkflows,
    SetRetention,
    SignalWorkflow,
    StartWorkflow,
)
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import EXECUTION_TABLES, Execution, ExecutionKey, Row, RowKey, Table
from orchestrator.engine.results import AnyResult, Checkpointed, Done, Rejected, Started
from orchestrator.engine.state import State
from orchestrator.replication import applier as applier_module
from orchestrator.replication.applier import Applier
from orchestrator.replication.clock import LogClock
from orchestrator.replication.errors import LevelUnsupported, SnapshotInstalled
from orchestrator.replication.log import Entry, EntryKind
from orchestrator.replication.release import Release
from tests.replication.cluster import wait_until

DEADLINE_S = 10.0
START_MS = 1_750_000_000_000
WAITS = (
    b'{"name":"order","version":1,"schemaVersion":2,"tasks":[{"name":"paid","taskReferenceName":"paid",'
    b'"type":"WAIT","inputParameters":{"signal":"paid"}}]}'
)
FORKS = (
    b'{"name":"forks","version":1,"schemaVersion":2,"tasks":[{"name":"f","taskReferenceName":"f",'
    b'"type":"FORK_JOIN_DYNAMIC","inputParameters":{"forkTaskName":"a","forkTaskInputs":"${workflow.input.n}"}},'
    b'{"name":"j","taskReferenceName":"j","type":"JOIN"}]}'
)

Changes = Sequence[tuple[Table, RowKey, Row | None, bool]]


class Bench:
    """The log, store, clocks and observer of one applier."""

    def __init__(self, **settings: Any) -> None:
        self.entries: list[Entry] = []
        self.first = 1  # index of the first entry that there is
        self.more = asyncio.Event()
        self.installed: tuple[int, int] | None = None
        self.rows: dict[tuple[Table, RowKey], Row] = {}
        self.staged: list[tuple[int, int, bytes, bool]] = []
        self.loads: list[tuple[str, str]] = []
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.room = asyncio.Event()
        self.room.set()
        self.applied: list[tuple[int, int, list[AnyResult]]] = []
        self.progress = asyncio.Event()
        self.now = 100.0
        self.wall = START_MS
        self.log_clock = LogClock(self, dict)
        self.next_machine = Machine(State("c", 0))
        self.applier = self.make(Machine(State("c", 0)), **settings)

    def make(self, machine: Machine, **settings: Any) -> Applier:
        given = {
            "applied_index": 0, "applied_term": 0, "replayed_until": 0, "hot_executions_max": 1000,
            "hot_bytes_max": 1 << 30,
        }
        return Applier(
            log=self, machine=machine, store=self, clock=self, log_clock=self.log_clock, observer=self,
            **(given | settings),
        )

    # The clock.

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return self.wall

    # The log.

    async def committed(self, after: int) -> list[Entry]:
        while True:
            if self.installed is not None and after < self.installed[0]:
                raise SnapshotInstalled(*self.installed)
            found = [entry for entry in self.entries if entry.index > after]
            if found:
                return found
            self.more.clear()
            await self.more.wait()

    def append(self, *commands: AnyCommand, kind: EntryKind = EntryKind.COMMANDS, time_ms: int = START_MS) -> int:
        data = encode_entry(EntryHeader(1, 0, time_ms, "n1"), [(None, command) for command in commands])
        index = self.entries[-1].index + 1 if self.entries else self.first
        self.entries.append(Entry(index, 3, kind, data if kind is EntryKind.COMMANDS else b""))
        self.more.set()
        return index

    # The store.

    def may_have(self, execution: ExecutionKey) -> bool:
        return True

    async def load_execution(self, namespace: str, workflow_id: str) -> list[tuple[Table, RowKey, Row]]:
        self.loads.append((namespace, workflow_id))
        await self.load_gate.wait()
        return [
            (table, key, row)
            for (table, key), row in sorted(self.rows.items(), key=lambda item: item[0])
            if table in EXECUTION_TABLES and key[:2] == (namespace, workflow_id)
        ]

    def stage(self, changes: Changes, index: int, term: int, chain: bytes, *, checkpoint: bool) -> None:
        for table, key, row, existed in changes:
            assert existed or (table, key) not in self.rows
            if row is None:
                self.rows.pop((table, key), None)
            else:
                self.rows[table, key] = row
        self.staged.append((index, term, chain, checkpoint))

    @property
    def has_room(self) -> bool:
        return self.room.is_set()

    async def wait_room(self) -> None:
        await self.room.wait()

    # The observer.

    def entry_applied(self, index: int, term: int, results: Sequence[AnyResult], effects: list[AnyEffect]) -> None:
        self.applied.append((index, term, list(results)))
        self.progress.set()

    def snapshot_installed(self) -> Machine:
        return self.next_machine

    # What tests do.

    async def reach(self, index: int) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.applier.wait_applied(index)
        except TimeoutError as error:
            raise AssertionError(f"entry {index} was not applied; {self.applier.applied_index} is") from error

    async def do(self, *commands: AnyCommand, **more: Any) -> list[AnyResult]:
        index = self.append(*commands, **more)
        await self.reach(index)
        return next(results for applied, _, results in self.applied if applied == index)


def start(workflow_id: str) -> StartWorkflow:
    return StartWorkflow("default", "order", 0, workflow_id, IfExists.FAIL, b"{}")


def signal(workflow_id: str) -> SignalWorkflow:
    return SignalWorkflow("default", workflow_id, "paid", b"{}")


@contextlib.asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    task = asyncio.create_task(bench.applier.run())
    try:
        yield bench
        assert not task.done() or task.exception() is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(Bench()) as made:
        await made.do(RegisterWorkflows("default", (WAITS,), overwrite=False))
        yield made


async def test_each_command_has_its_result_and_internal_entries_have_none(bench: Bench) -> None:
    assert await bench.do(start("w1"), start("w1"), signal("w2")) == [
        Started("w1", existing=False), bench.applied[-1][2][1], bench.applied[-1][2][2]
    ]
    assert [type(result) for result in bench.applied[-1][2]] == [Started, Rejected, Rejected]
    assert await bench.do(kind=EntryKind.NO_OP) == []
    assert [index for index, _, _ in bench.applied] == [1, 2, 3]
    assert (bench.applier.applied_index, bench.applier.applied_term) == (3, 3)


async def test_a_cold_execution_is_loaded_before_its_command_is_applied(bench: Bench) -> None:
    await bench.do(start("w1"))
    bench.applier.stage_soon()
    assert bench.applier.machine.state.evict(("default", "w1"))
    bench.loads.clear()
    assert await bench.do(signal("w1")) == [Done()]
    assert bench.loads == [("default", "w1")]
    hot = bench.applier.machine.state.execution(("default", "w1"))
    assert hot is not None and hot.execution.status.name == "COMPLETED"


async def test_a_deleted_execution_is_not_loaded_again_while_the_store_still_has_it(bench: Bench) -> None:
    key = ("default", "w1")
    await bench.do(start("w1"))
    await bench.do(signal("w1"))
    bench.applier.stage_soon()
    assert bench.applier.machine.state.evict(key)
    later = START_MS + 1
    assert await bench.do(DeleteWorkflow(*key, DeleteEffects.KEEP), time_ms=later) == [Done()]
    # Its rows are gone here and not yet in the store.
    assert (Table.EXECUTION, key) in bench.rows
    bench.loads.clear()
    [refused] = await bench.do(signal("w1"), time_ms=later)
    assert isinstance(refused, Rejected) and refused.reason == "WORKFLOW_NOT_FOUND"
    assert await bench.do(start("w1"), time_ms=later) == [Started("w1", existing=False)]
    assert bench.loads == []
    bench.applier.stage_soon()
    assert bench.applier.machine.state.evict(key)
    assert await bench.do(signal("w1"), time_ms=later) == [Done()]
    bench.applier.stage_soon()
    [header] = [row for (table, _), row in bench.rows.items() if table is Table.EXECUTION]
    assert isinstance(header, Execution) and header.created_ms == later
    assert {mark[1][2] for mark in bench.rows if mark[0] is Table.TASK} == {1}


async def test_executions_that_an_entry_names_are_loaded_together(bench: Bench) -> None:
    await bench.do(*(start(f"w{number}") for number in range(20)))
    bench.applier.stage_soon()
    for number in range(20):
        bench.applier.machine.state.evict(("default", f"w{number}"))
    bench.loads.clear()
    bench.load_gate.clear()
    index = bench.append(*(signal(f"w{number}") for number in range(20)))
    await wait_until("all to be asked for", lambda: len(bench.loads) == 20)
    assert bench.applier.applied_index < index
    bench.load_gate.set()
    await bench.reach(index)
    assert bench.applied[-1][2] == [Done()] * 20


async def test_executions_that_are_to_be_purged_are_loaded_together(bench: Bench) -> None:
    names = [f"w{number}" for number in range(20)]
    await bench.do(SetRetention(1, 0, 0), *(start(name) for name in names))
    await bench.do(*(signal(name) for name in names))
    bench.applier.stage_soon()
    for name in names:
        assert bench.applier.machine.state.evict(("default", name))
    bench.loads.clear()
    bench.load_gate.clear()
    items = tuple(PurgeItem("default", name, START_MS, PurgeRule.AGE) for name in names)
    index = bench.append(PurgeExecutions(items), time_ms=START_MS + 10)
    await wait_until("all to be asked for", lambda: len(bench.loads) == 20)
    bench.load_gate.set()
    await bench.reach(index)
    bench.applier.stage_soon()
    assert len(bench.loads) == 20
    assert not [table for table, _ in bench.rows if table in EXECUTION_TABLES]


async def test_nothing_is_staged_in_the_middle_of_an_entry(bench: Bench) -> None:
    await bench.do(start("w1"))
    bench.applier.stage_soon()
    bench.applier.machine.state.evict(("default", "w1"))
    before = list(bench.staged)
    bench.load_gate.clear()
    bench.loads.clear()
    index = bench.append(start("w2"), signal("w1"))
    await wait_until("the cold execution to be asked for", lambda: bench.loads)
    bench.applier.stage_soon()
    assert bench.staged == before
    bench.load_gate.set()
    await bench.reach(index)
    assert [staged[0] for staged in bench.staged[len(before) :]] == [index]


async def test_much_that_has_changed_is_staged_without_being_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is staged is encoded in one turn, so it must not gather without bound."""
    monkeypatch.setattr(applier_module, "STAGED_RESIDENTS_MAX", 20)
    await bench.do(RegisterWorkflows("default", (FORKS,), overwrite=False))
    for count, is_much in ((10, False), (30, True)):
        bench.applier.stage_soon()
        before = len(bench.staged)
        inputs = b'{"n":[%s1]}' % (b"1," * (count - 1))
        start_it = StartWorkflow("default", "forks", 0, f"w{count}", IfExists.FAIL, inputs)
        await bench.do(start_it)
        assert [index for index, *_ in bench.staged[before:]] == [bench.applier.applied_index] * is_much


async def test_what_is_staged_has_the_machines_chain_also_where_only_internal_entries_followed() -> None:
    bench = Bench()
    async with running(bench):
        await bench.do(RegisterWorkflows("default", (WAITS,), overwrite=False))
        bench.applier.stage_soon()
        chain = bench.applier.machine.chain
        assert bench.staged[-1] == (1, 3, chain, False)
    # A node that was restarted: its first entry is the no-op of a new term.
    machine = Machine(State("c", 0))
    for (table, key), row in bench.rows.items():
        machine.state.restore(table, key, row)
    machine.state.restore_done()
    machine.chain = chain
    bench.applier = bench.make(machine, applied_index=1, applied_term=3, replayed_until=1)
    async with running(bench):
        await bench.do(kind=EntryKind.NO_OP)
        bench.applier.stage_soon()
    assert bench.staged[-1] == (2, 3, chain, False)


async def test_a_checkpoint_is_staged_at_exactly_its_index(bench: Bench) -> None:
    results = await bench.do(start("w1"), Checkpoint())
    assert isinstance(results[1], Checkpointed)
    assert bench.staged[-1][0] == bench.applier.applied_index and bench.staged[-1][3]
    assert bench.applier.staged_index == bench.applier.applied_index


async def test_nothing_new_is_nothing_to_stage(bench: Bench) -> None:
    bench.applier.stage_soon()
    count = len(bench.staged)
    bench.applier.stage_soon()
    assert len(bench.staged) == count


async def test_entries_wait_while_the_store_has_no_room(bench: Bench) -> None:
    bench.room.clear()
    index = bench.append(start("w1"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.applier.applied_index == index - 1
    bench.room.set()
    await bench.reach(index)


@pytest.mark.parametrize("limit", [{"hot_executions_max": 3}, {"hot_bytes_max": 5000}], ids=["number", "bytes"])
async def test_memory_is_bounded_and_what_went_cold_can_go_on(limit: dict[str, int]) -> None:
    async with running(Bench(**limit)) as bench:
        await bench.do(RegisterWorkflows("default", (WAITS,), overwrite=False))
        for number in range(30):
            await bench.do(start(f"w{number}"))
            assert bench.applier.machine.state.hot_count <= 5
        assert await bench.do(signal("w0")) == [Done()]


async def test_a_long_entry_lets_others_have_their_turn(bench: Bench) -> None:
    turns = 0

    def elapse() -> float:
        bench.now += 0.001
        return bench.now

    bench.monotonic = elapse  # type: ignore[method-assign]

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    index = bench.append(*(start(f"w{number}") for number in range(300)))
    counting = asyncio.create_task(count())
    await bench.reach(index)
    counting.cancel()
    assert turns >= 300 * 0.001 / applier_module.TURN_SECONDS / 2


async def test_a_fork_of_thousands_is_made_by_several_entries(bench: Bench) -> None:
    """What one entry changes is hashed and stored at once, and whoever comes after it waits for all of it."""
    await bench.do(RegisterWorkflows("default", (FORKS,), overwrite=False))
    start_it = StartWorkflow("default", "forks", 0, "w", IfExists.FAIL, b'{"n":[%s1]}' % (b"1," * 7_999))
    await bench.do(start_it, Checkpoint())
    entries, changed = 1, [len(bench.rows)]
    while bench.applier.machine.next_message() is not None:
        before = len(bench.rows)
        await bench.do(Checkpoint())
        changed.append(len(bench.rows) - before)
        entries += 1
    [forked] = [row for (table, _), row in bench.rows.items() if table is Table.EXECUTION]
    assert isinstance(forked, Execution)
    assert forked.open_tasks == 8_001
    assert entries > 3
    # The last of its steps may go beyond by what one step changes.
    assert max(changed) <= limits.ROWS_CHANGED_PER_ENTRY + 4 * limits.TRANSITIONS_PER_STEP


async def test_log_time_is_what_entries_say_and_only_live_ones_hold_it_back() -> None:
    bench = Bench(replayed_until=1)
    bench.wall = START_MS + 60_000
    async with running(bench):
        await bench.do(RegisterWorkflows("default", (WAITS,), overwrite=False))
        assert bench.applier.machine.state.meta.log_time_ms == START_MS
        # Replayed: the cluster stood still, and so its time goes on where the world is.
        assert bench.log_clock.peek_ms() == START_MS + 60_000
        await bench.do(start("w1"), time_ms=START_MS + 70_000)
        assert bench.log_clock.peek_ms() == START_MS + 70_000


def test_log_time_goes_on_from_the_database_where_the_journal_has_nothing_after_it() -> None:
    bench = Bench()
    machine = Machine(State("c", 0))
    machine.begin_entry(1, 1, START_MS + 500_000)
    bench.applier = bench.make(machine, applied_index=1, applied_term=1)
    # The wall clock was set back while the cluster stood still.
    assert bench.log_clock.next_ms() == START_MS + 500_000


async def test_waiters_wake_when_their_index_is_applied_and_who_gave_up_is_forgotten(bench: Bench) -> None:
    applier = bench.applier
    near = asyncio.create_task(applier.wait_applied(3))
    far = asyncio.create_task(applier.wait_applied(1 << 60))
    await asyncio.sleep(0)
    await bench.do(start("w1"))
    assert not near.done()
    await bench.do(start("w2"))
    async with asyncio.timeout(DEADLINE_S):
        await near
    far.cancel()
    await asyncio.gather(far, return_exceptions=True)
    await bench.do(start("w3"))
    assert applier._waiters == []


async def test_after_a_snapshot_it_goes_on_from_there_with_the_new_machine(bench: Bench) -> None:
    bench.next_machine.begin_entry(9, 4, START_MS + 900_000)
    waiting = asyncio.create_task(bench.applier.wait_applied(50))
    await asyncio.sleep(0)
    bench.installed = (50, 4)
    bench.entries.clear()
    bench.first = 51
    bench.more.set()
    async with asyncio.timeout(DEADLINE_S):
        await waiting
    assert bench.applier.machine is bench.next_machine
    assert (bench.applier.applied_index, bench.applier.applied_term, bench.applier.staged_index) == (50, 4, 50)
    assert bench.log_clock.next_ms() >= START_MS + 900_000
    await bench.do(RegisterWorkflows("default", (WAITS,), overwrite=False), time_ms=START_MS + 900_001)
    assert bench.applied[-1] == (51, 3, [Done()])


async def test_entries_read_before_a_snapshot_are_not_applied_on_top_of_it(bench: Bench) -> None:
    bench.room.clear()
    bench.append(start("w1"))
    bench.append(start("w2"))
    for _ in range(5):
        await asyncio.sleep(0)
    async with bench.applier.standing_still():
        bench.room.set()
        for _ in range(5):
            await asyncio.sleep(0)
        bench.rows.clear()
        bench.installed = (50, 4)
    async with asyncio.timeout(DEADLINE_S):
        await bench.applier.wait_applied(50)
    assert [index for index, _, _ in bench.applied] == [1]
    assert bench.applier.machine is bench.next_machine


async def test_after_standing_still_without_a_snapshot_nothing_is_skipped(bench: Bench) -> None:
    bench.room.clear()
    bench.append(start("w1"))
    last = bench.append(start("w2"))
    async with bench.applier.standing_still():
        bench.room.set()
        await asyncio.sleep(0)
    await bench.reach(last)
    assert [index for index, _, _ in bench.applied] == [1, 2, 3]


async def test_two_nodes_that_apply_the_same_entries_have_the_same_chain() -> None:
    chains = []
    for hot in (1000, 1):
        bench = Bench(hot_executions_max=hot)
        async with running(bench):
            await bench.do(RegisterWorkflows("default", (WAITS,), overwrite=False))
            for number in range(10):
                await bench.do(start(f"w{number}"))
            for number in range(10):
                await bench.do(signal(f"w{number}"))
            chains.append(bench.applier.machine.chain)
    assert chains[0] == chains[1]


async def test_an_entry_of_a_level_that_is_not_known_stops_the_node_before_anything_of_it_is_applied() -> None:
    bench = Bench(release=Release("7.0", 1, 1))
    bench.append(RegisterWorkflows("default", (WAITS,), overwrite=False))
    header = EntryHeader(2, 0, START_MS, "n9")
    commands = [(None, start("w1")), (None, RaiseBehaviour(2))]
    bench.entries.append(Entry(2, 3, EntryKind.COMMANDS, encode_entry(header, commands)))
    with pytest.raises(LevelUnsupported, match=r"entry 2 of the log, by n9.* level 2.*7\.0.*knows level 1"):
        await bench.applier.run()
    assert [index for index, _, _ in bench.applied] == [1]
    assert bench.applier.machine.state.meta.live_executions == 0
