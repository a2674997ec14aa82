"""Every metric of a node, and the page that Prometheus reads. The only home of prometheus_client.

Units are in the names. Every sample carries the node's name and the partition. Gauges may be set, or given a
function with `set_function`; functions are called on the event loop, so they may read its state freely.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, disable_created_metrics
from prometheus_client import metrics_core as core
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

ROLES = ("follower", "candidate", "leader", "learner", "awaiting_admission")

# From a fast disk's sync to an election's length.
_LATENCY_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000)
_REQUEST_BYTES_MAX = 16 * 1024
_REQUEST_TIMEOUT_S = 5.0
_NOT_READY = ("503 Service Unavailable", b"not ready: no leader is known, or this node is behind or drained\n")
_LOOP_CHECK_S = 0.1

# A second series for each counter and histogram that says nothing which process_start_time_seconds does not.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations


class _LabelledRegistry(CollectorRegistry):
    """Puts the same labels on every sample, so that no caller has to know them."""

    def __init__(self, labels: dict[str, str]) -> None:
        super().__init__()
        self._constant = labels

    def collect(self) -> Iterable[core.Metric]:
        for metric in super().collect():
            metric.samples = [sample._replace(labels={**self._constant, **sample.labels}) for sample in metric.samples]
            yield metric


class Histogram(Collector):
    """Written to with each log entry, by one thread: without the locks and the loop over buckets of the library's."""

    _labelnames: tuple[str, ...] = ()  # as the library's have them

    def __init__(self, name: str, about: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._name = name
        self._about = about
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def describe(self) -> Iterable[core.Metric]:
        return self.collect()

    def collect(self) -> Iterable[core.Metric]:
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        return [core.HistogramMetricFamily(self._name, self._about, buckets=buckets, sum_value=self._sum)]


class Metrics:
    """The attributes are the metrics; `page` is what Prometheus reads of them."""

    def __init__(self, *, node: str, version: str, partition: int = 0) -> None:
        # Called before the numbers are read.
        self.on_read: Callable[[], None] = lambda: None
        # Whether the node is in service, which those ask who send it work.
        self.is_ready: Callable[[], bool] = lambda: False
        self.registry = _LabelledRegistry({"node": node, "partition": str(partition)})
        ProcessCollector(registry=self.registry)
        self._gauge("build_info", "1; the label is the version of the software.", "version").labels(version).set(1)
        self._consensus()
        self._storage()
        self._work()
        self._health()

    def _consensus(self) -> None:
        self.role = Enum("orchestrator_role", "1 at the role this node has now.", states=list(ROLES),
                         registry=self.registry)
        self.term = self._gauge("term", "The term this node is in.")
        self.leader_changes = self._counter("leader_changes", "How often this node saw another leader, or lost it.")
        self.last_index = self._gauge("log_last_index", "The highest log index this node holds.")
        self.durable_index = self._gauge("log_durable_index", "The highest log index on this node's disk.")
        self.commit_index = self._gauge("commit_index", "The highest log index known to be on a majority of disks.")
        self.applied_index = self._gauge("applied_index", "The highest log index in this node's state.")
        self.follower_lag_entries = self._gauge(
            "follower_lag_entries", "Committed entries that the peer has not acknowledged; on the leader only.", "peer")
        self.commit_seconds = self._histogram(
            "commit_seconds", "From the proposal of an entry until it is on a majority of disks; on the leader only.")
        self.entry_commands = self._histogram("entry_commands", "Commands in one log entry.", buckets=_COUNTS)
        self.queue_bytes = self._gauge("queue_bytes", "Commands that wait for their log entry.")
        self.queue_commands = self._gauge("queue_commands", "How many commands wait for their log entry.")
        self.transport_drops = self._counter(
            "transport_dropped_messages", "Messages to or from peers that were dropped and must be resent.", "reason")
        self.clock_skew_seconds = self._gauge(
            "clock_skew_seconds", "How far this machine's wall clock is ahead of the median of the members'.")
        self.peers_connected = self._gauge("peers_connected", "Peers with a connection now.")

    def _storage(self) -> None:
        self.journal_bytes = self._gauge("journal_bytes", "The journal on disk.")
        self.apply_seconds = self._histogram("apply_seconds", "Applying one log entry.")
        self.flushed_index = self._gauge("flushed_index", "The highest log index in this node's database.")
        self.flush_lag_entries = self._gauge("flush_lag_entries", "Applied entries that are not in the database yet.")
        self.dirty_bytes = self._gauge("dirty_bytes", "Changed rows in memory that are not in the database yet.")
        self.hot_executions = self._gauge("hot_executions", "Executions held in memory.")
        self.snapshots_installed = self._counter("snapshots_installed", "Snapshots that replaced this node's database.")
        self.database_bytes = self._gauge("database_bytes", "This node's database on disk.")
        self.database_free_bytes = self._gauge(
            "database_free_bytes", "The part of the database that is free for reuse, after what was in it has gone.")
        self.disk_free_bytes = self._gauge("disk_free_bytes", "Room on the disk that holds the data directory.")

    def _work(self) -> None:
        self.live_workflows = self._gauge("live_workflows", "Executions that have not ended.")
        self.ready_tasks = self._gauge("ready_tasks", "Attempts that wait for a worker.")
        self.leased_tasks = self._gauge("leased_tasks", "Attempts that a worker holds.")
        self.worker_sessions = self._gauge("worker_sessions", "Worker sessions that are open, but for the nodes' own.")
        self.schedules = self._gauge("schedules", "Schedules, paused ones included.")
        self.unreadable_secrets = self._gauge(
            "unreadable_secrets", "Secrets that this node can't read for want of their key.")
        self.pending_events = self._gauge("pending_events", "Published events whose handlers have not done everything.")
        self.stuck_compensations = self._gauge(
            "stuck_compensations", "Executions whose compensation used up its attempts and waits for an operator.")
        self.system_work_running = self._gauge(
            "system_work_running", "System tasks that this node executes now, by kind.", "kind")
        self.system_work_ended = self._counter(
            "system_work_ended", "System tasks that this node has ended, by kind and how they ended.", "kind", "status")
        self.workflows_started = self._counter("workflows_started", "Executions that were started.")
        self.workflows_deleted = self._counter("workflows_deleted", "Executions that were deleted or purged.")
        self.oldest_ended_age_seconds = self._gauge(
            "oldest_ended_age_seconds",
            "How long ago the oldest execution has ended that is kept; on the leader only, looked up now and then.")
        self.sessions_lost = self._counter("sessions_lost", "Worker sessions that ended for want of a sign of life.")

    def _health(self) -> None:
        self.refused_starts = self._counter(
            "refused_starts", "Starts refused for lack of room, by what ran short.", "reason")
        self.requests_denied = self._counter(
            "requests_denied", "Requests refused at the door, and on streams, by reason.", "reason")
        self.open_calls = self._gauge("open_calls", "Calls of clients that are open, streams and waits among them.")
        self.streams_cut = self._counter(
            "streams_cut", "Streams that were ended as their client did not take what it was sent.", "reason")
        self.access_reloads = self._counter(
            "access_reloads", "Changes of the access file that were taken, or refused as wrong.", "outcome")
        self.audit_failures = self._counter(
            "audit_failures", "Lines of the audit log that could not be written at once.")
        self.certificate_expiry_seconds = self._gauge(
            "certificate_expiry_seconds", "Until the first certificate of a file ends, negative after; by the setting.",
            "setting")
        self.certificate_reloads = self._counter(
            "certificate_reloads", "Changed certificate files, by the setting, that were taken or refused.",
            "setting", "outcome")
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds", "How much later than asked the event loop woke; heartbeats are as late as this.")

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"orchestrator_{name}", about, labels, registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"orchestrator_{name}", about, labels, registry=self.registry)

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


