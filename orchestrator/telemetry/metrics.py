"""Every metric of a node, and the page that Prometheus reads. With `families` the only home of prometheus_client.

Units are in the names. What there is once for each partition has its number as a label; who the node is, the scraper
says (`instance`), and `orchestrator_build_info`. Gauges may be set, or given a function with `set_function`; functions
are called on the event loop, so they may read its state freely. METRICS.md says what each of them means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, disable_created_metrics
from prometheus_client import metrics_core as core
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from orchestrator.telemetry.families import Counts, Histogram, Histograms, Readings, Sums, Totals
from orchestrator.telemetry.metrics_server import MetricsServer

# What starts can be refused for; each has a series from the beginning, so that the first refusal is a change.
SHORT_OF = (
    "starts_under_way", "queue_age", "pending_starts", "live_executions", "dirty_bytes", "free_disk",
    "majority_free_disk", "pending_events",
)
ROLES = ("follower", "candidate", "leader", "learner", "awaiting_admission")

# From a fast disk's sync to an election's length.
_LATENCY_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From a free worker to one that comes tomorrow.
_WAIT_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1_800, 7_200, 43_200)
_CALL_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30)
_COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000)
_LOOP_CHECK_S = 0.1
# Named by users.
_TASK, _WORKFLOW, _QUEUE = ("task",), ("workflow",), ("workflow_namespace", "domain", "task")
_OUTGOING, _INCOMING = ("stream",), ("workflow_namespace", "stream")

# A second series for each counter and histogram that says nothing which process_start_time_seconds does not.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations


class MetricsRegistry(CollectorRegistry):
    """Puts the partition on every sample of what is `of_partition`, so that no caller has to know it."""

    def __init__(self, partition: int) -> None:
        super().__init__()
        self._partition = {"partition": str(partition)}
        self._of_partition: set[Collector] = set()
        # Whether what is registered now is there once for each partition.
        self.is_of_partition = False

    def register(self, collector: Collector) -> None:
        super().register(collector)
        if self.is_of_partition:
            self._of_partition.add(collector)

    def labels_of(self, collector: Collector) -> tuple[str, ...]:
        """Those that its samples have besides their own, first."""
        return tuple(self._partition) if collector in self._of_partition else ()

    def families(self) -> Iterable[tuple[Collector, core.Metric]]:
        for collector in list(self._collector_to_names):
            is_labelled = collector in self._of_partition
            for family in collector.collect():
                if is_labelled:
                    family.samples = [one._replace(labels={**self._partition, **one.labels}) for one in family.samples]
                yield collector, family

    def collect(self) -> Iterable[core.Metric]:
        for _, family in self.families():
            yield family


class Metrics:
    """The attributes are the metrics; `page` is what Prometheus reads of them."""

    def __init__(self, *, node: str, version: str, partition: int = 0) -> None:
        # Called before the numbers are read.
        self.on_read: Callable[[], None] = lambda: None
        # Whether the node is in service, which those ask who send it work.
        self.is_ready: Callable[[], bool] = lambda: False
        self.registry = MetricsRegistry(partition)
        ProcessCollector(registry=self.registry)
        self._gauge("build_info", "1; the labels are the node's name and the version of its software.", "node",
                    "version").labels(node, version).set(1)
        self.registry.is_of_partition = True
        self._consensus()
        self._peers()
        self._storage()
        self._copies()
        self._executions()
        self._tasks()
        self._work()
        self._streams()
        self.registry.is_of_partition = False
        self._calls()
        self._files()
        self._health()

    def _consensus(self) -> None:
        self.role = Enum("orchestrator_role", "1 at the role this node has now.", states=list(ROLES),
                         registry=self.registry)
        self.is_leader = self._gauge("is_leader", "1 on the node that leads and serves, 0 on the others.")
        self.term = self._gauge("term", "The term this node is in.")
        self.voters = self._gauge("voters", "Members that vote, as far as this node knows.")
        self.behaviour_level = self._gauge("behaviour_level", "The behaviour level that the cluster is at.")
        self.behaviour_level_known = self._gauge(
            "behaviour_level_known", "The highest behaviour level that all members know; 0 while one of them is away.")
        self.leader_changes = self._counter("leader_changes", "How often this node saw another leader, or lost it.")
        self.last_index = self._gauge("log_last_index", "The highest log index this node holds.")
        self.durable_index = self._gauge("log_durable_index", "The highest log index on this node's disk.")
        self.commit_index = self._gauge("commit_index", "The highest log index known to be on a majority of disks.")
        self.applied_index = self._gauge("applied_index", "The highest log index in this node's state.")
        self.commit_seconds = self._histogram(
            "commit_seconds",
            "From the proposal of an entry until it is on a majority of disks and applied here; on the leader only.")
        self.entry_commands = self._histogram("entry_commands", "Commands in one log entry.", buckets=_COUNTS)
        self.queue_bytes = self._gauge("queue_bytes", "Commands that wait for their log entry.")
        self.queue_commands = self._gauge("queue_commands", "How many commands wait for their log entry.")
        self.queue_age_seconds = self._gauge(
            "queue_age_seconds", "How long the command has waited that goes into the next log entry first.")

    def _peers(self) -> None:
        self.peers_connected = self._gauge("peers_connected", "Peers with a connection now.")
        self.follower_lag_entries = self._readings(
            "follower_lag_entries", "Entries that the peer has not acknowledged; on the leader only.", "peer")
        self.follower_in_flight_bytes = self._readings(
            "follower_in_flight_bytes", "Entries sent to the peer that it has not acknowledged; on the leader only.",
            "peer")
        self.follower_contact_age_seconds = self._readings(
            "follower_contact_age_seconds", "How long ago the peer was heard of; on the leader only.", "peer")
        self.transport_drops = self._counter(
            "transport_dropped_messages", "Messages to or from peers that were dropped and must be resent.", "reason")
        self.clock_skew_seconds = self._gauge(
            "clock_skew_seconds", "How far this machine's wall clock is ahead of the median of the members'.")

    def _storage(self) -> None:
        self.journal_bytes = self._gauge("journal_bytes", "The journal on disk.")
        self.fsync_seconds = self._histogram(
            "fsync_seconds", "Writing a batch of entries to the journal and syncing it; nothing counts before.")
        self.apply_seconds = self._histogram("apply_seconds", "Applying one log entry.")
        self.flushed_index = self._gauge("flushed_index", "The highest log index in this node's database.")
        self.flush_lag_entries = self._gauge("flush_lag_entries", "Applied entries that are not in the database yet.")
        self.flush_seconds = self._histogram("flush_seconds", "One transaction of the database.")
        self.dirty_bytes = self._gauge("dirty_bytes", "Changed rows in memory that are not in the database yet.")
        self.hot_executions = self._gauge("hot_executions", "Executions held in memory.")
        self.hot_bytes = self._gauge("hot_bytes", "What executions held in memory take, estimated.")
        self.database_bytes = self._gauge("database_bytes", "This node's database on disk.")
        self.database_free_bytes = self._gauge(
            "database_free_bytes", "The part of the database that is free for reuse, after what was in it has gone.")

        self.scrub_progress = self._gauge(
            "scrub_progress_ratio", "How much of the database the present pass of the scrub has read, from 0 to 1.")
        self.last_scrub_timestamp_seconds = self._readings(
            "last_scrub_timestamp_seconds", "When the scrub last came to the end of the database; none: not yet.")

    def _copies(self) -> None:
        self.snapshots_installed = self._counter("snapshots_installed", "Snapshots that replaced this node's database.")
        self.snapshot_transfers = self._readings(
            "snapshot_transfers", "Snapshots that are being sent or received.", "direction")
        self.snapshot_left_bytes = self._readings(
            "snapshot_left_bytes", "What is still to be transferred of snapshots that are being sent or received.",
            "direction")
        self.backups = self._counts("backups", "Backups that this node was asked for, by how they ended.", "outcome")
        self.backups.begin("given").begin("broken_off")
        self.last_backup_timestamp_seconds = self._readings(
            "last_backup_timestamp_seconds", "When this process has given away its last whole backup; none: not yet.")
        self.last_backup_seconds = self._readings("last_backup_seconds", "How long the last whole backup took.")

    def _executions(self) -> None:
        self.live_workflows = self._gauge("live_workflows", "Executions that have not ended.")
        self.waiting_workflows = self._gauge(
            "waiting_workflows", "Executions that wait for a place under the rate limit of their workflow.")
        self.paused_workflows = self._readings(
            "paused_workflows", "Executions that are paused; on the leader only, looked up now and then.")
        self.compensating_workflows = self._readings(
            "compensating_workflows", "Executions that are being undone; on the leader only, looked up now and then.")
        self.stuck_compensations = self._gauge(
            "stuck_compensations", "Executions whose compensation used up its attempts and waits for an operator.")
        self.workflows_started = self._counts("workflows_started", "Executions that were started.")
        self.workflows_ended = self._counts(
            "workflows_ended", "Executions that have ended, by workflow and how.", *_WORKFLOW, "status", bounded=1)
        self.workflow_duration_seconds = self._sums(
            "workflow_duration_seconds", "From the start of an execution to its end.", *_WORKFLOW, bounded=1)
        self.compensations_ended = self._counts(
            "compensations_ended", "Executions that have ended with something undone, or left, by how that went.",
            *_WORKFLOW, "outcome", bounded=1)
        self.workflows_deleted = self._counts("workflows_deleted", "Executions that were deleted or purged.")
        self.oldest_ended_age_seconds = self._readings(
            "oldest_ended_age_seconds",
            "How long ago the oldest execution has ended that is kept; on the leader only, looked up now and then.")

    def _tasks(self) -> None:
        self.ready_tasks = self._gauge("ready_tasks", "Attempts that wait for a worker.")
        self.leased_tasks = self._gauge("leased_tasks", "Attempts that a worker holds.")
        self.queued_tasks = self._readings(
            "queued_tasks", "Attempts that wait for a worker, by queue; on the leader only.", *_QUEUE)
        self.oldest_queued_task_age_seconds = self._readings(
            "oldest_queued_task_age_seconds",
            "How long the attempt has waited that has done so longest, by queue; on the leader only, looked up now and "
            "then.",
            *_QUEUE)
        self.schedule_to_start_seconds = self._histogram(
            "schedule_to_start_seconds", "From an attempt's turn until a worker has it.", buckets=_WAIT_SECONDS)
        self.task_wait_seconds = self._sums(
            "task_wait_seconds",
            "From an attempt's turn until a worker has it, by task; the count is that of the attempts handed out.",
            *_TASK, bounded=1)
        self.task_execution_seconds = self._sums(
            "task_execution_seconds", "From an attempt's start until it has ended.", *_TASK, bounded=1)
        self.task_attempts_ended = self._counts(
            "task_attempts_ended", "Attempts that have ended, by task (or type, of what no worker does) and how.",
            *_TASK, "status", bounded=1)
        self.task_retries = self._counts(
            "task_retries", "Attempts that followed another one by themselves.", *_TASK, bounded=1)
        self.task_timeouts = self._counts(
            "task_timeouts", "Attempts that came to a limit of time, or lost their worker.", *_TASK, "reason",
            bounded=1)

    def _work(self) -> None:
        self.worker_sessions = self._gauge("worker_sessions", "Worker sessions that are open, but for the nodes' own.")
        self.worker_slots = self._gauge("worker_slots", "Attempts that the open worker sessions take at once.")
        self.worker_slots_used = self._gauge("worker_slots_used", "Slots of the open worker sessions that are taken.")
        self.sessions_lost = self._counts("sessions_lost", "Worker sessions that ended for want of a sign of life.")
        self.schedules = self._gauge("schedules", "Schedules, paused ones included.")
        self.timers = self._gauge("timers", "Timers that have not fired.")
        self.timer_delay_seconds = self._readings(
            "timer_delay_seconds", "How late the timer is that fires next; on the leader only.")
        self.unreadable_secrets = self._gauge(
            "unreadable_secrets", "Secrets that this node can't read for want of their key.")
        self.pending_events = self._gauge("pending_events", "Published events whose handlers have not done everything.")
        self.kept_events = self._gauge("kept_events", "Events that are kept for tasks that do not wait for them yet.")
        self.awaiting_tasks = self._gauge("awaiting_tasks", "Tasks that wait for an event.")
        self.blobs = self._gauge("blobs", "Values that are kept outside the log.")
        self.blob_bytes = self._gauge("blob_bytes", "Values that are kept outside the log, their sizes together.")
        self.blobs_unused = self._gauge("blobs_unused", "Of them, those that no execution refers to any more.")
        self.blob_failures = self._counter(
            "blob_failures", "Calls of this node to the store of such values that failed, by how.", "failure")
        self.system_work_running = self._gauge(
            "system_work_running", "System tasks that this node executes now, by kind.", "kind")
        self.system_work_ended = self._counter(
            "system_work_ended", "System tasks that this node has ended, by kind and how they ended.", "kind", "status")

    def _streams(self) -> None:
        self.redis_connected = self._readings(
            "redis_connected", "Whether this node is connected to Redis: 1 or 0; none where it has no reason to be.")
        self.outbox_events = self._readings(
            "outbox_events", "Events that are not yet in the stream to which they go, by stream; on the leader only.",
            *_OUTGOING)
        self.outbox_bytes = self._readings(
            "outbox_bytes", "The payloads of all events that are not yet in their streams; on the leader only.")
        self.outbox_oldest_age_seconds = self._readings(
            "outbox_oldest_age_seconds",
            "How long ago the oldest event happened that is not yet in its stream, by stream; on the leader only.",
            *_OUTGOING)
        self.events_published = self._counts(
            "events_published", "Events that were written to streams, some perhaps again.", *_OUTGOING, bounded=1)
        self.stream_lag_entries = self._readings(
            "stream_lag_entries", "Entries of a stream that is handled which were not read yet, as far as it is known; "
            "on the leader only.", *_INCOMING)
        self.events_received = self._totals(
            "events_received", "Entries of a stream that were taken up, each once; on the leader only.", *_INCOMING)
        self.events_repeated = self._totals(
            "events_repeated", "Entries of a stream that had come before, or whose event had; on the leader only.",
            *_INCOMING)
        self.events_dead_lettered = self._totals(
            "events_dead_lettered", "What of a stream could not be handled, and goes to that of its dead letters; on "
            "the leader only.", *_INCOMING)

    def _calls(self) -> None:
        self.grpc_calls = self._counts(
            "grpc_calls", "Calls of clients, workers and nodes that have ended, streams too, by method and code.",
            "method", "code")
        self.grpc_call_seconds = Histograms(
            "orchestrator_grpc_call_seconds", "How long calls took, but for streams; some wait on purpose.",
            ("method",), _CALL_SECONDS, self.registry)
        self.open_calls = self._gauge("open_calls", "Calls of clients that are open, streams and waits among them.")
        self.unread_bytes = self._gauge("unread_bytes", "Answers that their clients have not taken yet.")
        self.connections = self._gauge(
            "connections", "Connections of clients; above grpc_connections_max further ones are closed at once.")
        self.connections_cut = self._counter(
            "connections_cut", "Connections that were ended as their address had more than client_connections_max.")
        self.streams_cut = self._counter(
            "streams_cut", "Streams that were ended as their client did not take what it was sent.", "reason")
        self.refused_starts = self._counter(
            "refused_starts", "Starts refused for lack of room, by what ran short.", "reason")
        for reason in SHORT_OF:
            self.refused_starts.labels(reason)
        self.start_limit = self._gauge(
            "start_limit", "Starts that may be under way at once; lower while the leader's commands take too long.")
        self.requests_denied = self._counter(
            "requests_denied", "Requests refused at the door, and on streams, by reason.", "reason")

    def _files(self) -> None:
        self.access_reloads = self._counter(
            "access_reloads", "Changes of the access file that were taken, or refused as wrong.", "outcome")
        for outcome in ("taken", "refused"):
            self.access_reloads.labels(outcome)
        self.audit_failures = self._counter(
            "audit_failures", "Lines of the audit log that could not be written at once.")
        self.audit_unwritten_lines = self._gauge(
            "audit_unwritten_lines", "Lines of the audit log that wait to be written; changes are refused meanwhile.")
        self.certificate_expiry_seconds = self._gauge(
            "certificate_expiry_seconds", "Until the first certificate of a file ends, negative after; by the setting.",
            "setting")
        self.certificate_reloads = self._counter(
            "certificate_reloads", "Changed certificate files, by the setting, that were taken or refused.",
            "setting", "outcome")

    def _health(self) -> None:
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Room on the disk that holds the data directory.")
        self.disk_free_limit_bytes = self._gauge(
            "disk_free_limit_bytes",
            "With less room than this on the leader's disk, or on those of too many others, starts are refused.")
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How much later than asked the event loop woke; heartbeats are as late as this.")

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"orchestrator_{name}", about, labels, registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"orchestrator_{name}", about, labels, registry=self.registry)

    def _counts(self, name: str, about: str, *labels: str, bounded: int = 0) -> Counts:
        return Counts(f"orchestrator_{name}", about, labels, self.registry, bounded=bounded)

    def _sums(self, name: str, about: str, *labels: str, bounded: int = 0) -> Sums:
        return Sums(f"orchestrator_{name}", about, labels, self.registry, bounded=bounded)

    def _totals(self, name: str, about: str, *labels: str) -> Totals:
        return Totals(f"orchestrator_{name}", about, labels, self.registry)

    def _readings(self, name: str, about: str, *labels: str) -> Readings:
        return Readings(f"orchestrator_{name}", about, labels, self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...] = _LATENCY_SECONDS) -> Histogram:
        return Histogram(f"orchestrator_{name}", about, buckets, self.registry)

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the newest format that the reader accepts."""
        self.on_read()
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def measure_event_loop(self) -> None:
        """Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOP_CHECK_S
            await asyncio.sleep(_LOOP_CHECK_S)
            self.event_loop_lag_seconds.observe(max(0.0, loop.time() - due))

    async def serve(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> MetricsServer:
        """Serves /metrics, /livez and /readyz at http(s)://host:port until `stop`.

        Raises OSError when the address can't be had.
        """
        server = MetricsServer(self)
        await server.start(host or None, port, tls)
        return server
