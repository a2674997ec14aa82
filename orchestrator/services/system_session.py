"""The node's own session: it executes system work for whoever leads, as a worker executes its tasks.

It speaks the workers' protocol, to this node or to another. So what it does is leased, fenced and cancelled like any
task, and goes on while the leader changes; what a node takes with it when it dies is handed out again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from orchestrator.engine import system
from orchestrator.integrations.work import Ended, Executor, Outcome, Work
from orchestrator.sealing.masks import Masks
from orchestrator.services.node_connection import LeaderKnown, NodeConnection
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.traces import LINES, Headers, Traces
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_client import errors, tracing
from orchestrator_client.attempts import Attempt, WorkerSession
from orchestrator_client.channels import ChannelFactory
from orchestrator_client.connection import Version
from orchestrator_client.runner import failed
from orchestrator_client.work_loop import Beat, WorkLoop

logger = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 10_000
# A leader that refuses the session, as one of an older version does, is asked again after this.
AGAIN_SECONDS = 1.0
# How long it may take to hand back what was stopped, and to say goodbye.
HAND_BACK_SECONDS = 3.0


class SystemSession:
    """From `start` to `stop`; without executors or slots it does nothing.

    `address` is where this node's own gRPC service is found. Each kind of work has one executor.
    """

    def __init__(
        self,
        *,
        node: str,
        address: str,
        leader: LeaderKnown,
        open_channel: ChannelFactory,
        version: Version | None = None,
        executors: Mapping[str, Executor],
        slots: int,
        dice: random.Random,
        metrics: Metrics,
        traces: Traces | None = None,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._hello = pb.WorkHello(
            namespace=system.NAMESPACE,
            worker_id=node,
            task_names=sorted(executors),
            slots=slots,
            session_timeout_ms=SESSION_TIMEOUT_MS,
        )
        self._connection = NodeConnection(
            address, leader, namespace=system.NAMESPACE, open_channel=open_channel, version=version, dice=dice
        )
        self._executors = executors
        self._work = _SystemWork(executors, metrics, traces or Traces())
        self._dice = dice
        self._on_fatal = on_fatal
        self._loop: WorkLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def connected(self) -> bool:
        """Whether the leader knows of it."""
        return self._loop is not None and self._loop.is_connected

    @property
    def session(self) -> WorkerSession | None:
        """What it holds, while it is connected."""
        return self._loop.session if self._loop is not None else None

    def start(self) -> None:
        """The node's gRPC service is open."""
        if self._hello.task_names and self._hello.slots and self._running is None:
            self._stopping = False
            self._running = asyncio.create_task(self._run(), name="system session")

    async def leave(self, grace_seconds: float | None) -> None:
        """Takes nothing new, and stops and hands back what has not ended within the grace; `start` may follow.

        None: ends at once and says nothing, as a node does that must not go on.
        """
        self._stopping = True
        if self._running is not None:
            if self._loop is not None:
                await self._leave(self._loop, self._running, grace_seconds)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = self._loop = None

    async def stop(self, grace_seconds: float | None) -> None:
        """As `leave`, for good."""
        await self.leave(grace_seconds)
        await self._connection.close()
        for executor in dict.fromkeys(self._executors.values()):
            await executor.close()

    @staticmethod
    async def _leave(loop: WorkLoop, running: asyncio.Task[None], grace_seconds: float | None) -> None:
        if grace_seconds is None:
            loop.abort()
        elif loop.is_connected or loop.held:
            loop.drain()
            await asyncio.wait({running}, timeout=grace_seconds)
            loop.hand_back()
            await asyncio.wait({running}, timeout=HAND_BACK_SECONDS)

    async def _run(self) -> None:
        try:
            while not self._stopping:
                self._loop = WorkLoop(self._connection, self._hello, self._work, make_session_id=self._make_session_id)
                try:
                    await self._loop.run()
                except errors.OrchestratorError as error:
                    logger.warning("the leader refuses this node's own session: %s", error)
                    await asyncio.sleep(AGAIN_SECONDS)
        except Exception as error:  # noqa: BLE001 - a node that does not do its part must not seem to
            self._on_fatal(error)

    def _make_session_id(self) -> str:
        return f"{self._hello.worker_id}.{self._dice.getrandbits(64):016x}"


class _SystemWork:
    """Hands each attempt to the executor of its kind."""

    def __init__(self, executors: Mapping[str, Executor], metrics: Metrics, traces: Traces) -> None:
        self._executors = executors
        self._metrics = metrics
        self._traces = traces

    async def execute(self, attempt: Attempt, beat: Beat) -> pb.TaskResult:
        given = attempt.assignment
        executor = self._executors.get(given.kind)
        if executor is None:
            return failed(given, f"this node does no {given.kind!r}", "NO_SUCH_TASK")
        running = self._metrics.system_work_running.labels(given.kind)
        running.inc()
        ended = "FAILED"
        try:
            with self._traces.working(given.kind, *_about(given)) as traced:
                outcome = _without_secrets(given, await executor.execute(_work_of(given, traced.headers)))
                ended = outcome.ended.value
                traced.ended(ended, outcome.error_code, outcome.reason)
        except asyncio.CancelledError:
            ended = "CANCELED"
            raise
        finally:
            running.dec()
            self._metrics.system_work_ended.labels(given.kind, ended).inc()
        return _result_of(given, outcome)

    def cancel(self, attempt: Attempt, running: asyncio.Task[pb.TaskResult]) -> None:
        running.cancel()


def _without_secrets(given: pb.Assignment, outcome: Outcome) -> Outcome:
    """Here already, where what was cut off is known to be: of a failure only the beginning is kept."""
    if not given.secret_values:
        return outcome
    masks = Masks(given.secret_values)
    is_cut = outcome.ended is not Ended.COMPLETED
    return replace(
        outcome, output=masks.json(outcome.output, is_cut=is_cut), reason=masks.text(outcome.reason, is_cut=True)
    )


def _about(given: pb.Assignment) -> tuple[dict[str, str], dict[str, str | int | bool], int]:
    """Its trace, what a span says of it, and since when it waits."""
    if not given.HasField("trace"):
        return {}, {}, 0
    values = {name: getattr(given.trace, name) for name in LINES}
    return values, tracing.attributes_of(given), given.scheduled_time.ToNanoseconds()


def _work_of(given: pb.Assignment, trace: Headers) -> Work:
    return Work(
        kind=given.kind,
        namespace=given.namespace,
        workflow_id=given.workflow_id,
        task_id=given.task_id,
        name=given.name,
        reference=given.reference,
        input=given.input.inline or b"{}",
        parameters=given.parameters_json,
        idempotency_key=given.idempotency_key,
        fencing_token=given.fencing_token,
        timeout_ms=given.timeout_ms,
        trace=trace,
        has_secrets=bool(given.secret_values),
    )


def _result_of(given: pb.Assignment, outcome: Outcome) -> pb.TaskResult:
    result = pb.TaskResult(
        namespace=given.namespace,
        workflow_id=given.workflow_id,
        task_id=given.task_id,
        fencing_token=given.fencing_token,
        status=workflows_pb2.TaskStatus.Value(f"TASK_STATUS_{outcome.ended.value}"),
        reason=outcome.reason,
        error_code=outcome.error_code,
        outcome_unknown=outcome.outcome_unknown,
    )
    if outcome.output:
        result.output.inline = outcome.output
    return result
