"""One client's stream: asks in, answers out, until either side has said everything.

No ask has a task of its own: a start is a future of the sequencer, a wait is a watcher of its execution, and all that
has come up in one turn of the loop goes out in one frame. What an answer shows is looked at when the frame is made, so
that a client that does not read keeps a number and a key here for each ask, and no payloads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from orchestrator.access.roles import Need
from orchestrator.engine.commands import RequestIdentity, StartWorkflow
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import WorkflowStatus
from orchestrator.engine.results import AnyResult, Rejected, Started
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.replication.errors import OutcomeUnknown, Overloaded
from orchestrator.rpc import redis_needed, showing, starting, views
from orchestrator.rpc.backend import DEFAULT_NAMESPACE, Backend
from orchestrator.rpc.caller import EVERYBODY, Caller
from orchestrator.rpc.errors import failure_of, invalid, not_found, rejected, status_of
from orchestrator.rpc.guarded_requests import require_start
from orchestrator.rpc.large_payloads import is_large
from orchestrator.rpc.requests import identity_of, namespace_of, required, text, wait_seconds
from orchestrator_api.v1 import asks_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.errors_pb2 import ErrorStatus

ASKS_MAX = 20_000
# A stream that is told nothing must learn all the same that this node leads no longer.
LEADERSHIP_CHECK_SECONDS = 1.0
# An execution that ends sooner is answered once: that it has started goes without saying then.
STARTED_AFTER_SECONDS = 0.25
# Answers go out in frames of about this size, which every client accepts.
FRAME_BYTES = 1 << 20
# So many asks or answers are dealt with in one turn of the loop.
SLICE = 64
_SLACK = 1_000
# As `access.methods` calls what is asked.
_METHODS: dict[str | None, str] = {kind: f"Ask/asks/{kind}" for kind in ("start", "outcome", "wait")}


class _Wait:
    """Waits for the end of an execution."""

    __slots__ = (
        "_connection", "include_tasks", "is_ready", "is_watching", "namespace", "number", "output_only", "owed",
        "seconds", "time_is_over", "workflow_id",
    )

    def __init__(self, connection: AskConnection, number: int, namespace: str, seconds: float) -> None:
        self._connection = connection
        self.number = number
        self.namespace = namespace
        self.workflow_id = ""
        self.seconds = seconds
        self.include_tasks = False
        self.output_only = False
        self.owed: pb.Answer | None = None  # that it has started, which the client has not been told
        self.is_watching = False
        self.is_ready = False  # to be answered in the next frame
        self.time_is_over = False

    def set(self) -> None:
        """The execution has changed."""
        self._connection.look(self)


class AskConnection:
    """Answers what one client asks."""

    def __init__(self, backend: Backend, caller: Caller = EVERYBODY) -> None:
        self._backend = backend
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        # What has no last answer yet, by number; what only starts has nothing to wait for.
        self._open: dict[int, _Wait | None] = {}
        self._mentions: list[pb.Answer] = []
        self._answers: list[pb.Answer | _Wait] = []
        # When a wait is over, and when a start is told that is still being waited for: (when, number, which).
        self._due: list[tuple[float, int, bool]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._starting = 0  # the results of commands that are on their way
        self._stirred = asyncio.Event()  # there is something to write, or to end for
        self._tasks: set[asyncio.Task[Any]] = set()
        self._has_read_all = False
        self._refusal: Overloaded | None = None
        self._refused = ErrorStatus()
        self._failure: BaseException | None = None

    async def serve(self, frames: AsyncIterator[pb.AskRequest]) -> AsyncGenerator[pb.AskResponse, None]:
        """The frames to the client, until the stream is to end. Raises what the client did wrong.

        Raises NotLeader before the welcome, and OutcomeUnknown when this node leads no longer.
        """
        await _hello(frames)
        self._backend.require_leading()
        self._caller.when_ended(self._fail)
        self._backend.changes.watch_leadership(self)
        self._pulse = self._loop.call_later(LEADERSHIP_CHECK_SECONDS, self._beat)
        try:
            yield pb.AskResponse(welcome=pb.AskWelcome(asks_max=ASKS_MAX))
            self._spawn(self._read(frames))
            while True:
                await self._stirred.wait()
                self._stirred.clear()
                is_leaving = not self._backend.leading() and not self._starting
                if is_leaving:
                    self._mention_all()
                async for frame in self._frames():
                    yield frame
                if self._failure is not None:
                    raise self._failure
                if is_leaving:
                    raise OutcomeUnknown
                if self._has_read_all and not self._open:
                    return
        finally:
            await self._close()

    def set(self) -> None:
        """This node may lead no longer."""
        self._stirred.set()

    def _beat(self) -> None:
        self._stirred.set()
        self._pulse = self._loop.call_later(LEADERSHIP_CHECK_SECONDS, self._beat)

    def look(self, wait: _Wait) -> None:
        """Answers the wait if its execution has ended."""
        if wait.is_ready:
            return
        held = self._held(wait)
        if held is None:
            self._spawn(self._look_closely(wait))
        elif held.execution.status in WORKFLOW_TERMINAL:
            self._answer(wait)

    # From the client.

    async def _read(self, frames: AsyncIterator[pb.AskRequest]) -> None:
        async for frame in frames:
            match frame.WhichOneof("frame"):
                case "asks":
                    await self._take(frame.asks)
                case "cancels":
                    for number in frame.cancels.numbers:
                        self._end(number)
                case other:
                    raise invalid("frame", f"{other} can't come here")
        self._has_read_all = True
        self._stirred.set()

    async def _take(self, asks: pb.Asks) -> None:
        waits: list[_Wait] = []
        for place, ask in enumerate(asks.asks, 1):
            if place % SLICE == 0:
                await asyncio.sleep(0)
            number = ask.number
            if number in self._open:
                raise invalid("ask.number", f"{number} is that of another ask")
            is_full = len(self._open) >= ASKS_MAX
            self._open[number] = None
            try:
                if is_full:
                    raise Overloaded(f"{ASKS_MAX} asks of this stream wait for their answers")
                kind = ask.WhichOneof("ask")
                self._check(kind, ask)
                match kind:
                    case "start":
                        self._start(number, ask.start, None)
                    case "outcome":
                        self._start(number, ask.outcome.start, self._outcome(number, ask.outcome))
                    case "wait":
                        wait = self._open[number] = self._wait(number, ask.wait)
                        waits.append(wait)
                    case _:
                        raise invalid("ask", "is missing")
            except Exception as error:  # noqa: BLE001 - it becomes the answer
                self._refuse(number, error)
        if waits:
            self._spawn(self._begin(waits))

    def _check(self, kind: str | None, ask: pb.Ask) -> None:
        """Raises RpcFailure for what the caller may not ask, or not so often."""
        caller = self._caller
        method = _METHODS.get(kind, "")
        if caller.is_limited and (failure := caller.overrun(method)) is not None:
            raise failure
        if caller.is_free or not method:
            return
        if kind == "wait":
            # Of which workflow it is shows when it is found; see `_found`.
            caller.require(method, Need.SEE, ask.wait.namespace or DEFAULT_NAMESPACE)
        else:
            require_start(caller, method, ask.start if kind == "start" else ask.outcome.start)

    def _outcome(self, number: int, asked: pb.AskOutcome) -> _Wait:
        wait = _Wait(self, number, namespace_of(asked.start.namespace), wait_seconds("wait_ms", asked.wait_ms))
        wait.include_tasks, wait.output_only = asked.include_tasks, asked.output_only
        return wait

    def _wait(self, number: int, request: workflows_pb2.WaitWorkflowRequest) -> _Wait:
        namespace, workflow_id = namespace_of(request.namespace), required("workflow_id", request.workflow_id)
        wait = _Wait(self, number, namespace, wait_seconds("wait_ms", request.wait_ms))
        wait.workflow_id, wait.include_tasks = workflow_id, request.include_tasks
        return wait

    # Starting.

    def _start(self, number: int, request: workflows_pb2.StartWorkflowRequest, wait: _Wait | None) -> None:
        backend = self._backend
        if (refusal := backend.refusal()) is not None:
            self._refuse_for_want_of_room(number, refusal)
            return
        command = starting.start_command(request, backend.large.sizes)
        identity = identity_of(request.request)
        redis_needed.check_inner(backend, command.document, "definition_json")
        submitted: asyncio.Future[AnyResult]
        if not is_large(command.input) and starting.check_of(backend, command) is None:
            submitted = asyncio.ensure_future(backend.submit_any(command, identity))
        else:
            # What becomes of it is the answer to this ask, and no matter of the others.
            submitted = task = self._loop.create_task(self._look_and_submit(command, identity))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._starting += 1
        submitted.add_done_callback(partial(self._started, number, wait))

    async def _look_and_submit(self, command: StartWorkflow, identity: RequestIdentity | None) -> AnyResult:
        return await self._backend.submit_any(await starting.looked_at(self._backend, command), identity)

    def _started(self, number: int, wait: _Wait | None, submitted: asyncio.Future[AnyResult]) -> None:
        self._starting -= 1
        self._stirred.set()
        if submitted.cancelled():
            return
        error = submitted.exception()
        if number not in self._open:
            # Nobody waits for it any more.
            return
        result = None if error is not None else submitted.result()
        if isinstance(result, Rejected):
            error = rejected(result)
        elif not isinstance(result, Started):
            error = error or TypeError(f"StartWorkflow answered {type(result).__name__}")
        if error is not None or not isinstance(result, Started):
            self._refuse(number, error)
            return
        answer = pb.Answer(
            number=number,
            started=workflows_pb2.StartWorkflowResponse(
                workflow_id=result.workflow_id, existing=result.existing, consistency_token=self._backend.token()
            ),
        )
        if wait is None:
            self._answers.append(answer)
            return
        wait.workflow_id, wait.owed = result.workflow_id, answer
        self._open[number] = wait
        self._remind(STARTED_AFTER_SECONDS, number, is_end=False)
        self._watch(wait)

    # Waiting.

    async def _begin(self, waits: list[_Wait]) -> None:
        """They see everything that was acknowledged before they came."""
        try:
            await self._backend.wait_applied(await self._backend.log.barrier())
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            for wait in waits:
                self._refuse(wait.number, error)
            return
        for place, wait in enumerate(waits, 1):
            if place % SLICE == 0:
                await asyncio.sleep(0)
            if self._open.get(wait.number) is wait:
                self._watch(wait)

    def _watch(self, wait: _Wait) -> None:
        self._backend.changes.watch_execution(wait.namespace, wait.workflow_id, wait)
        wait.is_watching = True
        self._remind(wait.seconds, wait.number, is_end=True)
        self.look(wait)

    def _held(self, wait: _Wait) -> ExecutionState | None:
        """None of one that is not in memory."""
        held = self._backend.state().execution((wait.namespace, wait.workflow_id))
        if held is None or held.execution.deleted:
            return None
        return held if self._caller.is_free or self._caller.sees(held) else None

    async def _look_closely(self, wait: _Wait) -> None:
        held = await self._found(wait)
        if held is not None and held.execution.status in WORKFLOW_TERMINAL:
            self._answer(wait)

    async def _found(self, wait: _Wait) -> ExecutionState | None:
        """None if it was answered that there is none."""
        held = await self._backend.execution(wait.namespace, wait.workflow_id)
        if held is not None and not self._caller.sees(held):
            self._caller.note_hidden("Ask/asks/wait", Need.SEE, wait.namespace, held.execution.name)
            held = None
        if held is None:
            self._refuse(wait.number, not_found("workflow", wait.workflow_id))
        return held

    def _remind(self, seconds: float, number: int, *, is_end: bool) -> None:
        when = self._loop.time() + seconds
        if len(self._due) > 2 * len(self._open) + _SLACK:
            self._due = [due for due in self._due if due[1] in self._open]
            heapify(self._due)
        heappush(self._due, (when, number, is_end))
        if self._timer is None or when < self._armed_for:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_at(when, self._pass)

    def _pass(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and self._due[0][0] <= now:
            _, number, is_end = heappop(self._due)
            wait = self._open.get(number)
            if wait is None:
                continue
            if is_end:
                wait.time_is_over = True
                self._answer(wait)
            else:
                self._mention(wait)
        if self._due:
            self._arm(self._due[0][0])

    # To the client.

    def _answer(self, wait: _Wait) -> None:
        if not wait.is_ready:
            wait.is_ready = True
            self._answers.append(wait)
            self._stirred.set()

    def _mention(self, wait: _Wait) -> None:
        if wait.owed is not None:
            self._mentions.append(wait.owed)
            wait.owed = None
            self._stirred.set()

    def _mention_all(self) -> None:
        for wait in self._open.values():
            if wait is not None:
                self._mention(wait)

    def _refuse_for_want_of_room(self, number: int, refusal: Overloaded) -> None:
        """Many are: the status of all that are refused in the same words is made once."""
        if refusal is not self._refusal:
            self._refusal, self._refused = refusal, status_of(failure_of(refusal, self._backend.addresses))
        self._answers.append(pb.Answer(number=number, refused=self._refused))
        self._stirred.set()

    def _refuse(self, number: int, error: BaseException | None) -> None:
        if not isinstance(error, Exception):
            error = RuntimeError(f"the ask ended with {error!r}")
        status = status_of(failure_of(error, self._backend.addresses))
        self._answers.append(pb.Answer(number=number, refused=status))
        self._stirred.set()

    async def _frames(self) -> AsyncIterator[pb.AskResponse]:
        mentions, self._mentions = self._mentions, []
        ready, self._answers = self._answers, []
        answers, size = [each for each in mentions if each.number in self._open], 0
        for place, each in enumerate(ready, 1):
            if place % SLICE == 0:
                await asyncio.sleep(0)
            if each.number not in self._open:
                continue
            answer = self._shown(each) if isinstance(each, _Wait) else each
            if answer is None:
                continue
            self._end(each.number)
            bytes_of_it = _size(answer)
            if answers and size + bytes_of_it > FRAME_BYTES:
                yield _answers_frame(answers)
                answers, size = [], 0
            answers.append(answer)
            size += bytes_of_it
        if answers:
            yield _answers_frame(answers)

    def _shown(self, wait: _Wait) -> pb.Answer | None:
        """None if it is not to be answered now: it runs again, or has to be read first."""
        held = self._held(wait)
        if held is None or wait.include_tasks:
            self._spawn(self._show(wait))
            return None
        status = held.execution.status
        if status not in WORKFLOW_TERMINAL and not wait.time_is_over:
            wait.is_ready = False
            return None
        if held.execution.blobs:
            # Some of it has to be fetched.
            self._spawn(self._show(wait))
            return None
        if wait.output_only and status is WorkflowStatus.COMPLETED:
            return pb.Answer(number=wait.number, workflow=views.outcome(held))
        workflow = views.workflow(self._backend.state(), held, include_tasks=False)
        return pb.Answer(number=wait.number, workflow=workflow)

    async def _show(self, wait: _Wait) -> None:
        held = await self._found(wait)
        if held is None:
            return
        try:
            workflow = await showing.workflow(
                self._backend, held, include_tasks=wait.include_tasks, conductors=False
            )
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._refuse(wait.number, error)
            return
        self._answers.append(pb.Answer(number=wait.number, workflow=workflow))
        self._stirred.set()

    def _end(self, number: int) -> None:
        wait = self._open.pop(number, None)
        if wait is not None and wait.is_watching:
            self._backend.changes.unwatch_execution(wait.namespace, wait.workflow_id, wait)

    async def _close(self) -> None:
        self._backend.changes.unwatch_leadership(self)
        self._pulse.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for number in list(self._open):
            self._end(number)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Tasks of this connection: the first that fails ends it.

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._stirred.set()


async def _hello(frames: AsyncIterator[pb.AskRequest]) -> None:
    async for frame in frames:
        if frame.WhichOneof("frame") != "hello":
            break
        text("hello.client", frame.hello.client)
        return
    raise invalid("hello", "must be the first frame")


def _answers_frame(answers: list[pb.Answer]) -> pb.AskResponse:
    frame = pb.AskResponse()
    frame.answers.answers.extend(answers)  # a frame made of messages in messages copies each twice
    return frame


def _size(answer: pb.Answer) -> int:
    """About; of one with tasks exactly."""
    workflow = answer.workflow
    if workflow.tasks:
        return answer.ByteSize()
    return 200 + len(workflow.output.inline) + len(workflow.input.inline) + len(workflow.variables.inline)
