"""The composition root: the only file that knows every part of a node.

Everything that touches the world comes from a `World` and is handed down: clocks, files, network, randomness, threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.admittance import Admittance
from orchestrator.config import Address, Config
from orchestrator.draining import Service
from orchestrator.engine.command import execution_of
from orchestrator.engine.commands import AnyCommand, RequestIdentity, StartWorkflow
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult
from orchestrator.large_values import LargeValues
from orchestrator.node_standing import NodeStanding
from orchestrator.node_storage import NodeStorage
from orchestrator.node_tls import NodeTls
from orchestrator.replication import identity as identities
from orchestrator.replication.applier import Applier
from orchestrator.replication.clock import LogClock
from orchestrator.replication.disk_room import DiskRoom
from orchestrator.replication.errors import LostLeadership, NotLeader, Stopped
from orchestrator.replication.log import ReplicatedLog, Role
from orchestrator.replication.release import THIS_RELEASE, Release
from orchestrator.replication.sequencer import Sequencer
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.skew import SkewWatch
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import Addresses
from orchestrator.rpc.runtime_metadata import Environment
from orchestrator.rpc.server import RpcServer
from orchestrator.sealing.key_file import KeyFile
from orchestrator.sealing.secret_values import SecretValues
from orchestrator.services.admission import Admission, AdmissionLimits, AdmissionReadings
from orchestrator.services.census import Census
from orchestrator.services.checkpoints import ContentCheck
from orchestrator.services.gauges import Gauges, Readings
from orchestrator.services.leadership import Leadership
from orchestrator.services.raising import LevelRaiser
from orchestrator.services.retention import Retainer
from orchestrator.stopping import told
from orchestrator.storage.database import Database
from orchestrator.storage.ended import EndedExecutions
from orchestrator.storage.searches import Searches
from orchestrator.storage.status_counts import count_statuses
from orchestrator.storage.store import Store, restored_machine
from orchestrator.streaming import Streaming, streaming, warn_without_redis
from orchestrator.system_work import system_work
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.metrics_server import MetricsServer
from orchestrator.world import OffsetClock, World

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 1.0


class NodeFailed(Exception):
    """The node stopped itself: going on could do harm. The cause says why."""


class Node:
    """One member of the cluster, from `start` to `stop`; `serve` opens it to clients."""

    def __init__(self, config: Config, world: World | None = None, release: Release = THIS_RELEASE) -> None:
        self.config = config
        self._release = release
        self._world = world or World()
        self._clock = self._world.clock
        if config.clock_offset_ms:
            self._clock = OffsetClock(self._clock, config.clock_offset_ms)
        self._time = self._world.time or self._clock
        self._fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._take_over: asyncio.Task[None] | None = None
        self._secret_keys = KeyFile(
            Path(config.secret_keys_file) if config.secret_keys_file else None, self._world.read_file,
            self._world.off_loop)
        self._content = ContentCheck()
        self.metrics = Metrics(node=config.node, version=release.version)
        self._secrets = SecretValues(self._secret_keys, self._world.entropy)
        self._gauges = Gauges(self.metrics, self._free_disk_bytes, self._secrets.count_closed,
                              lambda: self._machine().state)
        self.metrics.disk_free_limit_bytes.set(config.min_free_disk_bytes)
        self._admittance = Admittance(config, self._world, self.metrics)
        self._tls = NodeTls(config, self.metrics, self._clock.wall_ms)
        self._system = system_work(
            config, self._world, self.metrics, self._world.open_channel or self._tls.channels(),
            state=lambda: self._machine().state, leader=self._known_leader,
            authorization=self._admittance.authorization, on_fatal=self._fail)
        self._streaming: Streaming | None = None
        self._server: RpcServer | None = None
        self._metrics_server: MetricsServer | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Joins the cluster.

        Raises the identity's, the journal's and the database's errors, KeyFileInvalid and OSError.
        """
        config = self.config
        self._secret_keys.load()
        self.identity = identities.load(self._world.files, config.data_dir, node=config.node)
        self._admittance.open(self.identity.cluster_id)
        self._disk_room = DiskRoom(lambda: self._world.free_disk_bytes(config.data_dir))
        self._open_storage()
        self._log = self._make_log()
        self._service = Service(self._world.files, config.data_dir, self._log, self._system,
                                drain_seconds=config.system_drain_ms / 1000, off_loop=self._storage.copies.read)
        self._log_clock = LogClock(self._time, self._log.peer_clock_offsets, voices_min=lambda: self._log.quorum)
        self._skew = SkewWatch(self._log_clock, self._clock, self._log.transfer_leadership, config.max_clock_skew_ms,
                               self._log.peer_gossip)
        await self._log.start()
        self._service.start()
        self._sequencer = self._make_sequencer()
        self._applier = self._make_applier()
        retainer = Retainer(self._sequencer.submit_system, self._machine, self._log_clock.peek_ms,
                            EndedExecutions(self._database), self._settle,
                            self.metrics.oldest_ended_age_seconds.put_one)
        self._census = Census(self._machine, partial(count_statuses, self._database))
        raiser = LevelRaiser(self._sequencer.submit_system, self._machine, lambda: self._log.status().releases,
                             self._clock.monotonic, config.behaviour_raise_after_ms)
        self._values = LargeValues(config, self._world, self.metrics)
        values = self._values.services(self._sequencer.submit_system, self._machine, self._log_clock.peek_ms)
        self._streaming = streaming(config, self._world, self.metrics, submit=self._sequencer.submit_system,
                                    machine=self._machine, lent=self._values.link)
        self._leadership = Leadership(
            submit=self._sequencer.submit_system,
            machine=self._machine,
            log_time_ms=self._log_clock.peek_ms,
            monotonic=self._time.monotonic,
            on_fatal=self._fail,
            services=(retainer, self._census, raiser, *values, *(self._streaming.services if self._streaming else ())),
            checkpoint_seconds=config.checkpoint_interval_ms / 1000,
            scripts=self._system.scripts,
        )
        self._standing = NodeStanding(
            config, log=self._log, log_clock=self._log_clock, skew=self._skew, applier=self._applier,
            service=self._service, content=self._content, disk_room=self._disk_room, gauges=self._gauges,
            leading=lambda: self._leadership.leading)
        self._admission = self._make_admission()
        self._flusher.start()
        self.metrics.on_read, self.metrics.is_ready = self._set_gauges, lambda: self._standing.is_ready
        self.backend = self._make_backend()
        loops = (
            self._applier.run(),
            self._database.learn_names(),
            self._flush(),
            self._standing.tell(self._set_healthy),
            self._standing.keep_time(),
            self._admittance.run(),
            self._tls.run(),
            self._values.run(),
            self._secret_keys.run(),
            self._storage.scrub.run(),
            self.metrics.measure_event_loop(),
        )
        for loop in loops:
            self._tasks.append(asyncio.create_task(self._guard(loop)))
        self._role_changed(self._log.role, self._log.term)

    async def serve(self) -> None:
        """Opens the doors: gRPC and metrics. Raises OSError for an address in use."""
        config = self.config
        server = RpcServer(
            self.backend, self._admittance.guard(self.backend), self._tls.server_credentials(),
            request_bytes_max=config.grpc_request_bytes_max, connections_max=config.grpc_connections_max,
            connections_per_address_max=config.client_connections_max,
            on_connection_cut=self.metrics.connections_cut.inc, connection_calls_max=config.grpc_connection_calls_max)
        await server.start(*Address.parse(config.grpc_listen))
        self._server = server
        self.metrics.connections.set_function(lambda: server.connections.count)
        for loop in (server.watch(), server.connections.run()):
            self._tasks.append(asyncio.create_task(self._guard(loop)))
        if config.metrics_address is not None:
            self._metrics_server = await self.metrics.serve(*config.metrics_address, self._tls.metrics_context)
        self.begin_system_work()
        self._tls.warn()
        logger.info("serves", extra={"grpc": config.grpc_listen, "peers": config.peer_listen})

    def begin_system_work(self) -> None:
        """Opens the node's own session; by itself only where something else than `serve` opened the doors."""
        self._service.begin_work()

    async def wait_failed(self) -> None:
        """Returns never; raises NodeFailed when the node must stop."""
        await asyncio.shield(self._fatal)

    async def stop(self) -> None:
        """Hands leadership over, ends its own work, ends calls, flushes and closes."""
        await self._service.stop(failed=self._fatal.done())
        # Workers and waiters are told before their calls are cut.
        self._leadership.end("the node is stopping")
        if self._server is not None:
            await self._server.stop(STOP_GRACE_SECONDS)
        self._sequencer.close(None)
        if not self._fatal.done():
            self._applier.stage_soon()
            await self._flusher.drain()
        for task in (*self._tasks, *([self._take_over] if self._take_over else [])):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._metrics_server is not None:
            await self._metrics_server.stop()
        if hasattr(self, "_values"):
            await self._values.close()
        await self._log.stop()
        await self._storage.close()
        self._admittance.close()

    def log_facts(self) -> dict[str, int]:
        """What every line of the log says besides: where this node is in the log of the cluster."""
        if not hasattr(self, "_applier"):
            return {}
        log = self._log
        return {"term": log.term, "commit_index": log.commit_index, "applied_index": self._applier.applied_index}

    def _fail(self, error: BaseException) -> None:
        if self._fatal.done():
            return
        logger.critical("this node stops itself: %s", told(error), exc_info=error)
        failure = NodeFailed(str(error))
        failure.__cause__ = error
        self._fatal.set_exception(failure)
        if hasattr(self, "_leadership"):
            # At once, not when everything else has ended: it must not vote, acknowledge or hand out anything any more.
            self._log.fail(error)
            self._sequencer.close(None)
            self._leadership.end("this node stops itself")

    async def _guard(self, loop: Any) -> None:
        try:
            await loop
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - whatever ends a loop of this node must end the node
            self._fail(error)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _open_storage(self) -> None:
        self._storage = NodeStorage(
            self.config, self._world, self.identity,
            log=lambda: self._log,
            applier=lambda: self._applier,
            content=self._content,
            free_disk_bytes=self._free_disk_bytes,
            on_fatal=self._fail,
            metrics=self.metrics,
            release=self._release,
            restore=self._restored_machine,
        )
        self._database, self._flusher, self._settle = (
            self._storage.database, self._storage.flusher, self._storage.settle)

    def _restored_machine(self, database: Database) -> Machine:
        return restored_machine(database)

    def _make_log(self) -> ReplicatedLog:
        config = self.config
        peer_listen = Address.parse(config.peer_listen)
        applied = self._database.applied()
        return ReplicatedLog(
            identity=self.identity,
            listen=(peer_listen.host, peer_listen.port),
            settings=RaftSettings.of(config),
            files=self._world.files,
            data_dir=config.data_dir,
            applied_index=applied.index,
            applied_term=applied.term,
            applied_configuration=applied.configuration,
            snapshot_source=self._storage,
            snapshot_sink=self._storage,
            on_role_change=self._role_changed,
            on_fatal=self._fail,
            on_sync_seconds=self.metrics.fsync_seconds.observe,
            clock=self._clock,
            random=self._world.random,
            network=self._world.network,
            workers=self._world.workers,
            tls=self._tls.peer_contexts,
            release=self._release,
        )

    def _make_sequencer(self) -> Sequencer:
        config = self.config
        return Sequencer(
            self._log, self._log_clock, node=config.node, monotonic=self._clock.monotonic,
            behaviour_level=lambda: self._machine().state.meta.behaviour_level,
            queue_bytes_max=config.max_queue_bytes, entry_bytes_max=config.entry_close_bytes,
            entry_commands_max=config.entry_close_commands, entries_in_flight_max=config.entries_in_flight,
            on_commit_seconds=self.metrics.commit_seconds.observe,
            on_applied=lambda commands: self._admission.start_limit.applied(commands))  # noqa: PLW0108 - made later

    def _make_applier(self) -> Applier:
        config = self.config
        applied = self._database.applied()
        return Applier(
            log=self._log,
            machine=self._storage.restored,
            store=Store(self._database, self._flusher, self._log.configuration_at),
            clock=self._clock,
            log_clock=self._log_clock,
            observer=self,
            applied_index=applied.index,
            applied_term=applied.term,
            replayed_until=self._log.last_index,
            hot_executions_max=config.hot_executions_max,
            hot_bytes_max=config.hot_bytes_max,
            on_apply_seconds=self.metrics.apply_seconds.observe,
            release=self._release,
        )

    def _make_admission(self) -> Admission:
        self.metrics.start_limit.set_function(lambda: self._admission.start_limit.value)
        return Admission(
            AdmissionLimits.of(self.config),
            AdmissionReadings(
                queue=self._sequencer,
                live_executions=lambda: self._machine().state.meta.live_executions,
                dirty_bytes=lambda: self._flusher.dirty_bytes,
                free_disk_bytes=self._free_disk_bytes,
                majority_free_disk_bytes=lambda: self._disk_room.majority_bytes,
                pending_events=lambda: len(self._machine().state.resident[Table.EVENT]),
            ),
            monotonic=self._clock.monotonic,
            on_refused=lambda reason: self.metrics.refused_starts.labels(reason).inc(),
        )

    def _make_backend(self) -> Backend:
        return Backend(
            node=self.config.node,
            release=self._release,
            cluster_id=self.identity.cluster_id,
            members=self.identity.members,
            log=self._log,
            addresses=Addresses(lambda: self._log.leader, self._grpc_address_of),
            dispatch=self._leadership.dispatcher,
            signs=self._leadership.liveness,
            changes=self._leadership.notifier,
            state=lambda: self._machine().state,
            leading=lambda: self._leadership.leading,
            submit_any=self._submit,
            refusal=self._admission.refusal,
            applied_index=lambda: self._applier.applied_index,
            wait_applied=self._applier.wait_applied,
            load=self._database.load_execution,
            search=Searches(self._database, self._settle),
            has_failed=self._fatal.done,
            free_disk_bytes=self._free_disk_bytes,
            clock_skews_ms=lambda: {self.config.node: self._log_clock.skew_ms(), **self._log_clock.skews_ms()},
            peers=self._log.peer_gossip,
            service=self._service,
            backups=self._storage.backups,
            log_time_ms=self._log_clock.peek_ms,
            check_source=self._system.check_source,
            evaluate=self._system.evaluate,
            secrets=self._secrets,
            streams=self._streaming,
            blobs=self._values.access,
            off_loop=self._world.off_loop,
            others=(Environment(self._world.environment, self.config.task_environment_prefix),),
        )

    def _free_disk_bytes(self) -> int:
        return self._disk_room.own_bytes

    def _machine(self) -> Machine:
        return self._applier.machine

    # -- what the parts ask of each other --------------------------------------------------------------------------

    def _submit(self, command: AnyCommand, identity: RequestIdentity | None) -> asyncio.Future[AnyResult]:
        if isinstance(command, StartWorkflow):
            self._admission.check()
        submitted = self._sequencer.begin(command, identity)
        if self._world.traces.is_on:
            self._trace(command, submitted)
        return submitted

    def _trace(self, command: AnyCommand, submitted: asyncio.Future[AnyResult]) -> None:
        """The command is a part of the trace of the execution that it is about."""
        key = execution_of(command)
        held = self._machine().state.execution(key) if key is not None else None
        text = getattr(command, "trace", "") or (held.execution.trace if held is not None else "")
        if text:
            about = {"orchestrator.workflow.id": key[1]} if key is not None else {}
            self._world.traces.committing(type(command).__name__, text, about, submitted)

    def _known_leader(self) -> tuple[str, int]:
        leader = self._log.leader
        return self._grpc_address_of(leader) if leader else "", self._log.term

    def _grpc_address_of(self, node: str) -> str:
        if node == self.config.node:
            return str(self.config.grpc_address)
        return str(self._log.peer_gossip().get(node, {}).get("grpc_address", ""))

    def snapshot_installed(self) -> Machine:
        return self._storage.restored

    def entry_applied(self, index: int, term: int, results: Sequence[AnyResult], effects: list[AnyEffect]) -> None:
        self._sequencer.applied(index, term, results)
        self._gauges.entry_applied(results, effects, leading=self._leadership.leading)
        self._leadership.entry_applied(effects)
        if self._streaming is not None:
            self._streaming.entry_applied()

    # -- leadership ------------------------------------------------------------------------------------------------

    def _role_changed(self, role: Role, term: int) -> None:
        if not hasattr(self, "_leadership"):
            # Still starting; `start` calls again.
            return
        if self._take_over is not None:
            self._take_over.cancel()
            self._take_over = None
        if self._leadership.leading or self._sequencer.is_open:
            self._sequencer.close(self._log.leader)
            self._leadership.end("this node leads no longer")
        if role is Role.LEADER:
            self._take_over = asyncio.create_task(self._guard(self._lead(term)))
        self._standing.say()

    async def _lead(self, term: int) -> None:
        """Begins to serve once everything before this term is applied here."""
        try:
            index = await self._log.barrier()
        except (LostLeadership, NotLeader):
            # Over before it began; the next change of role says what follows.
            return
        await self._applier.wait_applied(index)
        if self._log.role is not Role.LEADER or self._log.term != term:
            return
        self._sequencer.open()
        self._leadership.begin(term)
        if self._streaming is None:
            warn_without_redis(self._machine().state)
        self._standing.say()

    # -- loops -----------------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(self.config.flush_interval_ms / 1000)
            self._applier.stage_soon()

    async def _set_healthy(self, is_ready: bool) -> None:
        if self._server is not None:
            await self._server.set_healthy(is_ready)

    def _set_gauges(self) -> None:
        self.metrics.clock_skew_seconds.set(self._log_clock.skew_ms() / 1000)
        now = Readings(
            self._log.status(), self._machine().state, self._sequencer, self._flusher, self._applier.applied_index,
            self._log_clock.peek_ms(), self._leadership.leading, self._streaming)
        self._gauges.set(now, self._census)
        self._storage.tell()
