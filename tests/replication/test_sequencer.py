"""Every submitted command is resolved exactly once, and only with what is certain about it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from orchestrator.codec.entries import decode_entry
from orchestrator.engine import behaviour
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import (
    AnyCommand,
    CompleteTask,
    FireTimers,
    RaiseBehaviour,
    ReleaseTask,
    RequestIdentity,
    SignalWorkflow,
    StartWorkflow,
)
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.results import AnyResult, Polled
from orchestrator.replication.clock import LogClock
from orchestrator.replication.errors import (
    EntryTooLarge,
    LevelTooLow,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Stopped,
)
from orchestrator.replication.sequencer import ENTRIES_IN_FLIGHT_MAX, CommandsApplied, Sequencer
from orchestrator.replication.sequencer import EXECUTION_SHARES as SHARES

DEADLINE_S = 10.0


@dataclass
class FakeLog:
    """Takes entries down; what becomes of them is the test's to say."""

    term: int = 3
    entries: list[tuple[int, int, bytes]] = field(default_factory=list)
    refuse: BaseException | None = None
    limit: int = 1 << 30

    def append(self, data: bytes) -> tuple[int, int]:
        if self.refuse is not None:
            raise self.refuse
        if len(data) > self.limit:
            raise EntryTooLarge("too large")
        index = len(self.entries) + 1
        self.entries.append((index, self.term, data))
        return index, self.term

    def commands(self, position: int) -> list[AnyCommand]:
        return [command for _, command in decode_entry(self.entries[position][2]).commands]


@dataclass
class Bench:
    """A sequencer over a fake log, and clocks that stand still until told otherwise."""

    log: FakeLog = field(default_factory=FakeLog)
    now: float = 50.0
    level: int = 1
    commit_seconds: list[float] = field(default_factory=list)
    applied: list[CommandsApplied] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 1_750_000_000_000 + int(self.now * 1000)

    def sequencer(self, **settings: Any) -> Sequencer:
        limits = {
            "queue_bytes_max": 1 << 20,
            "entry_bytes_max": 1 << 16,
            "entry_commands_max": 100,
            "entries_in_flight_max": 1,
        }
        sequencer = Sequencer(
            self.log,
            LogClock(self, dict),
            node="n1",
            behaviour_level=lambda: self.level,
            monotonic=self.monotonic,
            on_commit_seconds=self.commit_seconds.append,
            on_applied=self.applied.append,
            **(limits | settings),
        )
        sequencer.open()
        return sequencer


def release(number: int) -> ReleaseTask:
    return ReleaseTask("s", number)


def signal(size: int = 1) -> SignalWorkflow:
    return SignalWorkflow("default", "w", "go", b"x" * size)


def start(size: int = 1) -> StartWorkflow:
    return StartWorkflow("default", "order", 0, "", IfExists.FAIL, b"x" * size)


def completion(size: int = 1) -> CompleteTask:
    return CompleteTask("default", "w", "t", 1, TaskStatus.COMPLETED, b"x" * size, "", "")


def submit(sequencer: Sequencer, command: AnyCommand) -> asyncio.Task[AnyResult]:
    return asyncio.create_task(sequencer.submit(command))


async def turn(count: int = 3) -> None:
    """Lets what is ready run: a task puts its command, the pump appends it, the next one resolves."""
    for _ in range(count):
        await asyncio.sleep(0)


