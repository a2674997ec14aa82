"""How much is said: few round trips over a conflict, each entry once, one message a turn, bounded bytes in flight."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orchestrator.replication import frames
from orchestrator.replication.frames import Ack, Append, Heartbeat, Reject
from orchestrator.replication.journal import Journal
from orchestrator.replication.leader import Mode
from orchestrator.replication.segment import WIRE_OVERHEAD_BYTES, EntryKind, Record
from orchestrator.replication.settings import RaftSettings
from tests.replication.bench import Bench
from tests.replication.wire import Sent, Wire


def fill(journal: Journal, term: int, count: int, size: int = 20) -> None:
    for index in range(journal.last_index + 1, journal.last_index + 1 + count):
        journal.append(index, term, EntryKind.COMMANDS, b"x" * size)


def terms(bench: Bench) -> list[int | None]:
    journal = bench.raft.journal
    return [journal.term_at(index) for index in range(1, journal.last_index + 1)]


@pytest.mark.parametrize("tail", [50, 5_000, 50_000])
async def test_a_long_conflicting_tail_takes_a_round_trip_for_each_term_and_not_for_each_entry(tail: int) -> None:
    ours, theirs = (2, 4, 6, 8, 10), (3, 5, 7, 9)

    def prefill(name: str, journal: Journal) -> None:
        fill(journal, 1, 100)
        for term in theirs if name == "n2" else ours:
            fill(journal, term, tail // (len(theirs) if name == "n2" else len(ours)))

    wire = Wire(settings=RaftSettings(batch_bytes_max=1 << 20), prefill=prefill)
    for bench in wire.benches.values():
        bench.raft.follow(10, None)
    wire.cut("n2")
    leader = await wire.elect("n1")
    began = len(wire.sent)
    wire.mend("n2")
    follower = wire["n2"].raft
    turns = await wire.until("n2 to agree", lambda: follower.commit_index == leader.raft.last_index)
    assert terms(wire["n2"]) == terms(leader)
    said = [sent for sent in wire.sent[began:] if "n2" in (sent.source, sent.target)]
    rejections = sum(isinstance(sent.message, Reject) for sent in said)
    appends = sum(isinstance(sent.message, Append) for sent in said)
    batches = tail * (20 + 16) // (1 << 20) + 1
    assert rejections <= len(ours) + len(theirs)
    assert appends <= rejections + batches + 3
    assert turns <= 2 * (rejections + batches) + 60  # the last of it learns the commit index by a heartbeat
    wire.close()


async def test_a_follower_that_lacks_a_long_tail_is_asked_once() -> None:
    wire = Wire(prefill=lambda name, journal: fill(journal, 1, 100 if name == "n2" else 20_000))
    wire.cut("n2")
    leader = await wire.elect("n1")
    began = len(wire.sent)
    wire.mend("n2")
    await wire.until("n2 to have it all", lambda: wire["n2"].raft.commit_index == leader.raft.last_index)
    said = Counter(type(sent.message) for sent in wire.sent[began:] if "n2" in (sent.source, sent.target))
    assert said[Reject] == 1 and said[Append] <= 4
    wire.close()


SETTINGS = RaftSettings(
    batch_bytes_max=2000, entry_bytes_max=1000, in_flight_bytes_max=6000, probe_bytes_max=500, frame_bytes_max=4000
)


class Load:
    """Appends on a leader whose followers' connections break now and then; counts what it sends."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.wire = Wire(settings=SETTINGS, dice=self.dice)
        self.breaks: Counter[str] = Counter()
        # (follower, its connection) -> index -> how often an entry was sent on it
        self.times: dict[tuple[str, int], Counter[int]] = {}

    async def run(self, turns: int) -> None:
        leader = await self.wire.elect("n1")
        for _ in range(turns):
            for _ in range(self.dice.randrange(8)):
                fill(leader.raft.journal, leader.raft.term, 1, size=self.dice.randrange(900))
            if self.dice.random() < 0.02:
                name = self.dice.choice(["n2", "n3"])
                self.wire.break_connection("n1", name)
                self.breaks[name] += 1
            began = len(self.wire.sent)
            await self.wire.turn(self.dice.choice([1, 1, 1, 30]))
            self.check(leader, self.wire.sent[began:])
        last, began = leader.raft.last_index, len(self.wire.sent)
        for _ in range(4000):
            if all(bench.raft.commit_index == last for bench in self.wire.benches.values()):
                break
            await self.wire.turn()
            self.check(leader, self.wire.sent[began:])
            began = len(self.wire.sent)
        assert len({tuple(terms(bench)) for bench in self.wire.benches.values()}) == 1

    def check(self, leader: Bench, sent: list[Sent]) -> None:
        appends = [(one.target, one.message) for one in sent if isinstance(one.message, Append)]
        assert max(Counter(target for target, _ in appends).values(), default=0) <= 1, "two messages in one turn"
        for target, message in appends:
            times = self.times.setdefault((target, self.breaks[target]), Counter())
            times.update(range(message.prev_index + 1, message.prev_index + 1 + len(message.entries)))
            assert max(times.values(), default=0) <= 1, f"sent to {target} again while it was on its way"
            assert sum(len(entry.data) for entry in message.entries) <= SETTINGS.batch_bytes_max
        for progress in leader.raft.replicator.progress.values():
            assert progress.in_flight_bytes <= SETTINGS.in_flight_bytes_max + SETTINGS.batch_bytes_max
            assert progress.in_flight_bytes == sum(size for _, size in progress.in_flight)
            assert progress.mode is not Mode.SNAPSHOT


