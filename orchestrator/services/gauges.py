"""Sets the gauges of a node from what its parts say of themselves, when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.engine import queries
from orchestrator.engine.effects import AnyEffect, ExecutionChanged, ExecutionDeleted, SessionEnded
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult
from orchestrator.engine.state import State
from orchestrator.replication.log import Role, Status
from orchestrator.replication.sequencer import Sequencer
from orchestrator.storage.flusher import Flusher
from orchestrator.telemetry.metrics import Metrics

# What the transport counts besides its traffic.
TRAFFIC = frozenset({"frames_sent", "frames_received", "bytes_sent"})


class Gauges:
    """Remembers only who led, to count changes of leader."""

    def __init__(
        self, metrics: Metrics, free_disk_bytes: Callable[[], int], unreadable_secrets: Callable[[State], int]
    ) -> None:
        self._metrics = metrics
        self._free_disk_bytes = free_disk_bytes
        self._unreadable_secrets = unreadable_secrets
        self._leader: str | None = None
        self._dropped: dict[str, int] = {}

    def set(self, status: Status, state: State, sequencer: Sequencer, flusher: Flusher, applied_index: int) -> None:
        metrics = self._metrics
        forming = status.role in (Role.FORMING, Role.AWAITING_ADMISSION)
        metrics.role.state("awaiting_admission" if forming else status.role.value)
        self.led_by(status.leader)
        for gauge, value in (
            (metrics.term, status.term),
            (metrics.last_index, status.last_index),
            (metrics.durable_index, status.durable_index),
            (metrics.commit_index, status.commit_index),
            (metrics.applied_index, applied_index),
            (metrics.flushed_index, flusher.flushed_index),
            (metrics.flush_lag_entries, applied_index - flusher.flushed_index),
            (metrics.journal_bytes, status.journal_bytes),
            (metrics.dirty_bytes, flusher.dirty_bytes),
            (metrics.database_bytes, flusher.database.file_bytes),
            (metrics.database_free_bytes, flusher.database.free_bytes),
            (metrics.hot_executions, state.hot_count),
            (metrics.queue_bytes, sequencer.queue_bytes),
            (metrics.queue_commands, sequencer.queue_commands),
            (metrics.peers_connected, sum(peer.connected for peer in status.peers)),
            (metrics.live_workflows, state.meta.live_executions),
            (metrics.ready_tasks, len(state.ready)),
            (metrics.leased_tasks, len(state.leases)),
            (metrics.worker_sessions, queries.worker_sessions(state)),
            (metrics.stuck_compensations, state.meta.stuck_compensations),
            (metrics.schedules, len(state.resident[Table.SCHEDULE])),
            (metrics.pending_events, len(state.resident[Table.EVENT])),
            (metrics.unreadable_secrets, self._unreadable_secrets(state)),
            (metrics.disk_free_bytes, self._free_disk_bytes()),
        ):
            gauge.set(value)
        self._count_drops(status.counters)
        for peer in status.peers:
            if peer.lag_entries is not None:
                metrics.follower_lag_entries.labels(peer.name).set(peer.lag_entries)

    def led_by(self, leader: str | None) -> None:
        """Counts changes; to be told some times a second."""
        if leader != self._leader:
            self._leader = leader
            self._metrics.leader_changes.inc()

    def entry_applied(self, results: Sequence[AnyResult], effects: Sequence[AnyEffect], *, leading: bool) -> None:
        """Counts what an entry did; what happens once in the cluster is counted by the leader alone."""
        if results:
            self._metrics.entry_commands.observe(len(results))
        if not leading:
            return
        started = 0
        for effect in effects:
            if isinstance(effect, ExecutionChanged):
                started += effect.started
            elif isinstance(effect, ExecutionDeleted):
                self._metrics.workflows_deleted.inc()
            elif isinstance(effect, SessionEnded) and effect.lost:
                self._metrics.sessions_lost.inc()
        if started:
            self._metrics.workflows_started.inc(started)

    def _count_drops(self, counters: Mapping[str, int]) -> None:
        for reason, count in counters.items():
            if reason in TRAFFIC:
                continue
            self._metrics.transport_drops.labels(reason).inc(count - self._dropped.get(reason, 0))
            self._dropped[reason] = count