class MetricsServer:
    """An HTTP server of the numbers, and of two pages for probes.

    It is on the event loop, where the numbers are: no thread reads them half-changed. While it answers, the loop turns.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self, host: str | None, port: int, tls: ssl.SSLContext | None = None) -> None:
        timeout = _REQUEST_TIMEOUT_S if tls is not None else None
        self._server = await asyncio.start_server(
            self._accept, host, port, limit=_REQUEST_BYTES_MAX, ssl=tls, ssl_handshake_timeout=timeout)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for task in list(self._answering):
                task.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever a stranger sends or fails to read is no concern of the node.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                writer.write(self._response(request))
                await writer.drain()
        writer.close()

    def _response(self, request: str) -> bytes:
        first, _, headers = request.partition("\r\n")
        method, path = [*first.split(" "), "", ""][:2]
        if method not in ("GET", "HEAD"):
            return _http("405 Method Not Allowed", "text/plain", b"only GET\n")
        with_body = method == "GET"
        page = path.partition("?")[0]
        if page == "/livez":
            return _http("200 OK", "text/plain", b"alive\n", with_body=with_body)
        if page == "/readyz":
            status, text = ("200 OK", b"ready\n") if self._metrics.is_ready() else _NOT_READY
            return _http(status, "text/plain", text, with_body=with_body)
        if page != "/metrics":
            return _http("404 Not Found", "text/plain", b"the pages are /metrics, /livez and /readyz\n")
        given = dict(line.lower().partition(":")[::2] for line in headers.split("\r\n"))
        body, content_type = self._metrics.page(given.get("accept", "").strip())
        return _http("200 OK", content_type, body, with_body=with_body)


def _http(status: str, content_type: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((*head, "", "")).encode() + (body if with_body else b"")