async def outcome(task: asyncio.Task[AnyResult]) -> AnyResult | Exception:
    """What came of a submission; fails if nothing did."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.shield(task)
    except TimeoutError as error:
        raise AssertionError("a command was not resolved") from error
    except (NotLeader, OutcomeUnknown, Overloaded, EntryTooLarge) as error:
        return error


def results(log: FakeLog, position: int) -> list[AnyResult]:
    """A result for each command of the entry that tells which one it is for."""
    return [Polled((getattr(command, "fencing_token", 0),)) for command in log.commands(position)]


def apply(sequencer: Sequencer, log: FakeLog, position: int, term: int | None = None) -> None:
    index, appended_term, _ = log.entries[position]
    sequencer.applied(index, appended_term if term is None else term, results(log, position))


async def test_commands_of_one_turn_share_an_entry_and_each_gets_its_own_result() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    tasks = [submit(sequencer, release(number)) for number in range(5)]
    await turn()
    assert [bench.log.commands(0)] == [[release(number) for number in range(5)]]
    assert (len(bench.log.entries), sequencer.in_flight) == (1, 1)
    apply(sequencer, bench.log, 0)
    assert [await outcome(task) for task in tasks] == [Polled((number,)) for number in range(5)]


async def test_an_idle_cluster_commits_a_single_command_at_once() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    task = submit(sequencer, release(1))
    await turn()
    assert len(bench.log.entries) == 1
    apply(sequencer, bench.log, 0)
    assert await outcome(task) == Polled((1,))


async def test_what_comes_meanwhile_gathers_in_the_next_entry() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entries_in_flight_max=4)
    first = submit(sequencer, release(0))
    await turn()
    rest = []
    for number in range(1, 4):
        rest.append(submit(sequencer, release(number)))
        await turn()
    assert len(bench.log.entries) == 1
    assert sequencer.queue_commands == 3
    apply(sequencer, bench.log, 0)
    await turn()
    assert bench.log.commands(1) == [release(1), release(2), release(3)]
    apply(sequencer, bench.log, 1)
    assert [await outcome(task) for task in [first, *rest]] == [Polled((number,)) for number in range(4)]


async def test_the_header_says_who_proposed_and_when_and_identities_travel_along() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    identity = RequestIdentity(request_id="01J00000000000000000000000")
    task = asyncio.create_task(sequencer.submit(signal(), identity))
    await turn()
    entry = decode_entry(bench.log.entries[0][2])
    assert (entry.proposer, entry.behaviour_level, entry.partition) == ("n1", 1, 0)
    assert entry.time_ms == bench.wall_ms()
    assert entry.commands == [(identity, signal())]
    apply(sequencer, bench.log, 0)
    await outcome(task)


async def test_slow_commits_overlap_up_to_the_depth_and_fast_ones_do_not() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entries_in_flight_max=4, entry_commands_max=1)
    tasks = [submit(sequencer, release(number)) for number in range(10)]
    await turn()
    assert sequencer.in_flight == 1
    bench.now += 1.0
    apply(sequencer, bench.log, 0)
    await turn()
    assert sequencer.in_flight == 4
    for position in range(1, 10):
        apply(sequencer, bench.log, position)
        await turn()
        assert sequencer.in_flight <= 4
    assert [await outcome(task) for task in tasks] == [Polled((number,)) for number in range(10)]
    assert bench.commit_seconds == [1.0] + [0.0] * 9


async def test_an_entry_closes_at_its_number_of_commands() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entry_commands_max=2)
    tasks = [submit(sequencer, release(number)) for number in range(5)]
    for position, count in enumerate((2, 2, 1)):
        await turn()
        assert len(bench.log.commands(position)) == count
        apply(sequencer, bench.log, position)
    assert [await outcome(task) for task in tasks] == [Polled((number,)) for number in range(5)]


async def test_an_entry_closes_at_its_size_and_one_command_above_it_goes_alone() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entry_bytes_max=1000)
    tasks = [submit(sequencer, signal(size)) for size in (400, 400, 5000, 400)]
    for position, sizes in enumerate(([400, 400], [5000], [400])):
        await turn()
        assert [len(command.payload) for command in bench.log.commands(position)] == sizes  # type: ignore[union-attr]
        apply(sequencer, bench.log, position)
    for task in tasks:
        await outcome(task)
    assert (sequencer.queue_bytes, sequencer.queue_commands, sequencer.queue_age_ms) == (0, 0, 0.0)


async def test_results_of_one_execution_keep_nobody_else_waiting() -> None:
    """A thousand come before another command: it is in the next entry all the same, and that is in flight at once."""
    bench = Bench()
    sequencer = bench.sequencer(entry_commands_max=1_000)
    many = [submit(sequencer, completion()) for _ in range(1_000)]
    await turn()
    assert [len(bench.log.commands(position)) for position in range(len(bench.log.entries))] == [SHARES.usual]
    others = [submit(sequencer, start())]
    await turn()
    assert bench.log.commands(1) == [start()]
    apply(sequencer, bench.log, 0)
    others.append(submit(sequencer, start()))
    await turn()
    # An entry of others counts: this one comes with the next.
    assert len(bench.log.entries) == 2
    apply(sequencer, bench.log, 1)
    await turn()
    assert bench.log.commands(2).count(start()) == 1
    assert len(bench.log.commands(2)) == 1 + SHARES.beside
    position = 2
    while position < len(bench.log.entries):
        assert sequencer.in_flight <= ENTRIES_IN_FLIGHT_MAX
        apply(sequencer, bench.log, position)
        await turn()
        position += 1
    assert [type(await outcome(task)) for task in (*many, *others)] == [Polled] * 1_002
    assert max(len(bench.log.commands(position)) for position in range(position)) == SHARES.alone


async def test_however_many_large_executions_there_are_entries_in_flight_are_bounded() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entry_commands_max=SHARES.usual)
    command = completion()
    tasks = []
    for number in range(20):
        one = structs.replace(command, workflow_id=f"w{number}")
        tasks += [submit(sequencer, one) for _ in range(SHARES.usual)]
        await turn()
        assert sequencer.in_flight == min(number + 1, ENTRIES_IN_FLIGHT_MAX)
    for position in range(20):
        apply(sequencer, bench.log, position)
        await turn()
    assert [type(await outcome(task)) for task in tasks] == [Polled] * len(tasks)


async def test_what_was_not_appended_is_under_way_no_longer() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entry_commands_max=1_000)
    for refused in (NotLeader("n2"), EntryTooLarge("too large")):
        bench.log.refuse = refused
        tasks = [submit(sequencer, completion()) for _ in range(SHARES.usual)]
        await turn(2 * len(tasks))
        assert [type(await outcome(task)) for task in tasks] == [type(refused)] * len(tasks)
    bench.log.refuse = None
    task = submit(sequencer, completion())
    await turn()
    apply(sequencer, bench.log, 0)
    assert isinstance(await outcome(task), Polled)


async def test_starts_are_refused_first_other_commands_at_the_limit_completions_never() -> None:
    bench = Bench()
    sequencer = bench.sequencer(queue_bytes_max=2000)
    waiting = [submit(sequencer, release(0))]
    await turn()
    waiting += [submit(sequencer, start(700)), submit(sequencer, start(100))]
    await turn()
    assert sequencer.pending_starts == 2
    with pytest.raises(Overloaded, match="limit is 1000"):
        await sequencer.submit(start(500))
    waiting.append(submit(sequencer, signal(500)))
    await turn()
    with pytest.raises(Overloaded, match="limit is 2000"):
        await sequencer.submit(signal(1000))
    waiting += [submit(sequencer, completion(5000)), asyncio.create_task(sequencer.submit_system(FireTimers()))]
    await turn()
    assert sequencer.queue_commands == 5
    bench.now += 2
    assert sequencer.queue_age_ms == 2000
    apply(sequencer, bench.log, 0)
    await turn()
    apply(sequencer, bench.log, 1)
    assert [type(await outcome(task)) for task in waiting] == [Polled] * 6
    assert sequencer.pending_starts == 0


async def test_each_entry_shows_how_long_its_first_command_took_from_its_turn_on_and_what_was_under_way() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    waiting = [submit(sequencer, start()), submit(sequencer, start())]
    await turn()
    bench.now += 1
    waiting += [submit(sequencer, start()), submit(sequencer, completion())]
    await turn()
    assert (sequencer.pending_starts, sequencer.starts_under_way) == (1, 3)
    bench.now += 2
    apply(sequencer, bench.log, 0)
    assert sequencer.starts_under_way == 1
    await turn()
    assert (sequencer.pending_starts, sequencer.starts_under_way) == (0, 1)
    bench.now += 3
    apply(sequencer, bench.log, 1)
    assert bench.applied == [CommandsApplied(3.0, False, 3), CommandsApplied(5.0, True, 1)]
    assert sequencer.starts_under_way == 0
    for task in waiting:
        await outcome(task)


async def test_large_entries_say_nothing_of_how_quick_a_leader_is() -> None:
    """They hold what one execution has sent at once; nobody else waits for them."""
    bench = Bench()
    sequencer = bench.sequencer()
    tasks = [submit(sequencer, completion()) for _ in range(SHARES.usual)]
    await turn()
    apply(sequencer, bench.log, 0)
    assert bench.applied == []
    for task in tasks:
        await outcome(task)


async def test_when_leadership_is_lost_no_start_is_under_way_any_more() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    tasks = [submit(sequencer, start())]
    await turn()
    tasks.append(submit(sequencer, start()))
    await turn()
    assert sequencer.starts_under_way == 2
    sequencer.close(None)
    assert sequencer.starts_under_way == 0
    for task in tasks:
        await outcome(task)


async def test_an_empty_queue_takes_one_command_of_any_size() -> None:
    bench = Bench()
    sequencer = bench.sequencer(queue_bytes_max=100)
    task = submit(sequencer, start(5000))
    await turn()
    apply(sequencer, bench.log, 0)
    assert await outcome(task) == Polled((0,))


async def test_closed_it_takes_nothing() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    sequencer.close("n2")
    assert not sequencer.is_open
    with pytest.raises(NotLeader):
        await sequencer.submit(release(1))
    with pytest.raises(NotLeader):
        await sequencer.submit_system(FireTimers())
    await turn()
    assert bench.log.entries == []


async def test_closing_tells_what_certainly_has_no_effect_from_what_may_have_one() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    appended = submit(sequencer, release(1))
    await turn()
    waiting = submit(sequencer, release(2))
    await turn()
    sequencer.close("n2")
    assert isinstance(await outcome(appended), OutcomeUnknown)
    refused = await outcome(waiting)
    assert isinstance(refused, NotLeader) and refused.leader == "n2"
    # Applied after all, here or in a later term: its callers have their answer already.
    apply(sequencer, bench.log, 0)
    assert sequencer.in_flight == 0


async def test_a_command_that_waits_for_the_pump_when_leadership_ends_is_refused() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    task = submit(sequencer, release(1))
    await asyncio.sleep(0)
    assert sequencer.queue_commands == 1
    sequencer.close(None)
    assert isinstance(await outcome(task), NotLeader)
    await turn()
    assert bench.log.entries == []


async def test_an_entry_of_another_term_at_the_index_means_it_certainly_has_no_effect() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    task = submit(sequencer, release(1))
    await turn()
    apply(sequencer, bench.log, 0, term=4)
    assert isinstance(await outcome(task), NotLeader)


async def test_a_caller_that_went_away_does_not_shift_the_results_of_the_others() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    tasks = [submit(sequencer, release(number)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await turn()
    apply(sequencer, bench.log, 0)
    assert [await outcome(tasks[0]), await outcome(tasks[2])] == [Polled((0,)), Polled((2,))]
    assert tasks[1].cancelled()


async def test_handing_over_refuses_but_does_not_end_service_and_what_is_in_flight_still_counts() -> None:
    bench = Bench()
    sequencer = bench.sequencer(entry_commands_max=1, entries_in_flight_max=2)
    sequencer.applied(0, 0, [])
    slow = submit(sequencer, release(0))
    await turn()
    bench.now += 1
    apply(sequencer, bench.log, 0)
    await outcome(slow)
    flying = submit(sequencer, release(1))
    await turn()
    bench.log.refuse = NotLeader(None)
    refused = [submit(sequencer, release(number)) for number in (2, 3)]
    await turn()
    assert [type(await outcome(task)) for task in refused] == [NotLeader, NotLeader]
    assert (sequencer.queue_bytes, sequencer.queue_commands) == (0, 0)
    # Nobody took over: the same term goes on.
    bench.log.refuse = None
    after = submit(sequencer, release(4))
    await turn()
    apply(sequencer, bench.log, 1)
    apply(sequencer, bench.log, 2)
    assert [await outcome(flying), await outcome(after)] == [Polled((1,)), Polled((4,))]


async def test_a_command_too_large_for_any_entry_is_refused_and_the_next_goes_on() -> None:
    bench = Bench(log=FakeLog(limit=2000))
    sequencer = bench.sequencer(entry_bytes_max=1000)
    large, small = submit(sequencer, signal(3000)), submit(sequencer, release(7))
    await turn()
    assert isinstance(await outcome(large), EntryTooLarge)
    apply(sequencer, bench.log, 0)
    assert await outcome(small) == Polled((7,))


async def test_when_the_log_has_stopped_nothing_hangs() -> None:
    bench = Bench(log=FakeLog(refuse=Stopped("stopping")))
    sequencer = bench.sequencer(entry_commands_max=1)
    tasks = [submit(sequencer, release(number)) for number in range(3)]
    await turn()
    assert [type(await outcome(task)) for task in tasks] == [NotLeader] * 3


async def test_an_unexpected_error_of_the_log_leaves_nobody_waiting() -> None:
    bench = Bench(log=FakeLog(refuse=OSError("disk")))
    sequencer = bench.sequencer(entry_commands_max=1)
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    tasks = [submit(sequencer, release(number)) for number in range(3)]
    await turn(6)
    assert [type(await outcome(task)) for task in tasks] == [OutcomeUnknown] * 3
    assert [str(context["exception"]) for context in seen] == ["disk"] * 3


async def test_a_later_term_begins_clean_and_old_entries_answer_nobody_of_it() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    old = submit(sequencer, release(1))
    await turn()
    sequencer.close(None)
    bench.log.term = 5
    sequencer.open()
    new = submit(sequencer, release(2))
    await turn()
    apply(sequencer, bench.log, 0)
    await turn()
    assert not new.done()
    apply(sequencer, bench.log, 1)
    assert isinstance(await outcome(old), OutcomeUnknown)
    assert await outcome(new) == Polled((2,))


async def test_a_truncated_log_gives_an_index_twice_and_each_caller_its_own_answer() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    old = submit(sequencer, release(1))
    await turn()
    sequencer.close("n2")
    bench.log.entries.clear()
    bench.log.term = 6
    sequencer.open()
    new = submit(sequencer, release(2))
    await turn()
    apply(sequencer, bench.log, 0)
    assert isinstance(await outcome(old), OutcomeUnknown)
    assert await outcome(new) == Polled((2,))


class _Model:
    """Random turns of fate, and what may be told to whom."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.bench = Bench()
        self.sequencer = self.bench.sequencer(entry_commands_max=3, entries_in_flight_max=4)
        self.applied = 0
        self.tasks: dict[int, asyncio.Task[AnyResult]] = {}
        self.effects: set[int] = set()

    def submit(self) -> None:
        number = len(self.tasks)
        self.tasks[number] = submit(self.sequencer, release(number))

    def apply_next(self) -> None:
        entries = self.bench.log.entries
        if self.applied < len(entries):
            self.bench.now += self.rng.choice([0.0, 0.02])
            self.effects.update(command.fencing_token for command in self._next())  # type: ignore[union-attr]
            apply(self.sequencer, self.bench.log, self.applied)
            self.applied += 1

    def _next(self) -> Sequence[AnyCommand]:
        return self.bench.log.commands(self.applied)

    def lose(self) -> None:
        self.sequencer.close(None)
        if self.rng.random() < 0.5:
            # Another leader's entries take the place of what was not committed.
            del self.bench.log.entries[self.applied :]
        self.bench.log.term += 2

    def step(self) -> None:
        match self.rng.randrange(12):
            case 0:
                self.lose()
            case 1:
                if not self.sequencer.is_open:
                    self.sequencer.open()
            case 2:
                self.bench.log.refuse = None if self.bench.log.refuse else NotLeader(None)
            case 3:
                self.rng.choice([*self.tasks.values(), submit(self.sequencer, release(10**6))]).cancel()
            case 4 | 5 | 6:
                self.apply_next()
            case _:
                self.submit()


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_each_is_resolved_once_and_told_nothing_that_is_not_so(seed: int) -> None:
    model = _Model(seed)
    for _ in range(300):
        model.step()
        await turn(model.rng.randrange(4))
    await turn()
    while model.applied < len(model.bench.log.entries):
        model.apply_next()
        await turn()
    model.sequencer.close(None)
    for number, task in model.tasks.items():
        if task.cancelled():
            continue
        told = await outcome(task)
        if isinstance(told, NotLeader):
            assert number not in model.effects
        elif not isinstance(told, OutcomeUnknown):
            assert told == Polled((number,))
            assert number in model.effects


async def test_what_not_all_nodes_know_yet_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    monkeypatch.setitem(behaviour.FIELDS_SINCE, StartWorkflow, {"priority": 2})
    sequencer.begin(start())
    with pytest.raises(LevelTooLow, match="takes behaviour level 2, and the cluster is at 1"):
        sequencer.begin(structs.replace(start(), priority=5))
    monkeypatch.setitem(behaviour.COMMANDS_SINCE, ReleaseTask, 3)
    bench.level = 2
    sequencer.begin(structs.replace(start(), priority=5))
    with pytest.raises(LevelTooLow):
        sequencer.begin(release(1))
    sequencer.close(None)


async def test_an_entry_that_raises_the_level_says_so_in_front() -> None:
    bench = Bench()
    sequencer = bench.sequencer()
    tasks = [submit(sequencer, command) for command in (release(1), RaiseBehaviour(4), release(2))]
    await turn()
    entry = decode_entry(bench.log.entries[0][2])
    assert (entry.behaviour_level, len(entry.commands)) == (4, 3)
    sequencer.close(None)
    await asyncio.gather(*tasks, return_exceptions=True)
