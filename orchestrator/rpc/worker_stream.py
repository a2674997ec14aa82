"""One worker's stream: hello and welcome, then results in, attempts out, until either side goes away.

Frames to the worker are written by one task, which joins what is queued. Results are judged as they come; reading
pauses while `RESULTS_MAX` of them wait for their verdicts, so that a fast worker can't fill the node's memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from orchestrator.engine import commands
from orchestrator.engine.effects import Cancel
from orchestrator.engine.model import Lease, Session, SessionKind
from orchestrator.engine.results import Done, Rejected, SessionOpened
from orchestrator.rpc import views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import invalid
from orchestrator.rpc.requests import in_range, json_object, namespace_of, required, task_names, text
from orchestrator_api.v1 import workers_pb2 as pb

logger = logging.getLogger(__name__)

SLOTS_MAX = 10_000
SESSION_TIMEOUT_MS_DEFAULT = 10_000
SESSION_TIMEOUT_MS_MIN = 2_000
SESSION_TIMEOUT_MS_MAX = 60_000
HEARTBEATS_PER_TIMEOUT = 4
RESULTS_MAX = 2_000
DETAILS_BYTES_MAX = 64 * 1024

Judge = Callable[[Backend, pb.TaskResult], Awaitable[pb.TaskVerdict]]


class _GoAway(msgspec.Struct):
    reason: str


_Outgoing = pb.WorkResponse | Lease | pb.TaskVerdict | Cancel | _GoAway


class WorkerConnection:
    """Speaks for one session on one stream."""

    def __init__(self, backend: Backend, judge: Judge) -> None:
        self._backend = backend
        self._judge = judge
        self._outgoing: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._room = asyncio.Semaphore(RESULTS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._generation = 0
        self._session_id = ""

    # What the dispatcher calls; see Stream.

    def deliver(self, lease: Lease) -> None:
        self._outgoing.put_nowait(lease)

    def cancel(self, effect: Cancel) -> None:
        self._outgoing.put_nowait(effect)

    def go_away(self, reason: str) -> None:
        self._outgoing.put_nowait(_GoAway(reason))

    async def serve(self, frames: AsyncIterator[pb.WorkRequest]) -> AsyncIterator[pb.WorkResponse]:
        """The frames to the worker, until the stream is to end. Raises what the worker's frames did wrong."""
        hello = await self._hello(frames)
        self._backend.require_leading()
        session, resumed = await self._session(hello)
        self._session_id = session.id
        self._generation = self._backend.dispatch.next_generation()
        yield self._frame(welcome=self._welcome(session, resumed))
        self._backend.dispatch.attach(session.id, self, {held.fencing_token for held in hello.held})
        self._answer_unknown(hello)
        reader = asyncio.create_task(self._read(frames))
        self._guard(reader)
        try:
            async for frame in self._write(reader):
                yield frame
        finally:
            self._backend.dispatch.detach(session.id, self)
            for task in (reader, *self._tasks):
                task.cancel()
            self._failed.cancel()

    async def _hello(self, frames: AsyncIterator[pb.WorkRequest]) -> pb.WorkHello:
        async for frame in frames:
            if frame.WhichOneof("frame") != "hello":
                break
            return frame.hello
        raise invalid("hello", "must be the first frame")

    async def _session(self, hello: pb.WorkHello) -> tuple[Session, bool]:
        """The session that the worker names, opened if there is none."""
        names = task_names("hello.task_names", hello.task_names)
        slots = in_range("hello.slots", hello.slots, 0 if hello.held else 1, SLOTS_MAX)
        timeout_ms = in_range(
            "hello.session_timeout_ms",
            hello.session_timeout_ms or SESSION_TIMEOUT_MS_DEFAULT,
            SESSION_TIMEOUT_MS_MIN,
            SESSION_TIMEOUT_MS_MAX,
        )
        command = commands.OpenSession(
            session_id=text("hello.session_id", hello.session_id),
            kind=SessionKind.STREAM,
            namespace=namespace_of(hello.namespace),
            domain=text("hello.domain", hello.domain),
            worker_id=required("hello.worker_id", hello.worker_id),
            task_names=names,
            slots=slots,
            timeout_ms=timeout_ms,
        )
        if (command.session_id,) in self._backend.state().sessions:
            opened = SessionOpened(command.session_id, True)
        else:
            opened = await self._backend.submit(command, SessionOpened)
        session = self._backend.state().sessions[(opened.session_id,)]
        if (session.task_names, session.slots) != (names, slots):
            await self._backend.submit(commands.UpdateSession(session.id, names, slots), Done)
            session = self._backend.state().sessions[(session.id,)]
        return session, opened.existing

    def _welcome(self, session: Session, resumed: bool) -> pb.WorkWelcome:
        return pb.WorkWelcome(
            session_id=session.id,
            resumed=resumed,
            session_timeout_ms=session.timeout_ms,
            heartbeat_interval_ms=session.timeout_ms // HEARTBEATS_PER_TIMEOUT,
        )

    def _answer_unknown(self, hello: pb.WorkHello) -> None:
        """Attempts that the worker holds and the session does not have ended without it."""
        leases = self._backend.state().leases
        for held in hello.held:
            if (held.fencing_token,) not in leases:
                self.cancel(
                    Cancel(
                        self._session_id,
                        held.fencing_token,
                        namespace_of(hello.namespace),
                        held.workflow_id,
                        held.task_id,
                        "the attempt is not leased to this session",
                        True,
                    )
                )

    # From the worker.

    async def _read(self, frames: AsyncIterator[pb.WorkRequest]) -> None:
        async for frame in frames:
            self._backend.signs.session_seen(self._session_id)
            match frame.WhichOneof("frame"):
                case "results":
                    await self._take_results(frame.results)
                case "heartbeat":
                    await self._take_heartbeat(frame.heartbeat)
                case "release":
                    for held in frame.release.attempts:
                        self._submit(commands.ReleaseTask(self._session_id, held.fencing_token))
                case "slots":
                    await self._take_slots(frame.slots)
                case "goodbye":
                    await self._backend.submit_any(commands.CloseSession(self._session_id), None)
                    return
                case other:
                    raise invalid("frame", f"{other} can't come here")

    async def _take_results(self, frame: pb.WorkResults) -> None:
        for result in frame.results:
            await self._room.acquire()
            self._spawn(self._verdict(result))

    async def _verdict(self, result: pb.TaskResult) -> None:
        try:
            self._outgoing.put_nowait(await self._judge(self._backend, result))
        finally:
            self._room.release()

    async def _take_heartbeat(self, frame: pb.WorkHeartbeat) -> None:
        if frame.all_attempts:
            self._backend.signs.attempts_seen(self._session_id)
        for attempt in frame.attempts:
            self._backend.signs.attempt_seen(attempt.fencing_token)
            if attempt.HasField("details"):
                details = json_object("heartbeat.details", attempt.details)
                in_range("heartbeat.details bytes", len(details), 0, DETAILS_BYTES_MAX)
                self._submit(
                    commands.RecordHeartbeat(
                        self._namespace(), attempt.workflow_id, attempt.task_id, attempt.fencing_token, details
                    )
                )
        self._outgoing.put_nowait(self._frame(alive=pb.WorkAlive()))

    async def _take_slots(self, frame: pb.WorkSlots) -> None:
        slots = in_range("slots.slots", frame.slots, 0, SLOTS_MAX)
        session = self._backend.state().sessions.get((self._session_id,))
        if session is not None:
            await self._backend.submit(commands.UpdateSession(session.id, session.task_names, slots), Done)

    def _namespace(self) -> str:
        session = self._backend.state().sessions.get((self._session_id,))
        return session.namespace if session is not None else ""

    def _submit(self, command: commands.AnyCommand) -> None:
        async def submitted() -> None:
            outcome = await self._backend.submit_any(command, None)
            if isinstance(outcome, Rejected):
                logger.info("a worker's %s was refused: %s", type(command).__name__, outcome.message)

        self._spawn(submitted())

    # To the worker.

    async def _write(self, reader: asyncio.Task[None]) -> AsyncIterator[pb.WorkResponse]:
        while not reader.done():
            getter = asyncio.ensure_future(self._outgoing.get())
            waiting: set[asyncio.Future[Any]] = {getter, reader, self._failed}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                getter.cancel()
                self._failed.result()
            if not getter.done():
                getter.cancel()
                return
            batch = [getter.result()]
            while not self._outgoing.empty():
                batch.append(self._outgoing.get_nowait())
            for frame in await self._frames(batch):
                yield frame
            leaving = next((item for item in batch if isinstance(item, _GoAway)), None)
            if leaving is not None:
                yield self._frame(
                    go_away=pb.WorkGoAway(
                        reason=leaving.reason, leader_address=self._backend.addresses.hint().get("leader_address", "")
                    )
                )
                return

    async def _frames(self, batch: list[_Outgoing]) -> list[pb.WorkResponse]:
        """What is queued, in as few frames as possible; attempts come before their cancellations."""
        frames = [item for item in batch if isinstance(item, pb.WorkResponse)]
        verdicts = [item for item in batch if isinstance(item, pb.TaskVerdict)]
        leases = [item for item in batch if isinstance(item, Lease)]
        cancels = [item for item in batch if isinstance(item, Cancel)]
        if verdicts:
            frames.append(self._frame(verdicts=pb.WorkVerdicts(verdicts=verdicts)))
        if leases:
            assignments = [await self._assignment(lease) for lease in leases]
            frames.append(
                self._frame(assignments=pb.WorkAssignments(assignments=[each for each in assignments if each]))
            )
        if cancels:
            cancellations = [views.cancellation(cancel) for cancel in cancels]
            frames.append(self._frame(cancellations=pb.WorkCancellations(cancellations=cancellations)))
        return frames

    async def _assignment(self, lease: Lease) -> pb.Assignment | None:
        held = await self._backend.execution(lease.namespace, lease.workflow_id)
        return None if held is None else views.assignment(self._backend.state(), held, lease.token)

    def _frame(self, **content: Any) -> pb.WorkResponse:
        return pb.WorkResponse(term=self._backend.log.term, generation=self._generation, **content)

    # Tasks of this connection: the first that fails ends it.

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._guard(task)

    def _guard(self, task: asyncio.Task[None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() or self._failed.done():
                return
            error = task.exception()
            if error is not None:
                self._failed.set_exception(error)

        task.add_done_callback(ended)
