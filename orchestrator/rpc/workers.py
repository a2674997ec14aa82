"""WorkerService: the worker's stream, and the unary poll and complete for simple clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from msgspec.structs import replace

from orchestrator.engine import commands, throttle
from orchestrator.engine.blobs import BlobRef
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator.engine.results import Done, Judged, Polled
from orchestrator.integrations.blobs.store import BlobFailure
from orchestrator.replication.errors import ReplicationError
from orchestrator.rpc import attempt_access, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.caller import CALLER
from orchestrator.rpc.errors import RpcFailure, abort, answers
from orchestrator.rpc.handing_out import NotGiven
from orchestrator.rpc.hello import poller_session_id
from orchestrator.rpc.judging import VERDICTS, completion, verdict_on
from orchestrator.rpc.large_payloads import UNAVAILABLE
from orchestrator.rpc.poll_data import PollData
from orchestrator.rpc.requests import (
    in_range,
    log_lines,
    namespace_of,
    required,
    task_names,
    text,
)
from orchestrator.rpc.task_queues import task_queues
from orchestrator.rpc.whole import MESSAGE_BYTES_MAX, ValuesNeeded, not_given
from orchestrator.rpc.worker_stream import WorkerConnection
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workers_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

_NO_ROOM = NotGiven("ANSWER_TOO_LARGE", "the answer to the poll has no room for it")

POLL_TASKS_MAX = 1_000
POLL_WAIT_MS_MAX = 60_000
# A poller learns at this interval that the node leads no longer.
LEADERSHIP_CHECK_SECONDS = 1.0


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._returning: set[asyncio.Task[None]] = set()
        self._polls = PollData(
            lambda command: backend.submit(command, Done), lambda: asyncio.get_running_loop().time()
        )

    async def Work(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.WorkResponse]:
        connection = WorkerConnection(self.backend, CALLER.get())
        try:
            async with aclosing(connection.serve(request_iterator)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:  # noqa: BLE001 - it becomes the status of the call
            await abort(context, error, self.backend.addresses)

    @answers
    async def PollTasks(self, request: pb.PollTasksRequest, context: Any) -> Any:
        names = task_names("task_names", request.task_names)
        namespace = namespace_of(request.namespace)
        worker_id = required("worker_id", request.worker_id)
        domain = text("domain", request.domain)
        max_tasks = in_range("max_tasks", request.max_tasks or 1, 1, POLL_TASKS_MAX)
        seconds = in_range("wait_ms", request.wait_ms, 0, POLL_WAIT_MS_MAX) / 1000
        self.backend.require_leading()
        command = commands.PollTasks(
            session_id=poller_session_id(namespace, domain, worker_id),
            namespace=namespace,
            domain=domain,
            worker_id=worker_id,
            task_names=names,
            max_tasks=max_tasks,
        )
        tokens = await self._poll(command, seconds)
        return pb.PollTasksResponse(assignments=await self._assignments(tokens))

    @answers
    async def CompleteTask(self, request: pb.CompleteTaskRequest, context: Any) -> Any:
        command, broken = completion(request.result, self.backend.large.sizes)
        refused = await attempt_access.unfit(self.backend, CALLER.get(), "CompleteTask", command)
        if refused is not None:
            return pb.CompleteTaskResponse(verdict=refused)
        await self._recall(command.fencing_token)
        fit, large = self.backend.hand_out.fit_result, self.backend.large
        outcome = await large.submit_result(command, fit, waits=False)
        self.backend.hand_out.forget(request.result.fencing_token)
        return pb.CompleteTaskResponse(verdict=verdict_on(request.result, broken, outcome))

    @answers
    async def ListTaskQueues(self, request: pb.ListTaskQueuesRequest, context: Any) -> Any:
        names = task_names("task_names", request.task_names) if request.task_names else ()
        namespace = namespace_of(request.namespace)
        await self.backend.read_point(request.read)
        queues = await task_queues(self.backend.state(), self._polls, namespace, frozenset(names))
        return pb.ListTaskQueuesResponse(queues=queues)

    @answers
    async def AddTaskLogs(self, request: pb.AddTaskLogsRequest, context: Any) -> Any:
        given = request.logs
        await self._recall(given.fencing_token)
        command = AddTaskLogs(
            namespace=namespace_of(request.namespace),
            workflow_id=required("logs.workflow_id", given.workflow_id),
            task_id=required("logs.task_id", given.task_id),
            fencing_token=given.fencing_token,
            lines=self.backend.hand_out.fit_lines(given.fencing_token, log_lines(given.lines)),
        )
        # Without a token it is an operator's word, who was let in as one.
        if command.fencing_token:
            refused = await attempt_access.unfit(self.backend, CALLER.get(), "AddTaskLogs", command)
            if refused is not None:
                return pb.AddTaskLogsResponse(verdict=refused)
        judged = await self.backend.submit(command, Judged)
        verdict = pb.TaskVerdict(
            task_id=given.task_id,
            fencing_token=given.fencing_token,
            verdict=VERDICTS[judged.verdict],
            message=judged.message,
        )
        return pb.AddTaskLogsResponse(verdict=verdict)

    async def _poll(self, command: commands.PollTasks, seconds: float) -> tuple[int, ...]:
        """Leases what is ready; nothing is logged while nothing is."""
        keys = [(command.namespace, command.domain, name) for name in command.task_names]
        async with self.backend.changes.queues(keys) as queued:
            deadline = asyncio.get_running_loop().time() + seconds
            while True:
                queued.clear()
                await self._polls.seen(command)
                if any(throttle.is_open(self.backend.state(), key) for key in keys):
                    tokens = await self._lease(command)
                    if tokens:
                        return tokens
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return ()
                self.backend.require_leading()
                try:
                    async with asyncio.timeout(min(left, LEADERSHIP_CHECK_SECONDS)):
                        await queued.wait()
                except TimeoutError:
                    continue

    async def _lease(self, command: commands.PollTasks) -> tuple[int, ...]:
        """What was leased to a caller that has gone meanwhile goes back to its queue."""
        polling = asyncio.ensure_future(self.backend.submit(command, Polled))
        try:
            return (await asyncio.shield(polling)).tokens
        except asyncio.CancelledError:
            returning = asyncio.create_task(self._give_back(command.session_id, polling))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
            raise

    async def _give_back(self, session_id: str, polling: asyncio.Future[Polled]) -> None:
        try:
            for token in (await polling).tokens:
                await self.backend.submit_any(commands.ReleaseTask(session_id, token), None)
        except (RpcFailure, ReplicationError) as error:
            # The response timeout of the attempts remains.
            logger.info("a poll without a caller was not undone: %s", error)

    async def _assignments(self, tokens: tuple[int, ...]) -> list[pb.Assignment]:
        """What can't be read here is asked for again later; if there is nothing else, the caller is told."""
        found: list[pb.Assignment] = []
        size = 0
        unread: NotGiven | None = None
        for token in tokens:
            lease = self.backend.state().leases.get((token,))
            try:
                assignment = await self._assignment(token)
            except NotGiven as why:
                assert lease is not None
                unread = unread if why.is_final else why
                await self.backend.submit_any(why.failure(lease) if why.is_final else why.later(lease), None)
                continue
            if assignment is None:
                continue
            more = assignment.ByteSize()
            if found and size + more > MESSAGE_BYTES_MAX and lease is not None:
                # Whoever polls next gets it.
                await self.backend.submit_any(replace(_NO_ROOM.later(lease), callback_ms=0), None)
                continue
            size += more
            found.append(assignment)
        if unread is not None and not found:
            if unread.error_code == UNAVAILABLE:
                raise RpcFailure(grpc.StatusCode.UNAVAILABLE, "BLOB_STORE_UNAVAILABLE", unread.reason)
            raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "SECRET_UNREADABLE", unread.reason)
        return found

    async def _recall(self, token: int) -> None:
        """What the attempt was given, perhaps by another node."""
        hand_out = self.backend.hand_out
        lease = self.backend.state().leases.get((token,))
        if lease is not None and hand_out.has_secrets and not hand_out.is_remembered(token):
            held = await self.backend.execution(lease.namespace, lease.workflow_id)
            if held is not None:
                hand_out.recall(held, token)

    async def _assignment(self, token: int) -> pb.Assignment | None:
        """None if the attempt has ended since it was leased."""
        while True:
            lease = self.backend.state().leases.get((token,))
            if lease is None or lease.fenced:
                return None
            if lease.started:
                break
            # Its execution takes the lease up in a later entry.
            await self.backend.wait_applied(self.backend.applied_index() + 1)
        held = await self.backend.execution(lease.namespace, lease.workflow_id)
        if held is None:
            return None
        values: dict[BlobRef, bytes] = {}
        while True:
            try:
                return views.assignment(self.backend.state(), held, token, self.backend.hand_out, values)
            except ValuesNeeded as needed:
                refs = needed.refs
            try:
                values |= await self.backend.large.contents(refs)
            except BlobFailure as failure:
                raise not_given(failure) from failure
