"""One worker's stream: hello and welcome, then results in, attempts out, until either side goes away.

Frames to the worker are written one after the other; what comes up meanwhile is joined. Results are judged as they
come; reading pauses while too many of them wait for their verdicts to be written, so that a fast worker, or one that
does not read, can't fill the node's memory. What was read is answered before the stream ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any

import grpc
import msgspec

from orchestrator.engine import commands
from orchestrator.engine.effects import Cancel
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator.engine.resident import Lease, Session
from orchestrator.engine.results import AnyResult, Rejected, SessionOpened
from orchestrator.rpc import attempt_access, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.caller import EVERYBODY, Caller
from orchestrator.rpc.errors import RpcFailure, invalid
from orchestrator.rpc.fetched_values import Contents, FetchedValues
from orchestrator.rpc.handing_out import NotGiven, Withheld
from orchestrator.rpc.hello import SLOTS_MAX, command_of, require_same
from orchestrator.rpc.judging import completion, verdict_on
from orchestrator.rpc.requests import in_range, json_value, log_lines
from orchestrator.rpc.room import Room
from orchestrator.rpc.whole import UNREAD, ValuesNeeded
from orchestrator_api.v1 import workers_pb2 as pb

logger = logging.getLogger(__name__)

HEARTBEATS_PER_TIMEOUT = 4
DETAILS_BYTES_MAX = 64 * 1024
# Attempts go out in frames of about this size, which every client accepts.
FRAME_BYTES = 1 << 20
# Results, or attempts, between two turns of the loop: about a millisecond.
SLICE = 32
# Verdicts go with attempts, or alone when none have come up for so long: no execution waits for them.
VERDICTS_AFTER_SECONDS = 0.01

class _Answer(msgspec.Struct):
    verdict: pb.TaskVerdict
    size: int  # of the result


class _GoAway(msgspec.Struct):
    reason: str


_Outgoing = Lease | _Answer | Cancel | _GoAway


class WorkerConnection:
    """Speaks for one session on one stream."""

    def __init__(self, backend: Backend, caller: Caller = EVERYBODY) -> None:
        self._backend = backend
        self._caller = caller
        self._outgoing: deque[_Outgoing] = deque()
        self._alive_owed = False
        self._is_urgent = False  # something besides verdicts is to be written
        self._are_verdicts_due = False
        self._verdicts_timer: asyncio.TimerHandle | None = None
        self._stirred = asyncio.Event()  # there is something to write, or to end for
        self._room = Room()
        # What is on its way: the reader, and commands without their results.
        self._tasks: set[asyncio.Future[Any]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._given: set[int] = set()  # tokens of the attempts that the worker has
        self._withheld = Withheld(self._put)
        self._values = FetchedValues(backend.large.contents, self._withheld, self._put, self._withhold)
        self._term = 0
        self._generation = 0
        self._session_id = ""
        self._namespace = ""

    # What the dispatcher calls; see Stream.

    def deliver(self, lease: Lease) -> None:
        self._put(lease)

    def cancel(self, effect: Cancel) -> None:
        self._put(effect)

    def go_away(self, reason: str) -> None:
        self._put(_GoAway(reason))

    def _put(self, item: _Outgoing) -> None:
        self._outgoing.append(item)
        self._is_urgent = self._is_urgent or not isinstance(item, _Answer)
        self._stirred.set()

    async def serve(self, frames: AsyncIterator[pb.WorkRequest]) -> AsyncGenerator[pb.WorkResponse, None]:
        """The frames to the worker, until the stream is to end. Raises what the worker's frames did wrong."""
        backend = self._backend
        hello = await _first(frames)
        backend.require_leading()
        session, resumed = await self._session(hello)
        # From here until it is attached without a pause: a stream that comes to a node that leads no longer would
        # not be told. Frames bear the term in which this node leads, not one that it has merely heard of.
        backend.require_leading()
        self._term = backend.log.term
        self._generation = backend.dispatch.next_generation()
        self._session_id, self._namespace = session.id, session.namespace
        caller = self._caller
        caller.when_ended(self._fail)
        caller.judge_by(lambda: attempt_access.session_refusal(backend, caller, "Work/hello", session.id))
        self._given = {held.fencing_token for held in hello.held}
        backend.dispatch.attach(session.id, self, set(self._given))
        try:
            self._answer_unknown(hello)
            yield self._frame(welcome=_welcome(session, resumed=resumed))
            await self._recall(hello)
            self._reader = asyncio.create_task(self._read(frames))
            self._watch(self._reader)
            async for frame in self._write():
                yield frame
        finally:
            backend.dispatch.detach(session.id, self)
            self._forget_verdicts()
            self._withheld.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _session(self, hello: pb.WorkHello) -> tuple[Session, bool]:
        """The session that the worker names, opened if there is none."""
        backend = self._backend
        made = f"{backend.node}.{backend.log.term}.{backend.dispatch.next_generation()}"
        command = command_of(hello, made)
        attempt_access.require_tasks(self._caller, "Work/hello", command.namespace, command.task_names)
        self._require_own(command.session_id)
        if (command.session_id,) in backend.state().sessions:
            opened = SessionOpened(command.session_id, existing=True)
        else:
            opened = await backend.submit(command, SessionOpened)
        self._require_own(opened.session_id)
        session = self._present(opened.session_id)
        require_same(session, command)
        if (session.task_names, session.slots) != (command.task_names, command.slots):
            await backend.submit_any(commands.UpdateSession(session.id, command.task_names, command.slots), None)
            session = self._present(session.id)
        return session, opened.existing

    def _require_own(self, session_id: str) -> None:
        """Raises RpcFailure if the caller may not have what the session has: another may have opened it."""
        refusal = attempt_access.session_refusal(self._backend, self._caller, "Work/hello", session_id)
        if refusal is not None:
            raise refusal

    def _present(self, session_id: str) -> Session:
        session = self._backend.state().sessions.get((session_id,))
        if session is None:
            message = f"the session {session_id!r} has ended while it was being resumed"
            raise RpcFailure(grpc.StatusCode.UNAVAILABLE, "WORKER_SESSION_ENDED", message)
        return session

    def _answer_unknown(self, hello: pb.WorkHello) -> None:
        """Attempts that the worker holds and the session does not have ended without it."""
        leased = self._backend.state().leases_of.get(self._session_id, {})
        for held in hello.held:
            if held.fencing_token not in leased:
                self.cancel(
                    Cancel(
                        self._session_id,
                        held.fencing_token,
                        self._namespace,
                        held.workflow_id,
                        held.task_id,
                        "the attempt is not leased to this session",
                        fenced=True,
                    )
                )

    # From the worker.

    async def _read(self, frames: AsyncIterator[pb.WorkRequest]) -> None:
        async for frame in frames:
            self._backend.signs.session_seen(self._session_id)
            match frame.WhichOneof("frame"):
                case "results":
                    for number, result in enumerate(frame.results.results, 1):
                        size = len(result.output.inline)
                        if not self._room.take_now(size):
                            await self._room.take(size)
                        if attempt_access.may_complete(self._backend, self._caller, result.fencing_token):
                            self._judge(result, size, *completion(result, self._backend.large.sizes))
                        else:
                            await self._judge_fit(result, size)
                        if number % SLICE == 0:
                            await asyncio.sleep(0)
                case "heartbeat":
                    await self._take_heartbeat(frame.heartbeat)
                case "release":
                    for held in frame.release.attempts:
                        self._given.discard(held.fencing_token)
                        await self._submit(commands.ReleaseTask(self._session_id, held.fencing_token))
                case "logs":
                    await self._take_logs(frame.logs)
                case "slots":
                    await self._take_slots(frame.slots)
                case "goodbye":
                    await self._take_goodbye()
                    return
                case other:
                    raise invalid("frame", f"{other} can't come here")

    async def _judge_fit(self, result: pb.TaskResult, size: int) -> None:
        """What the caller may not say is not submitted."""
        command, broken = completion(result, self._backend.large.sizes)
        refused = await attempt_access.unfit(self._backend, self._caller, "Work/results", command)
        if refused is None:
            self._judge(result, size, command, broken)
        else:
            self._put(_Answer(refused, size))

    def _judge(self, result: pb.TaskResult, size: int, command: commands.CompleteTask, broken: str) -> None:
        fit, large = self._backend.hand_out.fit_result, self._backend.large
        judging = asyncio.ensure_future(large.submit_result(command, fit, waits=True))
        self._tasks.add(judging)
        judging.add_done_callback(partial(self._judged, result, broken, size))

    def _judged(self, result: pb.TaskResult, broken: str, size: int, judging: asyncio.Future[AnyResult]) -> None:
        self._ended(judging)
        if judging.cancelled() or judging.exception() is not None:
            return
        self._given.discard(result.fencing_token)
        self._backend.hand_out.forget(result.fencing_token)
        try:
            self._put(_Answer(verdict_on(result, broken, judging.result()), size))
        except TypeError as error:
            self._fail(error)

    async def _take_heartbeat(self, frame: pb.WorkHeartbeat) -> None:
        if frame.all_attempts:
            self._backend.signs.attempts_seen(self._session_id)
        for attempt in frame.attempts:
            if not self._may_touch(attempt.fencing_token):
                continue
            self._backend.signs.attempt_seen(attempt.fencing_token)
            if not attempt.HasField("details"):
                continue
            try:
                details = json_value("heartbeat.details", attempt.details, DETAILS_BYTES_MAX)
            except RpcFailure as failure:
                # A sign of life all the same, and no reason to end the worker's other attempts.
                about = {"workflow_id": attempt.workflow_id, "task_id": attempt.task_id}
                logger.warning("the details of a heartbeat are dropped: %s", failure.message, extra=about)
                continue
            details = self._backend.hand_out.fit_details(attempt.fencing_token, details)
            await self._submit(
                commands.RecordHeartbeat(
                    self._namespace, attempt.workflow_id, attempt.task_id, attempt.fencing_token, details
                ),
                len(details),
            )
        self._alive_owed = True
        self._stirred.set()

    async def _take_logs(self, frame: pb.WorkLogs) -> None:
        for attempt in frame.attempts:
            lines = self._backend.hand_out.fit_lines(attempt.fencing_token, log_lines(attempt.lines))
            command = AddTaskLogs(
                self._namespace, attempt.workflow_id, attempt.task_id, attempt.fencing_token, lines
            )
            # Without a token it would be an operator's word.
            if lines and attempt.fencing_token and self._may_touch(attempt.fencing_token):
                await self._submit(command, sum(len(line) for _, line in lines))

    def _may_touch(self, token: int) -> bool:
        return self._caller.is_free or attempt_access.may_touch(self._backend, self._caller, token)

    async def _take_slots(self, frame: pb.WorkSlots) -> None:
        slots = in_range("slots.slots", frame.slots, 0, SLOTS_MAX)
        # Without names it changes the slots only. A session that has ended meanwhile is told so by itself.
        await self._backend.submit_any(commands.UpdateSession(self._session_id, (), slots), None)

    async def _take_goodbye(self) -> None:
        # What was said before counts first: closing hands out again whatever is still leased.
        others = self._tasks - {self._reader}
        if others:
            await asyncio.wait(others)
        if self._failure is None:
            self._backend.dispatch.detach(self._session_id, self)
            await self._backend.submit_any(commands.CloseSession(self._session_id), None)

    async def _submit(self, command: commands.AnyCommand, size: int = 0) -> None:
        await self._room.take(size)
        self._spawn(self._submitted(command, size))

    async def _submitted(self, command: commands.AnyCommand, size: int = 0) -> None:
        outcome = await self._backend.submit_any(command, None)
        if isinstance(outcome, Rejected):
            names = ("namespace", "workflow_id", "task_id")
            about = {name: getattr(command, name) for name in names if hasattr(command, name)}
            logger.info("a worker's %s was refused: %s", type(command).__name__, outcome.message, extra=about)
        self._room.give_back(size)

    # To the worker.

    async def _write(self) -> AsyncIterator[pb.WorkResponse]:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            if self._failure is not None:
                raise self._failure
            if self._postpones():
                continue
            batch, self._outgoing = self._outgoing, deque()
            self._are_verdicts_due = self._is_urgent = False
            self._forget_verdicts()
            alive, self._alive_owed = self._alive_owed, False
            async for frame in self._frames(batch):
                yield frame
            if alive:
                # After what was leased before the heartbeat: whoever gives up its slots goes by this.
                yield self._frame(alive=pb.WorkAlive())
            leaving = next((item for item in batch if isinstance(item, _GoAway)), None)
            if leaving is not None:
                leader_address = self._backend.addresses.hint().get("leader_address", "")
                yield self._frame(go_away=pb.WorkGoAway(reason=leaving.reason, leader_address=leader_address))
                return
            if not self._tasks and not self._outgoing and self._failure is None:
                # The worker says nothing more, and everything that it said is answered.
                return

    def _postpones(self) -> bool:
        """Verdicts wait a little for attempts to go with: a message costs more than all that is in it."""
        is_ending = self._reader is not None and self._reader.done()
        if not self._outgoing or self._is_urgent or self._alive_owed or self._are_verdicts_due or is_ending:
            return False
        if self._verdicts_timer is None:
            loop = asyncio.get_running_loop()
            self._verdicts_timer = loop.call_later(VERDICTS_AFTER_SECONDS, self._tell_verdicts)
        return True

    def _forget_verdicts(self) -> None:
        if self._verdicts_timer is not None:
            self._verdicts_timer.cancel()
            self._verdicts_timer = None

    def _tell_verdicts(self) -> None:
        self._verdicts_timer = None
        self._are_verdicts_due = True
        self._stirred.set()

    async def _frames(self, batch: deque[_Outgoing]) -> AsyncIterator[pb.WorkResponse]:
        """What is queued, in few frames; attempts come before their cancellations."""
        verdicts: list[pb.TaskVerdict] = []
        for item in batch:
            if isinstance(item, _Answer):
                verdicts.append(item.verdict)
                self._room.give_back(item.size)
        async for frame in self._assignments(item for item in batch if isinstance(item, Lease)):
            if verdicts:
                frame.assignments.verdicts.extend(verdicts)
                verdicts = []
            yield frame
        if verdicts:
            yield self._frame(verdicts=pb.WorkVerdicts(verdicts=verdicts))
        cancellations = [views.cancellation(cancel) for cancel in self._cancels(batch)]
        if cancellations:
            yield self._frame(cancellations=pb.WorkCancellations(cancellations=cancellations))

    def _cancels(self, batch: deque[_Outgoing]) -> Iterator[Cancel]:
        """Of what the worker has by now."""
        for item in batch:
            if isinstance(item, Cancel) and item.token in self._given:
                yield item
            elif isinstance(item, Cancel) and item.fenced:
                # The attempt ended before it was sent: the worker has nothing to stop, so its slot is free.
                self._spawn(self._report(commands.ReleaseTask(self._session_id, item.token)))
            elif isinstance(item, Cancel) and (failure := self._withheld.failure(item.token)) is not None:
                self._spawn(self._report(failure))

    async def _report(self, command: commands.AnyCommand) -> None:
        """Of an attempt that the worker does not get."""
        await self._room.take(0)
        await self._submitted(command)

    async def _assignments(self, leases: Iterable[Lease]) -> AsyncIterator[pb.WorkResponse]:
        """What is still to be delivered of these."""
        frame, size = self._frame(), 0
        for number, lease in enumerate(leases, 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            values = self._values.take(lease.token)
            if lease.token in self._given:
                continue
            held = self._backend.state().execution((lease.namespace, lease.workflow_id))
            if held is None or held.execution.deleted:
                held = await self._backend.execution(lease.namespace, lease.workflow_id)
            # The attempt is written where it is sent from: this is done for each of them.
            size += 0 if held is None else self._assign(frame, held, lease, values)
            if size >= FRAME_BYTES:
                yield frame
                frame, size = self._frame(), 0
        if size:
            yield frame

    def _assign(self, frame: pb.WorkResponse, held: ExecutionState, lease: Lease, values: Contents) -> int:
        """Adds the attempt if it is to be delivered; answers how many bytes it has, about, or 0."""
        backend, assignments = self._backend, frame.assignments.assignments
        try:
            size = views.add_assignment(assignments, backend.state(), held, lease.token, backend.hand_out, values)
        except NotGiven as why:
            self._withhold(lease, why)
            return 0
        except ValuesNeeded as needed:
            self._withheld.keep(lease, UNREAD)
            self._spawn(self._values.fetch(lease, needed.refs))
            return 0
        if size:
            self._given.add(lease.token)
        return size

    def _withhold(self, lease: Lease, why: NotGiven) -> None:
        if why.is_final:
            self._spawn(self._report(why.failure(lease)))
        else:
            self._withheld.add(lease, why)

    async def _recall(self, hello: pb.WorkHello) -> None:
        """What the worker was given by another node must not come back here either."""
        hand_out = self._backend.hand_out
        if not hello.held or not hand_out.has_secrets:
            return
        for attempt in hello.held:
            held = await self._backend.execution(self._namespace_of(attempt), attempt.workflow_id)
            if held is not None:
                hand_out.recall(held, attempt.fencing_token)

    def _namespace_of(self, attempt: pb.HeldAttempt) -> str:
        """Those of a node's own session are of all namespaces."""
        lease = self._backend.state().leases.get((attempt.fencing_token,))
        return self._namespace if lease is None else lease.namespace

    def _frame(self, **content: Any) -> pb.WorkResponse:
        return pb.WorkResponse(term=self._term, generation=self._generation, **content)

    # Tasks of this connection: the first that fails ends it.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._watch(asyncio.create_task(work))

    def _watch(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
        self._stirred.set()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stirred.set()


async def _first(frames: AsyncIterator[pb.WorkRequest]) -> pb.WorkHello:
    async for frame in frames:
        if frame.WhichOneof("frame") != "hello":
            break
        return frame.hello
    raise invalid("hello", "must be the first frame")


def _welcome(session: Session, *, resumed: bool) -> pb.WorkWelcome:
    return pb.WorkWelcome(
        session_id=session.id,
        resumed=resumed,
        session_timeout_ms=session.timeout_ms,
        heartbeat_interval_ms=session.timeout_ms // HEARTBEATS_PER_TIMEOUT,
    )
