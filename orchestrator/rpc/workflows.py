"""WorkflowService: starting, reading, waiting for, watching and steering executions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from orchestrator.engine import commands, queries
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.explain import explain
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.results import ClientSessionOpened, Done, MessagePushed, Started
from orchestrator.engine.transitions import TASK_TERMINAL, WORKFLOW_TERMINAL
from orchestrator.replication.errors import LostLeadership, NotLeader, OutcomeUnknown, Stopped
from orchestrator.rpc import awaiting, bulk, logs, redis_needed, showing, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.caller import CALLER
from orchestrator.rpc.errors import abort, answers, not_found
from orchestrator.rpc.rehearsals import Rehearsals
from orchestrator.rpc.requests import (
    REASON_CHARACTERS_MAX,
    chosen,
    identity_of,
    json_object,
    namespace_of,
    required,
    text,
    wait_seconds,
)
from orchestrator.rpc.searching import search_tasks, search_workflows
from orchestrator.rpc.slices import Slices, drawn
from orchestrator.rpc.starting import looked_at, start_command
from orchestrator.rpc.timing import timing
from orchestrator_api.v1 import common_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1 import workflows_pb2_grpc as pb_grpc

_UPDATES = {
    pb.TASK_STATUS_IN_PROGRESS: TaskStatus.IN_PROGRESS,
    pb.TASK_STATUS_COMPLETED: TaskStatus.COMPLETED,
    pb.TASK_STATUS_FAILED: TaskStatus.FAILED,
    pb.TASK_STATUS_FAILED_WITH_TERMINAL_ERROR: TaskStatus.FAILED_WITH_TERMINAL_ERROR,
}


_CONSISTENCIES = dict.fromkeys(pb.WorkflowConsistency.values())


class WorkflowServicer(pb_grpc.WorkflowServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._rehearsals = Rehearsals(backend)

    @answers
    async def OpenClientSession(self, request: pb.OpenClientSessionRequest, context: Any) -> Any:
        opened = await self.backend.submit(
            commands.OpenClientSession(namespace_of(request.namespace)), ClientSessionOpened
        )
        return pb.OpenClientSessionResponse(session_id=opened.session_id, idle_timeout_ms=opened.idle_timeout_ms)

    @answers
    async def StartWorkflow(self, request: pb.StartWorkflowRequest, context: Any) -> Any:
        started = await self._start(request)
        return pb.StartWorkflowResponse(
            workflow_id=started.workflow_id, existing=started.existing, consistency_token=self.backend.token()
        )

    @answers
    async def StartWorkflowAndWait(self, request: pb.StartWorkflowAndWaitRequest, context: Any) -> Any:
        seconds = wait_seconds("wait_ms", request.wait_ms)
        until = text("wait_until_task", request.wait_until_task)
        namespace = namespace_of(request.start.namespace)
        started = await self._start(request.start)
        try:
            held = await self._wait(namespace, started.workflow_id, seconds, _ended_or_task_ended(until))
        except (NotLeader, LostLeadership, Stopped) as error:
            # It has started: a caller who is told that this node does not lead would start it again elsewhere.
            raise OutcomeUnknown from error
        return pb.StartWorkflowAndWaitResponse(workflow=await self._workflow(held, include_tasks=True))

    @answers
    async def GetWorkflow(self, request: pb.GetWorkflowRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        conductors = showing.is_conductors(request.view)
        await self.backend.read_point(request.read)
        held = await self._get(namespace, workflow_id)
        shown = await showing.workflow(
            self.backend, held, include_tasks=request.include_tasks, conductors=conductors
        )
        return pb.GetWorkflowResponse(workflow=shown, consistency_token=self.backend.token())

    @answers
    async def WaitWorkflow(self, request: pb.WaitWorkflowRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        seconds = wait_seconds("wait_ms", request.wait_ms)
        held = await self._wait(namespace, workflow_id, seconds, _ended)
        return pb.WaitWorkflowResponse(workflow=await self._workflow(held, include_tasks=request.include_tasks))

    @answers
    async def SearchWorkflows(self, request: pb.SearchWorkflowsRequest, context: Any) -> Any:
        return await search_workflows(self.backend, request)

    @answers
    async def SearchTasks(self, request: pb.SearchTasksRequest, context: Any) -> Any:
        return await search_tasks(self.backend, request)

    async def WatchWorkflow(
        self, request: pb.WatchWorkflowRequest, context: Any
    ) -> AsyncIterator[pb.WatchWorkflowResponse]:
        try:
            namespace, workflow_id = _execution_of(request)
            await self._current()
            async with self.backend.changes.execution(namespace, workflow_id) as changed:
                caller = CALLER.get()
                caller.when_ended(lambda failure: changed.set())
                while True:
                    changed.clear()
                    caller.require_going_on()
                    held = await self._get(namespace, workflow_id)
                    if not caller.sees(held):
                        raise not_found("workflow", workflow_id)
                    # Before it is sent: meanwhile the execution may go on, and end.
                    has_ended = _ended(held)
                    seen = await self._workflow(held, include_tasks=request.include_tasks)
                    yield pb.WatchWorkflowResponse(workflow=seen)
                    if has_ended:
                        return
                    await awaiting.changed(self.backend, changed)
        except Exception as error:  # noqa: BLE001 - it becomes the status of the call
            await abort(context, error, self.backend.addresses)

    @answers
    async def SignalWorkflow(self, request: pb.SignalWorkflowRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        command = commands.SignalWorkflow(
            namespace, workflow_id, required("name", request.name), self._object("payload", request.payload)
        )
        await self._steer(command, request)
        return pb.SignalWorkflowResponse()

    @answers
    async def PauseWorkflow(self, request: pb.PauseWorkflowRequest, context: Any) -> Any:
        await self._steer(commands.PauseWorkflow(*_execution_of(request)), request)
        return pb.PauseWorkflowResponse()

    @answers
    async def ResumeWorkflow(self, request: pb.ResumeWorkflowRequest, context: Any) -> Any:
        await self._steer(commands.ResumeWorkflow(*_execution_of(request)), request)
        return pb.ResumeWorkflowResponse()

    @answers
    async def TerminateWorkflow(self, request: pb.TerminateWorkflowRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        reason = text("reason", request.reason, REASON_CHARACTERS_MAX)
        compensation = chosen("compensation", bulk.TERMINATE, request.compensation)
        await self._steer(commands.TerminateWorkflow(namespace, workflow_id, reason, compensation), request)
        return pb.TerminateWorkflowResponse()

    @answers
    async def RetryWorkflow(self, request: pb.RetryWorkflowRequest, context: Any) -> Any:
        command = commands.RetryWorkflow(*_execution_of(request), request.resume_sub_workflows)
        await self._steer(command, request)
        return pb.RetryWorkflowResponse()

    @answers
    async def RestartWorkflow(self, request: pb.RestartWorkflowRequest, context: Any) -> Any:
        effects = chosen("effects", bulk.DELETE, request.effects)
        command = commands.RestartWorkflow(*_execution_of(request), request.use_latest_definitions, effects)
        await self._steer(command, request)
        return pb.RestartWorkflowResponse()

    @answers
    async def RerunWorkflow(self, request: pb.RerunWorkflowRequest, context: Any) -> Any:
        command = commands.RerunWorkflow(
            *_execution_of(request),
            task_id=text("task_id", request.task_id),
            task_input=self._object("task_input", request.task_input) if request.HasField("task_input") else b"",
            workflow_input=(
                self._object("workflow_input", request.workflow_input) if request.HasField("workflow_input") else b""
            ),
            correlation_id=text("correlation_id", request.correlation_id),
            effects=chosen("effects", bulk.DELETE, request.effects),
        )
        await self._steer(command, request)
        return pb.RerunWorkflowResponse()

    @answers
    async def SkipTask(self, request: pb.SkipTaskRequest, context: Any) -> Any:
        output = self._object("output", request.output) if request.HasField("output") else b""
        command = commands.SkipTask(*_execution_of(request), required("reference", request.reference), output)
        await self._steer(command, request)
        return pb.SkipTaskResponse()

    @answers
    async def RetryCompensation(self, request: pb.RetryCompensationRequest, context: Any) -> Any:
        await self._steer(commands.RetryCompensation(*_execution_of(request)), request)
        return pb.RetryCompensationResponse()

    @answers
    async def SkipCompensation(self, request: pb.SkipCompensationRequest, context: Any) -> Any:
        await self._steer(commands.SkipCompensation(*_execution_of(request)), request)
        return pb.SkipCompensationResponse()

    @answers
    async def AbandonCompensation(self, request: pb.AbandonCompensationRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        reason = text("reason", request.reason, REASON_CHARACTERS_MAX)
        await self._steer(commands.AbandonCompensation(namespace, workflow_id, reason), request)
        return pb.AbandonCompensationResponse()

    @answers
    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, context: Any) -> Any:
        effects = chosen("effects", bulk.DELETE, request.effects)
        await self._steer(commands.DeleteWorkflow(*_execution_of(request), effects), request)
        return pb.DeleteWorkflowResponse()

    @answers
    async def OperateWorkflows(self, request: pb.OperateWorkflowsRequest, context: Any) -> Any:
        return await bulk.operate(self.backend, request)

    @answers
    async def UpdateVariables(self, request: pb.UpdateVariablesRequest, context: Any) -> Any:
        command = commands.UpdateVariables(*_execution_of(request), self._object("variables", request.variables))
        await self._steer(command, request)
        return pb.UpdateVariablesResponse()

    @answers
    async def UpdateTask(self, request: pb.UpdateTaskRequest, context: Any) -> Any:
        command = commands.UpdateTask(
            *_execution_of(request),
            reference=required("reference", request.reference),
            status=chosen("status", _UPDATES, request.status),
            output=self._object("output", request.output),
            reason=text("reason", request.reason, REASON_CHARACTERS_MAX),
        )
        await self._steer(command, request)
        return pb.UpdateTaskResponse()

    @answers
    async def MigrateWorkflow(self, request: pb.MigrateWorkflowRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        if not request.dry_run:
            await self._steer(commands.MigrateWorkflow(namespace, workflow_id, request.version), request)
            return pb.MigrateWorkflowResponse()
        await self._current()
        held = await self._get(namespace, workflow_id)
        obstacles = queries.obstacles_to(self.backend.state(), held, request.version)
        if obstacles is None:
            which = f"{held.execution.name} version {request.version}"
            raise not_found("workflow_definition", which)
        return pb.MigrateWorkflowResponse(obstacles=obstacles)

    @answers
    async def PushMessage(self, request: pb.PushMessageRequest, context: Any) -> Any:
        command = commands.PushMessage(*_execution_of(request), self._object("payload", request.payload))
        pushed = await self.backend.submit(command, MessagePushed, identity_of(request.request))
        return pb.PushMessageResponse(message_id=pushed.message_id)

    @answers
    async def ExplainWorkflow(self, request: pb.ExplainWorkflowRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        await self.backend.read_point(request.read)
        held = await self._get(namespace, workflow_id)
        waiting = explain(self.backend.state(), held, self.backend.secrets.why_closed)
        return pb.ExplainWorkflowResponse(waiting=[views.waiting(one) for one in waiting])

    @answers
    async def GetWorkflowTiming(self, request: pb.GetWorkflowTimingRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        await self.backend.read_point(request.read)
        now_ms = self.backend.log_time_ms()

        def draw(held: ExecutionState) -> Slices[pb.GetWorkflowTimingResponse]:
            return timing(self.backend.state(), held, now_ms)

        return await drawn(self.backend, await self._get(namespace, workflow_id), draw)

    @answers
    async def GetTaskLogs(self, request: pb.GetTaskLogsRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        wanted = logs.wanted(request)
        await self.backend.read_point(request.read)
        return logs.page(await self._get(namespace, workflow_id), wanted)

    @answers
    async def TestWorkflow(self, request: pb.TestWorkflowRequest, context: Any) -> Any:
        return await self._rehearsals.run(request)

    @answers
    async def ExecuteWorkflow(self, request: pb.ExecuteWorkflowRequest, context: Any) -> Any:
        chosen("consistency", _CONSISTENCIES, request.consistency)
        seconds = wait_seconds("wait_ms", request.wait_ms)
        request_id = request.start.request.request_id
        # All that is asked for is checked before anything is done.
        asked = awaiting.wanted(request, namespace_of(request.start.namespace), "", seconds, request_id)
        started = await self._start(request.start)
        return pb.ExecuteWorkflowResponse(awaited=await self._awaited(asked._replace(workflow_id=started.workflow_id)))

    @answers
    async def AwaitWorkflow(self, request: pb.AwaitWorkflowRequest, context: Any) -> Any:
        seconds = wait_seconds("wait_ms", request.wait_ms)
        asked = awaiting.wanted(request, *_execution_of(request), seconds)
        return pb.AwaitWorkflowResponse(awaited=await awaiting.awaited(self.backend, asked))

    @answers
    async def SignalTask(self, request: pb.SignalTaskRequest, context: Any) -> Any:
        namespace, workflow_id = _execution_of(request)
        seconds = wait_seconds("wait_ms", request.wait_ms) if request.wait_ms else 0.0
        asked = awaiting.wanted(request, namespace, workflow_id, seconds, request.request.request_id)
        update = commands.UpdateTask(
            namespace,
            workflow_id,
            reference="",
            status=chosen("status", _UPDATES, request.status),
            output=self._object("output", request.output),
            reason=text("reason", request.reason, REASON_CHARACTERS_MAX),
        )
        await awaiting.signal(self.backend, update, identity_of(request.request))
        if not seconds:
            return pb.SignalTaskResponse()
        return pb.SignalTaskResponse(awaited=await self._awaited(asked))

    async def _awaited(self, asked: awaiting.Wanted) -> pb.Awaited:
        """After what the call was to do has been done."""
        try:
            return await awaiting.awaited(self.backend, asked)
        except (NotLeader, LostLeadership, Stopped) as error:
            # A caller who is told that this node does not lead would do it again elsewhere.
            raise OutcomeUnknown from error

    async def _start(self, request: pb.StartWorkflowRequest) -> Started:
        if (refusal := self.backend.refusal()) is not None:
            raise refusal.with_traceback(None)  # it may have been raised before
        command = start_command(request, self.backend.large.sizes)
        redis_needed.check_inner(self.backend, command.document, "definition_json")
        command = await looked_at(self.backend, command)
        return await self.backend.submit(command, Started, identity_of(request.request))

    def _object(self, field: str, payload: common_pb2.Payload) -> bytes:
        return json_object(field, payload, self.backend.large.sizes)

    async def _steer(self, command: commands.AnyCommand, request: Any) -> None:
        await self.backend.submit(command, Done, identity_of(request.request))

    async def _current(self) -> None:
        """Linearizable: raises NotLeader or LostLeadership unless this node leads."""
        await self.backend.wait_applied(await self.backend.log.barrier())

    async def _get(self, namespace: str, workflow_id: str) -> ExecutionState:
        held = await self.backend.execution(namespace, workflow_id)
        if held is None:
            raise not_found("workflow", workflow_id)
        return held

    async def _wait(
        self, namespace: str, workflow_id: str, seconds: float, enough: Callable[[ExecutionState], bool]
    ) -> ExecutionState:
        """The execution once it is as wanted, or as it is when the time is over."""
        await self._current()
        async with self.backend.changes.execution(namespace, workflow_id) as changed:
            try:
                async with asyncio.timeout(seconds):
                    while True:
                        changed.clear()
                        held = await self._get(namespace, workflow_id)
                        if enough(held):
                            return held
                        await awaiting.changed(self.backend, changed)
            except TimeoutError:
                return await self._get(namespace, workflow_id)

    async def _workflow(self, held: ExecutionState, *, include_tasks: bool) -> pb.Workflow:
        return await showing.workflow(self.backend, held, include_tasks=include_tasks, conductors=False)


def _execution_of(request: Any) -> tuple[str, str]:
    return namespace_of(request.namespace), required("workflow_id", request.workflow_id)


def _ended(held: ExecutionState) -> bool:
    return held.execution.status in WORKFLOW_TERMINAL


def _ended_or_task_ended(reference: str) -> Callable[[ExecutionState], bool]:
    def enough(held: ExecutionState) -> bool:
        if _ended(held):
            return True
        if not reference:
            return False
        latest = held.latest(reference)
        return latest is not None and latest.status in TASK_TERMINAL and not latest.retried

    return enough