@pytest.mark.parametrize("seed", range(8))
async def test_under_load_and_loss_each_entry_is_sent_once_on_a_connection(seed: int) -> None:
    load = Load(seed)
    await load.run(400)
    entries = load.wire["n1"].raft.last_index
    sent = sum(counted.total() for counted in load.times.values())
    assert entries > 1000 and load.breaks.total() > 0
    # What was on its way when a connection broke goes again, and no more than that.
    on_its_way = (SETTINGS.in_flight_bytes_max + SETTINGS.batch_bytes_max) // WIRE_OVERHEAD_BYTES
    assert 2 * (entries - 1) <= sent <= 2 * entries + load.breaks.total() * on_its_way
    load.wire.close()


async def test_without_load_only_heartbeats_are_said() -> None:
    wire = Wire()
    leader = await wire.elect("n1")
    await wire.until("the no-op to be everywhere", lambda: all(b.raft.commit_index == 1 for b in wire.benches.values()))
    began, settings = len(wire.sent), leader.settings
    for _ in range(200):
        await wire.turn(5)
    said = Counter((type(sent.message), sent.source) for sent in wire.sent[began:])
    rounds = 200 * 5 // settings.heartbeat_interval_ms
    assert set(said) == {(Heartbeat, "n1"), (Ack, "n2"), (Ack, "n3")}
    assert said[Heartbeat, "n1"] <= 2 * (rounds + 1)
    wire.close()


async def test_an_entry_is_encoded_once_for_all_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many followers there are, and however often one of them connects anew."""
    encoded: Counter[int] = Counter()
    made = frames.WireEntry

    def counted(term: int, kind: EntryKind, data: bytes) -> frames.WireEntry:
        encoded[int(data)] += 1
        return made(term, kind, data)

    wire = Wire(5)
    leader = await wire.elect("n1")
    await wire.until("the no-op to be everywhere", lambda: all(b.raft.commit_index == 1 for b in wire.benches.values()))
    monkeypatch.setattr(frames, "WireEntry", counted)
    for number in range(100):
        leader.raft.journal.append(leader.raft.last_index + 1, leader.raft.term, EntryKind.COMMANDS, b"%d" % number)
        await wire.turn()
        if number % 20 == 10:
            wire.break_connection("n1", "n3")
    await wire.until("all to have it all", lambda: wire["n3"].raft.commit_index == 101)
    assert encoded == Counter(dict.fromkeys(range(100), 1))
    assert isinstance(leader.raft.journal.cached(101, 1), list)
    assert isinstance((leader.raft.journal.cached(101, 1) or [Record(0, 0, 0, b"")])[0].wire, bytes)
    wire.close()


async def test_what_came_while_a_snapshot_was_installed_comes_again_though_nothing_follows_it() -> None:
    """The log stands still meanwhile; with a third node down, nothing would be committed, and so nothing appended."""
    wire = Wire()
    leader = await wire.elect("n1")
    await wire.until("the no-op to be everywhere", lambda: all(b.raft.commit_index == 1 for b in wire.benches.values()))
    wire.cut("n3")
    follower = wire["n2"].raft.follower
    follower.installing = True
    fill(leader.raft.journal, leader.raft.term, 10)
    for _ in range(20):
        await wire.turn(10)
    assert (wire["n2"].raft.last_index, leader.raft.commit_index) == (1, 1)
    follower.installing = False
    follower.stands_at(1)
    await wire.until("n2 to have it all", lambda: leader.raft.commit_index == 11)
    wire.close()
