"""The attempts that a worker holds, and what is still to be said about them. No I/O.

A result is kept and sent again after each reconnection until its verdict comes. An assignment of an attempt that is
held already, or was, is not executed twice. Frames of a lower (term, generation) come from a leader that is none any
more and are ignored.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client.log_buffer import BYTES_MAX, LogBuffer

Key = tuple[str, int]
"""(task id, fencing token)"""

RESULTS_PER_FRAME = 500
RESULT_BYTES_PER_FRAME = 1 << 20
# How many ended attempts are remembered, in case a new leader hands one out again that it believes not received.
ENDED_KEPT = 10_000
# Heartbeats that are to be answered after no slot is offered any more, until it is certain that nothing comes: the
# first answer may be to a heartbeat that was said before.
ANSWERS_TO_DRAIN = 2
# How many of the newest releases are said again after a reconnection; a release has no answer.
RELEASES_REPEATED = 1_000


def new_session_id() -> str:
    return secrets.token_hex(16)


class State(Enum):
    RUNNING = auto()
    # Told to stop; still running.
    CANCELLED = auto()
    # It has a result, which waits for its verdict.
    FINISHED = auto()


@dataclass
class Attempt:
    """An attempt that this worker was handed."""

    assignment: pb.Assignment
    state: State = State.RUNNING
    # Cancelled, and a result would not count any more.
    fenced: bool = False
    # The session it was leased to is gone: the server expects nothing more of it.
    lost: bool = False
    result: pb.TaskResult | None = None
    # Only the task's own heartbeats count as signs of life.
    beats_itself: bool = False
    # Of the newest heartbeat; None until there is one.
    details: Payload | None = None
    logged: LogBuffer = field(default_factory=LogBuffer)

    @property
    def key(self) -> Key:
        return self.assignment.task_id, self.assignment.fencing_token

    @property
    def held(self) -> pb.HeldAttempt:
        given = self.assignment
        return pb.HeldAttempt(workflow_id=given.workflow_id, task_id=given.task_id, fencing_token=given.fencing_token)


@dataclass
class Events:
    """What a frame from the leader means for the worker."""

    # Not from the present leader: the stream is of no use.
    stale: bool = False
    welcome: pb.WorkWelcome | None = None
    start: list[Attempt] = field(default_factory=list)
    cancel: list[Attempt] = field(default_factory=list)
    verdicts: list[tuple[Attempt, pb.TaskVerdict]] = field(default_factory=list)
    go_away: pb.WorkGoAway | None = None


class WorkerSession:
    """A worker's session, across all the streams that carry it."""

    def __init__(self, hello: pb.WorkHello, make_session_id: Callable[[], str] | None = None) -> None:
        self._hello = hello
        self._make_session_id = make_session_id or new_session_id
        self.term = 0
        self.generation = 0
        # Chosen here, so that a hello that has to be repeated does not open a second session.
        self.session_id = self._make_session_id()
        self.draining = False
        self.attempts: dict[Key, Attempt] = {}
        # Ended attempts, oldest first, each with what to release should it be handed out again.
        self._ended: OrderedDict[Key, pb.HeldAttempt | None] = OrderedDict()
        self._results: dict[Key, pb.TaskResult] = {}
        self._releases: list[pb.HeldAttempt] = []
        self._released: list[pb.HeldAttempt] = []
        self._beats: dict[Key, pb.AttemptHeartbeat] = {}
        # Beats that wait for the next tick; others go at once.
        self._idle_beats: set[Key] = set()
        self._says_logs = False
        self._slots: int | None = None
        # Of heartbeats, since the leader was told that there are no slots any more.
        self._answers = 0
        self._asks = False

    @property
    def drained(self) -> bool:
        """Nothing is held, and the leader has said everything that it said before it knew of no slots."""
        return self.draining and not self.attempts and self._answers >= ANSWERS_TO_DRAIN

    @property
    def owes(self) -> bool:
        """Something about its attempts is still to be said, or to be answered by a verdict."""
        finished = any(attempt.state is State.FINISHED for attempt in self.attempts.values())
        return finished or bool(self._beats or self._releases)

    def hello(self) -> pb.WorkHello:
        """The first frame of a stream; everything unanswered is said again after it."""
        frame = pb.WorkHello()
        frame.CopyFrom(self._hello)
        frame.session_id = self.session_id
        frame.held.extend(attempt.held for attempt in self.attempts.values() if not attempt.lost)
        if self.draining:
            # A session can't be opened without a slot, only resumed; the next frame says none in any case.
            frame.slots = 0 if frame.held else 1
            self._slots = 0
        return frame

    def forget(self) -> list[Attempt]:
        """The server does not know the session any more; answers the attempts that go on in vain."""
        self.session_id = self._make_session_id()
        self.generation = 0
        self._released.clear()
        running = []
        for attempt in self.attempts.values():
            attempt.lost = True
            if attempt.state is State.RUNNING:
                attempt.state = State.CANCELLED
                attempt.fenced = True
                running.append(attempt)
        return running

    def receive(self, frame: pb.WorkResponse) -> Events:
        """Takes up a frame; the caller starts and cancels what the events say."""
        kind = frame.WhichOneof("frame")
        if kind == "welcome":
            return self._welcomed(frame)
        if (frame.term, frame.generation) < (self.term, self.generation):
            return Events(stale=True)
        self.term, self.generation = frame.term, frame.generation
        if kind == "assignments":
            verdicts = [pair for verdict in frame.assignments.verdicts for pair in self._judged(verdict)]
            start = [a for given in frame.assignments.assignments for a in self._assigned(given)]
            return Events(start=start, verdicts=verdicts)
        if kind == "cancellations":
            return Events(cancel=[a for told in frame.cancellations.cancellations for a in self._cancelled(told)])
        if kind == "verdicts":
            return Events(verdicts=[pair for verdict in frame.verdicts.verdicts for pair in self._judged(verdict)])
        if kind == "go_away":
            return Events(go_away=frame.go_away)
        if kind == "alive" and self.draining and self._slots is None:
            self._answers += 1
            self._asks = self._answers < ANSWERS_TO_DRAIN
        return Events()

    def finish(self, attempt: Attempt, result: pb.TaskResult) -> None:
        """The attempt has ended with a result."""
        if attempt.fenced or attempt.lost:
            self.stopped(attempt)
            return
        attempt.state = State.FINISHED
        result.logs.extend(attempt.logged.take())
        attempt.result = result
        self._results[attempt.key] = result
        self._idle_beats.discard(attempt.key)

    def stopped(self, attempt: Attempt) -> None:
        """The cancelled attempt has ended without a result that counts: its slot is free."""
        held = None if attempt.lost else attempt.held
        self._end(attempt, held)
        if held is not None:
            self._releases.append(held)

    def beat(self, attempt: Attempt, details: Payload | None) -> None:
        """A sign of life from the task itself; goes with the next tick, or before its result."""
        if attempt.state is not State.RUNNING:
            return
        if details is not None:
            attempt.details = details
        self._beats[attempt.key] = self._heartbeat_of(attempt)
        self._idle_beats.add(attempt.key)

    def tick(self) -> None:
        """Lets the heartbeats of tasks go, and what they have logged."""
        self._idle_beats.clear()
        self._says_logs = True

    def heartbeat(self) -> pb.WorkHeartbeat:
        """The session's own sign of life, for all attempts that do not beat themselves."""
        running = [attempt for attempt in self.attempts.values() if attempt.state is State.RUNNING]
        if not any(attempt.beats_itself for attempt in running):
            return pb.WorkHeartbeat(all_attempts=True)
        quiet = [attempt for attempt in running if not attempt.beats_itself]
        return pb.WorkHeartbeat(
            attempts=[
                pb.AttemptHeartbeat(
                    workflow_id=attempt.assignment.workflow_id,
                    task_id=attempt.assignment.task_id,
                    fencing_token=attempt.assignment.fencing_token,
                )
                for attempt in quiet
            ]
        )

    def drain(self) -> None:
        """Asks for no more attempts."""
        self.draining = True
        self._slots = 0

    def outgoing(self) -> Iterator[pb.WorkRequest]:
        """The frames that are to be sent now; what comes up meanwhile gathers for the next time."""
        if self._slots is not None:
            yield pb.WorkRequest(slots=pb.WorkSlots(slots=self._slots))
            self._slots = None
            self._answers, self._asks = 0, True
        if self._asks:
            self._asks = False
            yield pb.WorkRequest(heartbeat=self.heartbeat())
        due = [key for key in self._beats if key not in self._idle_beats]
        if due:
            yield pb.WorkRequest(heartbeat=pb.WorkHeartbeat(attempts=[self._beats.pop(key) for key in due]))
        if self._says_logs:
            self._says_logs = False
            for attempt in list(self.attempts.values()):
                lines = [] if attempt.fenced or attempt.lost else attempt.logged.take()
                if lines:
                    yield pb.WorkRequest(logs=pb.WorkLogs(attempts=[_logs_of(attempt, lines)]))
        while self._results:
            yield pb.WorkRequest(results=pb.WorkResults(results=self._take_results()))
        if self._releases:
            releases, self._releases = self._releases, []
            self._released = [*self._released, *releases][-RELEASES_REPEATED:]
            yield pb.WorkRequest(release=pb.WorkRelease(attempts=releases))

    def _take_results(self) -> list[pb.TaskResult]:
        taken: list[pb.TaskResult] = []
        size = 0
        while self._results and len(taken) < RESULTS_PER_FRAME:
            key, result = next(iter(self._results.items()))
            more = len(result.output.inline) + (BYTES_MAX if result.logs else 0)
            if taken and size + more > RESULT_BYTES_PER_FRAME:
                # A large one has a frame of its own.
                break
            del self._results[key]
            taken.append(result)
            size += more
        return taken

    def _welcomed(self, frame: pb.WorkResponse) -> Events:
        welcome = frame.welcome
        cancel: list[Attempt] = []
        if welcome.resumed:
            # Any node that still takes itself for the leader can say this, so it has to prove to be no older.
            if (frame.term, frame.generation) < (self.term, self.generation):
                return Events(stale=True)
        else:
            cancel = self.forget()
        # A new session is in the log, so it comes from a true leader, of whatever term.
        self.term, self.generation = frame.term, frame.generation
        self.session_id = welcome.session_id
        self._results = {key: a.result for key, a in self.attempts.items() if a.result is not None}
        self._releases = [*self._released, *self._releases]
        self._released = []
        for key, attempt in self.attempts.items():
            if attempt.state is State.RUNNING and attempt.details is not None:
                self._beats[key] = self._heartbeat_of(attempt)
        return Events(welcome=welcome, cancel=cancel)

    def _assigned(self, given: pb.Assignment) -> list[Attempt]:
        key = (given.task_id, given.fencing_token)
        if key in self.attempts:
            return []
        if key in self._ended:
            held = self._ended[key]
            if held is not None:
                self._releases.append(held)
            return []
        attempt = self.attempts[key] = Attempt(given)
        return [attempt]

    def _cancelled(self, told: pb.Cancellation) -> list[Attempt]:
        attempt = self.attempts.get((told.task_id, told.fencing_token))
        if attempt is None:
            # It never came here, or has ended: either way no slot is in use.
            key = (told.task_id, told.fencing_token)
            held = pb.HeldAttempt(workflow_id=told.workflow_id, task_id=told.task_id, fencing_token=told.fencing_token)
            if key not in self._ended:
                self._remember(key, held)
                self._releases.append(held)
            return []
        attempt.fenced = attempt.fenced or told.fenced
        if attempt.state is not State.RUNNING:
            return []
        attempt.state = State.CANCELLED
        return [attempt]

    def _judged(self, verdict: pb.TaskVerdict) -> list[tuple[Attempt, pb.TaskVerdict]]:
        attempt = self.attempts.get((verdict.task_id, verdict.fencing_token))
        if attempt is None or attempt.state is not State.FINISHED:
            return []
        self._end(attempt, None)
        return [(attempt, verdict)]

    def _end(self, attempt: Attempt, held: pb.HeldAttempt | None) -> None:
        self.attempts.pop(attempt.key, None)
        self._results.pop(attempt.key, None)
        self._beats.pop(attempt.key, None)
        self._idle_beats.discard(attempt.key)
        self._remember(attempt.key, held)

    def _remember(self, key: Key, held: pb.HeldAttempt | None) -> None:
        self._ended[key] = held
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)

    @staticmethod
    def _heartbeat_of(attempt: Attempt) -> pb.AttemptHeartbeat:
        given = attempt.assignment
        return pb.AttemptHeartbeat(
            workflow_id=given.workflow_id,
            task_id=given.task_id,
            fencing_token=given.fencing_token,
            details=attempt.details,
        )


def _logs_of(attempt: Attempt, lines: list[pb.LogLine]) -> pb.AttemptLogs:
    held = attempt.held
    return pb.AttemptLogs(
        workflow_id=held.workflow_id, task_id=held.task_id, fencing_token=held.fencing_token, lines=lines
    )
