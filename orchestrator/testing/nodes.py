"""The nodes of a test: real ones, which say what becomes of their log, and whose time can be passed over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.config import Config
from orchestrator.engine import system
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.results import AnyResult
from orchestrator.engine.state import State
from orchestrator.replication.log import EntryKind, ReplicatedLog, Role
from orchestrator.replication.ports import Clock
from orchestrator.replication.sequencer import Sequencer
from orchestrator.testing.machine import Machine
from orchestrator.testing.member import SimulatedMember, SimulatedNode
from orchestrator.world import World
from orchestrator_client.attempts import WorkerSession


class LogObserver:
    """Told of what the leader does with an entry, in this order, before anything else comes of it."""

    def appended(self, member: TestMember, index: int, kind: EntryKind, data: bytes) -> None:
        """It is in the leader's log, and not on its way to anybody."""

    def durable(self, member: TestMember, index: int) -> None:
        """Everything up to this index is on this member's disk."""

    def applied(self, member: TestMember, index: int) -> None:
        """It is on a majority of disks and in the leader's state; no caller or worker has been told."""


@dataclass
class Skipped:
    """How much time was passed over so far."""

    seconds: float = 0.0


class SkippingClock:
    """A machine's clocks, with the time that was passed over."""

    def __init__(self, clock: Clock, skipped: Skipped) -> None:
        self._clock = clock
        self._skipped = skipped

    def monotonic(self) -> float:
        return self._clock.monotonic() + self._skipped.seconds

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + int(self._skipped.seconds * 1000)


class TestNode(SimulatedNode):
    """A node of a test."""

    __test__ = False  # it is none of pytest's

    def __init__(self, member: TestMember, world: World, observer: LogObserver) -> None:
        super().__init__(member.config, world)
        self._member = member
        self._observer = observer

    def begin_system_work(self) -> None:
        # Most tests have none, and can do without the sessions for it.
        if self._member.does_system_work:
            super().begin_system_work()

    # -- what it says ----------------------------------------------------------------------------------------------

    def entry_applied(self, index: int, term: int, results: Sequence[AnyResult], effects: list[AnyEffect]) -> None:
        if self._log.role is Role.LEADER:
            self._observer.applied(self._member, index)
        super().entry_applied(index, term, results, effects)

    def _make_log(self) -> ReplicatedLog:
        log: Any = super()._make_log()
        durable_moved: Callable[[], None] = log._durable_moved

        def moved() -> None:
            self._observer.durable(self._member, log.durable_index)
            durable_moved()

        log._durable_moved = moved
        return log  # type: ignore[no-any-return]  # it is what super() made

    def _make_sequencer(self) -> Sequencer:
        # The log has just started, and nothing was appended by this node yet.
        journal: Any = self._log._core.journal
        append = journal.append

        def appending(index: int, term: int, kind: int, data: bytes) -> Any:
            record = append(index, term, kind, data)
            if self._log.role is Role.LEADER:
                self._observer.appended(self._member, index, EntryKind(kind), data)
            return record

        journal.append = appending
        return super()._make_sequencer()

    # -- whether it has anything to do -----------------------------------------------------------------------------

    @property
    def own_sessions(self) -> list[WorkerSession | None]:
        """Of its own work, if it does any; None for one that is not connected."""
        return [session.session for session in self._system.sessions] if self._member.does_system_work else []

    @property
    def waits_for_nodes(self) -> bool:
        """Something is to be executed by the nodes themselves."""
        return any(system.is_queue(ready.name) for ready in self.state.ready.values())

    @property
    def state(self) -> State:
        return self._machine().state

    @property
    def serves_as_leader(self) -> bool:
        return self._leadership.leading and self._log.role is Role.LEADER

    @property
    def is_settled(self) -> bool:
        """As the leader: everything that was proposed is applied, and nothing is owed but what time brings."""
        log, sequencer = self._log, self._sequencer
        return (
            not sequencer.queue_commands
            and not sequencer.in_flight
            and log.last_index == log.commit_index == self._applier.applied_index
            and self.state.next_message() is None
        )

    def next_due(self, sessions: Collection[str], tokens: Collection[int]) -> float | None:
        """In how many seconds time brings something, if these sessions and attempts go on giving signs of life."""
        due = []
        if (timer := self.state.next_timer()) is not None:
            due.append((timer.fire_ms - self._log_clock.peek_ms()) / 1000)
        if (deadline := self._leadership.liveness.next_deadline(sessions, tokens)) is not None:
            due.append(deadline - self._time.monotonic())
        return max(0.0, min(due)) if due else None

    def time_passed(self, sessions: Iterable[str], tokens: Iterable[int]) -> None:
        """Time was passed over, in which these sessions and attempts have given signs of life."""
        for session in sessions:
            self._leadership.liveness.session_seen(session)
        for token in tokens:
            self._leadership.liveness.attempt_seen(token)
        self._leadership.time_passed()


async def _begin(node: TestNode) -> None:
    """In its process."""
    node.begin_system_work()


class TestMember(SimulatedMember[TestNode]):
    """A member of a test's cluster."""

    __test__ = False

    def __init__(
        self,
        machine: Machine,
        config: Config,
        skipped: Skipped,
        observer: LogObserver,
        on_failed: Callable[[str], None],
    ) -> None:
        super().__init__(machine, config)
        self._skipped = skipped
        self._observer = observer
        self._on_failed = on_failed
        self.does_system_work = False

    def begin_system_work(self) -> None:
        """Now, and whenever it is started."""
        if not self.does_system_work:
            self.does_system_work = True
            if self.serving and self.node is not None:
                self._begun = self.machine.spawn(_begin(self.node), "system work")

    def make_node(self, world: World) -> TestNode:
        time = SkippingClock(world.clock, self._skipped)
        return TestNode(self, replace(world, time=time), self._observer)

    def failed(self, error: BaseException) -> None:
        self._on_failed(f"node {self.name} stopped itself: {error!r}")

    @property
    def is_paused(self) -> bool:
        """It stands still."""
        return self.machine.process is not None and self.machine.process.paused
