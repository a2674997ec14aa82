"""Sets the gauges of a node from what its parts say of themselves, when they are read; and counts what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Protocol

from orchestrator.engine import queries
from orchestrator.engine.effects import (
    AnyEffect,
    AttemptEnded,
    AttemptLeased,
    AttemptRetried,
    ExecutionChanged,
    ExecutionDeleted,
    SessionEnded,
)
from orchestrator.engine.model import CompensationState, Table, TaskStatus
from orchestrator.engine.results import AnyResult
from orchestrator.engine.state import State
from orchestrator.engine.triggers.queries import streams
from orchestrator.engine.triggers.streams import stream_of
from orchestrator.replication.log import Role, Status
from orchestrator.replication.release import level_of_all
from orchestrator.replication.sequencer import Sequencer
from orchestrator.services.census import Census
from orchestrator.services.ports import Performs
from orchestrator.storage.flusher import Flusher
from orchestrator.telemetry.families import largest
from orchestrator.telemetry.metrics import Metrics

# What the transport counts besides its traffic.
TRAFFIC = frozenset({"frames_sent", "frames_received", "bytes_sent"})


class StreamsKnown(Protocol):
    """What a node that was told where Redis is knows of it."""

    def link_state(self, *, leading: bool) -> bool | None:
        """Whether it is connected; None if it has no reason to be."""

    def lag(self, namespace: str, event: str) -> int | None: ...


@dataclass(frozen=True)
class Readings:
    """Where a node is at the moment."""

    status: Status
    state: State
    sequencer: Sequencer
    flusher: Flusher
    applied_index: int
    log_time_ms: int
    leading: bool
    streams: StreamsKnown | None = None


class Gauges:
    """Remembers only who led, to count changes of leader. What happens once in the cluster, the leader counts."""

    def __init__(
        self,
        metrics: Metrics,
        free_disk_bytes: Callable[[], int],
        unreadable_secrets: Callable[[State], int],
        state: Callable[[], State],
    ) -> None:
        self._metrics = metrics
        self._free_disk_bytes = free_disk_bytes
        self._unreadable_secrets = unreadable_secrets
        self._state = state
        self._leader: str | None = None
        self._dropped: dict[str, int] = {}
        self.performs: Performs = {
            ExecutionChanged: self._execution_changed,
            ExecutionDeleted: lambda effect: metrics.workflows_deleted.inc(),
            SessionEnded: self._session_ended,
            AttemptLeased: self._attempt_leased,
            AttemptEnded: self._attempt_ended,
            AttemptRetried: lambda effect: metrics.task_retries.inc(effect.name),
        }

    # -- when they are read

    def set(self, now: Readings, census: Census) -> None:
        self.led_by(now.status.leader)
        self._set_consensus(now)
        self._set_storage(now)
        self._set_work(now)
        self._count_drops(now.status.counters)
        self._set_peers(now.status)
        self._set_queues(now, census)
        self._set_streams(now)

    def _set_consensus(self, now: Readings) -> None:
        metrics, status = self._metrics, now.status
        forming = status.role in (Role.FORMING, Role.AWAITING_ADMISSION)
        metrics.role.state("awaiting_admission" if forming else status.role.value)
        for gauge, value in (
            (metrics.is_leader, now.leading),
            (metrics.term, status.term),
            (metrics.voters, len(status.configuration.members) if status.configuration else 0),
            (metrics.behaviour_level, now.state.meta.behaviour_level),
            (metrics.behaviour_level_known, level_of_all(status.releases)),
            (metrics.last_index, status.last_index),
            (metrics.durable_index, status.durable_index),
            (metrics.commit_index, status.commit_index),
            (metrics.applied_index, now.applied_index),
            (metrics.queue_bytes, now.sequencer.queue_bytes),
            (metrics.queue_commands, now.sequencer.queue_commands),
            (metrics.queue_age_seconds, now.sequencer.queue_age_ms / 1000),
            (metrics.peers_connected, sum(peer.connected for peer in status.peers)),
        ):
            gauge.set(value)

    def _set_storage(self, now: Readings) -> None:
        metrics, flusher = self._metrics, now.flusher
        for gauge, value in (
            (metrics.journal_bytes, now.status.journal_bytes),
            (metrics.flushed_index, flusher.flushed_index),
            (metrics.flush_lag_entries, now.applied_index - flusher.flushed_index),
            (metrics.dirty_bytes, flusher.dirty_bytes),
            (metrics.database_bytes, flusher.database.file_bytes),
            (metrics.database_free_bytes, flusher.database.free_bytes),
            (metrics.hot_executions, now.state.hot_count),
            (metrics.hot_bytes, now.state.hot_bytes),
            (metrics.disk_free_bytes, self._free_disk_bytes()),
        ):
            gauge.set(value)

    def _set_work(self, now: Readings) -> None:
        metrics, state = self._metrics, now.state
        sessions = queries.worker_sessions(state)
        for gauge, value in (
            (metrics.live_workflows, state.meta.live_executions),
            (metrics.waiting_workflows, len(state.waiting)),
            (metrics.stuck_compensations, state.meta.stuck_compensations),
            (metrics.ready_tasks, len(state.ready)),
            (metrics.leased_tasks, len(state.leases)),
            (metrics.worker_sessions, len(sessions)),
            (metrics.worker_slots, sum(session.slots for session in sessions)),
            (metrics.worker_slots_used, sum(session.used for session in sessions)),
            (metrics.schedules, len(state.resident[Table.SCHEDULE])),
            (metrics.timers, len(state.timers)),
            (metrics.pending_events, len(state.resident[Table.EVENT])),
            (metrics.kept_events, len(state.resident[Table.KEPT_EVENT])),
            (metrics.awaiting_tasks, len(state.resident[Table.AWAITING])),
            (metrics.blobs, state.blobs.live),
            (metrics.blob_bytes, state.blobs.bytes),
            (metrics.blobs_unused, state.blobs.unused),
            (metrics.unreadable_secrets, self._unreadable_secrets(state)),
        ):
            gauge.set(value)

    def _set_peers(self, status: Status) -> None:
        metrics = self._metrics
        known = [peer for peer in status.peers if peer.lag_entries is not None]
        metrics.follower_lag_entries.put({(peer.name,): peer.lag_entries or 0 for peer in known})
        metrics.follower_in_flight_bytes.put({(peer.name,): peer.in_flight_bytes or 0 for peer in known})
        metrics.follower_contact_age_seconds.put({(peer.name,): (peer.last_contact_ms or 0) / 1000 for peer in known})
        going, left = dict.fromkeys((("in",), ("out",)), 0), dict.fromkeys((("in",), ("out",)), 0)
        for transfer in status.transfers:
            direction = ("in" if transfer.incoming else "out",)
            going[direction] += 1
            left[direction] += transfer.size_bytes - transfer.done_bytes
        metrics.snapshot_transfers.put(going)
        metrics.snapshot_left_bytes.put(left)

    def _set_queues(self, now: Readings, census: Census) -> None:
        """What only the leader says, for it is the same on all, or known to nobody else."""
        metrics, state = self._metrics, now.state
        found = census.found if now.leading else None
        metrics.paused_workflows.put_one(None if found is None else found.paused)
        metrics.compensating_workflows.put_one(None if found is None else found.compensating)
        if not now.leading:
            metrics.oldest_ended_age_seconds.put_one(None)
        if found is None:
            metrics.timer_delay_seconds.put_one(None)
            metrics.queued_tasks.put({})
            metrics.oldest_queued_task_age_seconds.put({})
            return
        timer = state.next_timer()
        metrics.timer_delay_seconds.put_one(max(0, now.log_time_ms - timer.fire_ms) / 1000 if timer else 0.0)
        metrics.queued_tasks.put(largest(state.queues.counts(), add))
        ages = {queue: max(0, now.log_time_ms - since_ms) / 1000 for queue, since_ms in found.oldest_queued_ms.items()}
        metrics.oldest_queued_task_age_seconds.put(largest(ages, max))

    def _set_streams(self, now: Readings) -> None:
        """What the leader owes to streams, and has had from them."""
        metrics, owed = self._metrics, now.state.triggers.owed
        known = now.streams
        linked = None if known is None else known.link_state(leading=now.leading)
        metrics.redis_connected.put_one(None if linked is None else float(linked))
        leaving = owed.streams() if now.leading else []
        oldest = {(name,): event for name in leaving if (event := owed.oldest(name)) is not None}
        ages = {name: max(0, now.log_time_ms - event.time_ms) / 1000 for name, event in oldest.items()}
        metrics.outbox_events.put(largest({(name,): owed.count_of(name) for name in leaving}, add))
        metrics.outbox_bytes.put_one(owed.bytes if now.leading else None)
        metrics.outbox_oldest_age_seconds.put(largest(ages, max))
        found = streams(now.state) if now.leading else []
        rows = {(row.namespace, stream_of(row.event)): row for row in found}
        lags = {key: lag for key, row in rows.items()
                if known is not None and (lag := known.lag(row.namespace, row.event)) is not None}
        metrics.stream_lag_entries.put(largest(lags, add))
        metrics.events_received.put(largest({key: row.received for key, row in rows.items()}, add))
        metrics.events_repeated.put(largest({key: row.repeated for key, row in rows.items()}, add))
        metrics.events_dead_lettered.put(largest({key: row.dead for key, row in rows.items()}, add))

    def _count_drops(self, counters: Mapping[str, int]) -> None:
        for reason, count in counters.items():
            if reason in TRAFFIC:
                continue
            self._metrics.transport_drops.labels(reason).inc(count - self._dropped.get(reason, 0))
            self._dropped[reason] = count

    # -- as it happens

    def led_by(self, leader: str | None) -> None:
        """Counts changes; to be told some times a second."""
        if leader != self._leader:
            self._leader = leader
            self._metrics.leader_changes.inc()

    def entry_applied(self, results: Sequence[AnyResult], effects: Iterable[AnyEffect], *, leading: bool) -> None:
        """Counts what an entry did."""
        if results:
            self._metrics.entry_commands.observe(len(results))
        if not leading:
            return
        performs = self.performs
        for effect in effects:
            count = performs.get(type(effect))
            if count is not None:
                count(effect)

    def _execution_changed(self, effect: ExecutionChanged) -> None:
        metrics = self._metrics
        if effect.started:
            metrics.workflows_started.inc()
        if not effect.ended:
            return
        hot = self._state().execution((effect.namespace, effect.workflow_id))
        if hot is None:
            # It is gone already, as its own definition wanted.
            return
        x = hot.execution
        metrics.workflows_ended.inc(x.name, x.status.name)
        metrics.workflow_duration_seconds.observe((x.ended_ms - x.created_ms) / 1000, x.name)
        if x.compensation is not CompensationState.NONE:
            metrics.compensations_ended.inc(x.name, x.compensation.name)

    def _session_ended(self, effect: SessionEnded) -> None:
        if effect.lost:
            self._metrics.sessions_lost.inc()

    def _attempt_leased(self, effect: AttemptLeased) -> None:
        waited = effect.waited_ms / 1000
        self._metrics.schedule_to_start_seconds.observe(waited)
        self._metrics.task_wait_seconds.observe(waited, effect.name)

    def _attempt_ended(self, effect: AttemptEnded) -> None:
        metrics, name, status = self._metrics, effect.name, effect.status
        metrics.task_attempts_ended.inc(name, _STATUS_NAMES[status])
        if effect.ran_ms >= 0:
            metrics.task_execution_seconds.observe(effect.ran_ms / 1000, name)
        if status is TaskStatus.TIMED_OUT:
            metrics.task_timeouts.inc(name, effect.error_code)


_STATUS_NAMES = {status: status.name for status in TaskStatus}
