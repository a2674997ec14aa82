"""Whatever happens to a stream, its readers and the cluster, each event takes effect once."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from orchestrator.engine import behaviour, limits
from orchestrator.engine.commands import DecideEvent
from orchestrator.engine.model import Table
from orchestrator.engine.results import EventsReceived, Rejected
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.engine.triggers import queries, streams
from orchestrator.engine.triggers.rows import EventRunState
from tests.engine.driver import Driver, workflow
from tests.engine.triggers.making import action, busy_driver, event_runs, put_handler

EVENT = "redis:in"
STEPS = 120
AT_ONCE = 5
# Of entries in the order of their numbers; after a loss with a clock that was set back, of those behind it.
_LATE, _EARLY = 2_000_000_000_000, 1


class Stream:
    """A stream as a server has it, its publisher, and whoever reads it for the cluster.

    `steady`: nothing is lost, and nothing written twice, so that no id of an event is needed.
    """

    def __init__(self, seed: int, *, steady: bool = False) -> None:
        self.rng = random.Random(seed)
        self.steady = steady
        self.driver = busy_driver(behaviour.HIGHEST)
        self.driver.register(workflow("quick", {"name": "n", "taskReferenceName": "n", "type": "NOOP"}))
        start = action("start_workflow", name="quick")
        put_handler(self.driver, start, name="plain", event=EVENT)
        put_handler(self.driver, start, name="asks", event=EVENT, condition="true")
        self.published: list[str] = []
        self.entries: list[StreamEntry] = []
        self.said: list[ReceiveEvents] = []  # since the entries were lost
        self.refused: Counter[str] = Counter()
        self.losses = 0
        self._next_ms = _LATE
        self._last = (0, 0)  # where the last entry was written, also if it is gone
        self._unordered: list[int] = []

    @property
    def cursor(self) -> tuple[int, int]:
        row = streams.row(self.driver.state, "default", EVENT)
        assert row is not None
        found = streams.position(row.cursor)
        assert found is not None
        return found

    @property
    def is_lost(self) -> bool:
        """Whether a reader finds that the stream has begun anew."""
        return self.losses > 0 and self._last < self.cursor

    def step(self) -> None:
        makers = [self.publish, self.publish, self.publish, self.read, self.read, self.read, self.say_again,
                  self.decide, self.rest]
        self.rng.choice(makers if self.steady else [*makers, self.publish_again])()
        if self.rng.random() < 0.03 and not self.steady:
            self.lose()
        if self.rng.random() < 0.05:
            self.driver = self.driver.restart()

    # --- the publisher

    def publish(self) -> None:
        """In another order than that of the numbers."""
        if not self._unordered:
            first = len(self.published)
            self._unordered = self.rng.sample(range(first, first + 4), 4)
        # Some can't be events.
        number = self._unordered.pop()
        self._write(f"{'bad' if number % 7 == 6 else 'e'}{number}")

    def publish_again(self) -> None:
        if self.published:
            self._write(self.rng.choice(self.published))

    def _write(self, event_id: str) -> None:
        self._next_ms += self.rng.choice((0, 1, 9))
        self._last = (self._next_ms, self._last[1] + 1 if self._last[0] == self._next_ms else 0)
        invalid = "no event" if event_id.startswith("bad") else ""
        entry_id = f"{self._last[0]}-{self._last[1]}"
        self.entries.append(StreamEntry(entry_id, event_id, msgspec.json.encode({"id": event_id}), invalid=invalid))
        if event_id not in self.published:
            self.published.append(event_id)

    def lose(self) -> None:
        """The server begins anew, once with a clock that was set back; the publisher writes all events again."""
        self.losses += 1
        self.entries.clear()
        self.said.clear()
        self._next_ms = _EARLY if self.losses == 2 else self._next_ms + 1
        for event_id in self.published:
            self._write(event_id)

    # --- the readers

    def read(self) -> None:
        """From the cursor on; or from before, for whoever led has not heard that it had been taken up."""
        is_lost = self.is_lost
        places = [self._place(entry) for entry in self.entries]
        first = 0 if is_lost else sum(place <= self.cursor for place in places)
        first = max(0, first - self.rng.choice((0, 0, 3)))
        entries = self.entries[first : first + self.rng.randint(1, AT_ONCE)]
        doubled = tuple(entry for entry in entries for _ in range(self.rng.choice((1, 1, 2))))
        self._say(ReceiveEvents("default", EVENT, doubled, is_lost))

    def say_again(self) -> None:
        if self.said:
            self._say(self.rng.choice(self.said))

    def _say(self, command: ReceiveEvents) -> None:
        self.said.append(command)
        answer = self.driver.do(command)
        if isinstance(answer, Rejected):
            self.refused[answer.reason] += 1
            return
        assert isinstance(answer, EventsReceived)
        self.refused[answer.reason] += 1
        assert (answer.taken == len(command.entries)) == (answer.reason == "")
        if self.rng.random() < 0.7 and not command.restarted:
            # It heard the answer. What is acknowledged is never given to anybody again.
            gone = {entry.entry_id for entry in command.entries[: answer.taken]}
            self.entries = [entry for entry in self.entries if entry.entry_id not in gone]

    @staticmethod
    def _place(entry: StreamEntry) -> tuple[int, int]:
        found = streams.position(entry.entry_id)
        assert found is not None
        return found

    # --- the cluster

    def decide(self) -> None:
        for row in queries.pending_events(self.driver.state, "default"):
            for name in row.undecided:
                kept = self.driver.state.resident[Table.EVENT_HANDLER]["default", name]
                self.driver.ok(DecideEvent(row.number, name, kept.revision, True))

    def rest(self) -> None:
        """The handlers are not active for a while, and miss nothing that they had begun with."""
        self.decide()
        start = action("start_workflow", name="quick")
        is_active = self.rng.random() < 0.7
        put_handler(self.driver, start, name="plain", event=EVENT, active=is_active)
        put_handler(self.driver, start, name="asks", event=EVENT, condition="true", active=is_active)

    def heal(self) -> None:
        """Until all has been taken up."""
        for _ in range(1_000):
            self.decide()
            is_active = bool(self.driver.state.triggers.streams)
            if is_active and not self.is_lost and all(self._place(entry) <= self.cursor for entry in self.entries):
                break
            self.rest() if not is_active else self.read()
        else:
            raise AssertionError("not all entries have been taken up")
        while queries.pending_events(self.driver.state, "default"):
            self.decide()


def effects(driver: Driver, handler: str) -> Counter[str]:
    """How often the handler has acted, by event id."""
    runs = [run for run in event_runs(driver) if run.handler == handler and run.action]
    assert {run.state for run in runs} <= {EventRunState.COMPLETED}
    return Counter(run.message_id for run in runs)


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_each_event_takes_effect_once(seed: int, steady: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENTS_FROM_STREAMS", 6)
    if steady:
        monkeypatch.setattr(limits, "EVENTS_SEEN", 1)
    stream = Stream(seed, steady=steady)
    for _ in range(STEPS):
        stream.step()
    stream.heal()
    good = {event_id for event_id in stream.published if event_id.startswith("e")}
    for handler in ("plain", "asks"):
        assert effects(stream.driver, handler) == dict.fromkeys(good, 1), f"seed {seed}, {handler}"
    dead = [row.event_id for row in stream.driver.state.resident[Table.OUTBOX].values()]
    # After a loss their own ids are all that tells them apart.
    assert not steady or len(dead) == len(set(dead))
    assert {event_id.partition("/")[0] for event_id in dead} == set(stream.published) - good


def test_the_runs_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are taken up, left for later and lost; and of some, all that is known are the ids of their events."""
    monkeypatch.setattr(limits, "EVENTS_FROM_STREAMS", 6)
    refused: Counter[str] = Counter()
    losses = repeated = 0
    for seed in range(4):
        stream = Stream(seed)
        for _ in range(STEPS):
            stream.step()
        refused += stream.refused
        losses += stream.losses
        repeated += stream.driver.state.resident[Table.STREAM]["default", EVENT].repeated
    assert min(refused[""], refused["EVENTS_FULL"], refused["STREAM_NOT_HANDLED"]) > 5 and losses > 5 and repeated > 50
