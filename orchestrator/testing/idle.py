"""Passes over time in which nothing would happen but signs of life.

When nothing is under way, what comes next is a timer: of the log (a WAIT, a retry, a timeout), of a silent attempt, of
a task function or the test that sleeps, of a node that is to be started. The time until then passes at once: for log
time, the leader's deadlines, task functions and the test. For all else (heartbeats between nodes and with workers,
elections, long polls) it does not pass, as if there had been nothing but peace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.testing.client import TestClient
from orchestrator.testing.loop import Process, VirtualLoop
from orchestrator.testing.nodes import Skipped, TestMember, TestNode
from orchestrator.testing.serving import ServedWorker
from orchestrator_client.attempts import WorkerSession

# So long nothing must have happened before time is passed over, and less than this is not worth it.
QUIET_SECONDS = 0.1
WORTH_SECONDS = 0.1
# ... and so long before it is said that nothing will ever happen again.
SURE_SECONDS = 2.0
# What is under way for so long, and nothing comes of it, is waited for no longer: all that is tried again comes sooner.
PATIENCE_SECONDS = 120.0
# Who is not connected for so long is cut off.
RECONNECT_SECONDS = 5.0
WAIT_METHODS = ("/orchestrator.v1.WorkflowService/WaitWorkflow", "/orchestrator.v1.WorkflowService/WatchWorkflow")


class Idle:
    """Asked every now and then."""

    def __init__(
        self,
        loop: VirtualLoop,
        members: dict[str, TestMember],
        workers: Sequence[ServedWorker],
        client: TestClient,
        skipped: Skipped,
        own_processes: Callable[[], list[Process]],
    ) -> None:
        self._loop = loop
        self._members = members
        self._workers = workers
        self._client = client
        self._skipped = skipped
        self._own_processes = own_processes
        self._seen: object = None
        # Since when sessions are not connected.
        self._missed: dict[str, float] = {}
        self._seen_at = self._quiet_since = 0.0

    @property
    def leader(self) -> TestNode | None:
        """The node that serves as the leader: of several that believe so, the one in the highest term."""
        leading = [one for one in self._leading() if not one.is_paused]
        found = max(leading, key=lambda one: one.node.log.term if one.node else 0, default=None)
        return found.node if found is not None else None

    def _leading(self) -> list[TestMember]:
        return [one for one in self._members.values() if one.serving and one.node and one.node.serves_as_leader]

    def has_nothing_left(self) -> bool:
        """Passes over the time to the next timer if nothing is under way; True if there is no timer either."""
        now, seen = self._loop.now, self._happened()
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        if now - self._seen_at < PATIENCE_SECONDS and (now == self._seen_at or not self._is_quiet()):
            self._quiet_since = now
            return False
        if now - self._quiet_since < QUIET_SECONDS:
            return False
        due = self._next_due()
        if due is None:
            return now - self._quiet_since > SURE_SECONDS
        if due > WORTH_SECONDS:
            self._seen_at = now
            self._skip(due)
        return False

    def _happened(self) -> object:
        """Differs if anything but signs of life was said or done."""
        leader = self.leader
        if leader is None:
            return None
        running = [(one.machine.boots, one.serving) for one in self._members.values()]
        return leader, leader.log.term, leader.log.last_index, running, sum(len(one.calls.all) for one in self._workers)

    def _is_quiet(self) -> bool:
        connection = self._client.connection
        if self._loop.is_busy(self._own_processes()) or connection.under_way:
            return False
        leader = self.leader
        if leader is not None and leader.waits_for_nodes:
            for member in self._members.values():
                member.begin_system_work()
        if leader is None:
            # Without a majority there will be none, and who waits for it is told so after a while.
            serving = sum(one.serving and not one.is_paused for one in self._members.values())
            return serving * 2 <= len(self._members) and not connection.waiting
        server = self._members[leader.config.node].server
        heard = sum(server.under_way[method] for method in WAIT_METHODS)
        return leader.is_settled and heard >= connection.waiting and self._are_at_work(leader)

    def _sessions(self) -> dict[str, WorkerSession | None]:
        """Of all that runs and executes something: workers, and nodes for themselves. None: not connected."""
        found = {worker.machine.name: worker.session for worker in self._workers if worker.machine.running}
        for member in self._members.values():
            if member.serving and member.node is not None and not member.is_paused:
                found |= {f"{member.name}/{at}": session for at, session in enumerate(member.node.own_sessions)}
        return found

    def _are_at_work(self, leader: TestNode) -> bool:
        """All hold what the leader says, and have nothing to say themselves; or are gone, or cut off, for a while."""
        sessions = self._sessions()
        now, before = self._loop.now, self._missed
        self._missed = {name: before.get(name, now) for name, session in sessions.items() if session is None}
        if any(now - since < RECONNECT_SECONDS for since in self._missed.values()):
            return False
        leases_of = leader.state.leases_of
        return not any(
            session.owes or _held(session) != set(leases_of.get(session.session_id, ()))
            for session in sessions.values()
            if session is not None
        )

    def _signs_of_life(self) -> tuple[list[str], list[int]]:
        """Of sessions and attempts, that would have been given."""
        sessions = [session for session in self._sessions().values() if session is not None]
        attempts = [attempt for session in sessions for attempt in session.attempts.values()]
        tokens = [attempt.assignment.fencing_token for attempt in attempts if not attempt.beats_itself]
        return [session.session_id for session in sessions], tokens

    def _next_due(self) -> float | None:
        due = self._loop.next_timer(self._own_processes())
        if (leader := self.leader) is not None and (of_log := leader.next_due(*self._signs_of_life())) is not None:
            due = of_log if due is None else min(due, of_log)
        return due

    def _skip(self, seconds: float) -> None:
        self._loop.skip(seconds, self._own_processes())
        self._skipped.seconds += seconds
        self._client.connection.time_passed(seconds)
        for member in self._leading():
            assert member.node is not None
            member.node.time_passed(*self._signs_of_life())


def _held(session: WorkerSession) -> set[int]:
    return {attempt.assignment.fencing_token for attempt in session.attempts.values()}
