"""Tests of workflows: their tasks have mocked outcomes, and a state machine of its own runs them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

import grpc
from msgspec.structs import replace

from orchestrator.engine import commands, queries
from orchestrator.engine.definitions.parse import DefinitionError, validate_workflow
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.results import Rejected
from orchestrator.rehearsal.mocks import Mock, Mocks
from orchestrator.rehearsal.rehearsal import Rehearsal, Rehearsed
from orchestrator.rehearsal.stage import RehearsalTooLarge
from orchestrator.replication.errors import Overloaded
from orchestrator.rpc import conductor_view, showing, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure, rejected
from orchestrator.rpc.requests import REASON_CHARACTERS_MAX, chosen, in_range, json_object, required, text
from orchestrator.rpc.slices import in_turns
from orchestrator.rpc.starting import start_command
from orchestrator_api.v1 import workflows_pb2 as pb

AT_ONCE = 4
SECONDS_MAX = 30.0
DEFINITIONS_MAX = 100
MOCKS_MAX = 10_000
DEPTH_MAX = 64
# A mock may take a century: a date that no WAIT comes to is not to be asked for.
VIRTUAL_MS_MAX = 100 * 366 * 24 * 3_600_000
# With room for what else the message has.
ANSWER_BYTES_MAX = 15 << 20

_STATUSES = {
    pb.TASK_STATUS_UNSPECIFIED: TaskStatus.COMPLETED,
    pb.TASK_STATUS_IN_PROGRESS: TaskStatus.IN_PROGRESS,
    pb.TASK_STATUS_COMPLETED: TaskStatus.COMPLETED,
    pb.TASK_STATUS_FAILED: TaskStatus.FAILED,
    pb.TASK_STATUS_FAILED_WITH_TERMINAL_ERROR: TaskStatus.FAILED_WITH_TERMINAL_ERROR,
}


class Rehearsals:
    """At most AT_ONCE of a node at a time; more are refused, and may be tried again."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._running = 0

    async def run(self, request: pb.TestWorkflowRequest) -> pb.TestWorkflowResponse:
        start = start_command(request.start)
        conductors = showing.is_conductors(request.view)
        registering = _registering(start.namespace, request)
        start = _as_registered(start, registering)
        mocks = _Reader().mocks("mocks", request.mocks)
        await self._backend.read_point(request.read)
        if self._running >= AT_ONCE:
            raise Overloaded(f"{AT_ONCE} tests of workflows are running on this node")
        self._running += 1
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await _answer(await self._rehearse(start, registering, mocks), conductors)
        except TimeoutError:
            raise _too_large("seconds", SECONDS_MAX) from None
        except RehearsalTooLarge as error:
            raise _too_large(error.limit, error.most) from error
        finally:
            self._running -= 1

    async def _rehearse(
        self, start: commands.StartWorkflow, registering: list[commands.AnyCommand], mocks: Mocks
    ) -> Rehearsed:
        backend = self._backend
        rehearsal = Rehearsal(backend.state(), backend.log_time_ms(), backend.evaluate)
        for command in registering:
            refusal = await rehearsal.register(command)
            if refusal is not None:
                raise rejected(refusal)
        result = await rehearsal.run(start, mocks)
        if isinstance(result, Rejected):
            raise rejected(result)
        return result


def _registering(namespace: str, request: pb.TestWorkflowRequest) -> list[commands.AnyCommand]:
    """The commands that register what is there in the test only."""
    registering: list[commands.AnyCommand] = []
    workflows, tasks = tuple(request.workflow_definition_json), tuple(request.task_definition_json)
    in_range("task_definition_json", len(tasks), 0, DEFINITIONS_MAX)
    in_range("workflow_definition_json", len(workflows), 0, DEFINITIONS_MAX)
    if tasks:
        registering.append(commands.RegisterTasks(namespace, tasks))
    if workflows:
        registering.append(commands.RegisterWorkflows(namespace, workflows, overwrite=True))
    return registering


def _as_registered(start: commands.StartWorkflow, registering: list[commands.AnyCommand]) -> commands.StartWorkflow:
    """A definition that names secrets has to be registered, also where nobody is given any."""
    try:
        workflow = validate_workflow(start.document) if start.document else None
    except DefinitionError:
        # The start is refused for it.
        return start
    if workflow is None or not workflow.secrets_at:
        return start
    registering.append(commands.RegisterWorkflows(start.namespace, (start.document,), overwrite=True))
    return replace(start, document=b"", name=workflow.name, version=workflow.version)


class _Reader:
    """From messages to mocks; counts them."""

    def __init__(self) -> None:
        self._count = 0

    def mocks(self, path: str, message: pb.Mocks, depth: int = 0) -> Mocks:
        in_range(f"{path}.sub_workflows", depth, 0, DEPTH_MAX)
        return Mocks(
            {
                required(f"{path}.tasks", reference): self._outcomes(f"{path}.tasks[{reference}]", mocks)
                for reference, mocks in message.tasks.items()
            },
            self._sub_workflows(path, message.sub_workflows, depth),
        )

    def _sub_workflows(self, path: str, messages: Mapping[str, pb.Mocks], depth: int) -> dict[str, Mocks]:
        return {
            required(f"{path}.sub_workflows", reference): self.mocks(
                f"{path}.sub_workflows[{reference}]", mocks, depth + 1
            )
            for reference, mocks in messages.items()
        }

    def _outcomes(self, path: str, message: pb.TaskMocks) -> deque[Mock]:
        self._count += len(message.outcomes)
        in_range("mocks", self._count, 0, MOCKS_MAX)
        return deque(_mock(f"{path}[{place}]", outcome) for place, outcome in enumerate(message.outcomes))


def _mock(path: str, message: pb.TaskMock) -> Mock:
    return Mock(
        status=chosen(f"{path}.status", _STATUSES, message.status),
        output=json_object(f"{path}.output", message.output),
        reason=text(f"{path}.reason", message.reason, REASON_CHARACTERS_MAX),
        error_code=text(f"{path}.error_code", message.error_code),
        queue_wait_ms=in_range(f"{path}.queue_wait_ms", message.queue_wait_ms, 0, VIRTUAL_MS_MAX),
        execution_ms=in_range(f"{path}.execution_ms", message.execution_ms, 0, VIRTUAL_MS_MAX),
    )


async def _answer(rehearsed: Rehearsed, conductors: bool) -> pb.TestWorkflowResponse:
    """In slices: inputs are resolved for it, and may be large together."""
    answer = pb.TestWorkflowResponse(without_mock=rehearsed.without_mock, unused_mocks=rehearsed.unused)
    state, size = rehearsed.state, 0
    for held in rehearsed.executions:
        message = answer.workflow if held is rehearsed.executions[0] else answer.sub_workflows.add()
        if conductors:
            message.CopyFrom(await _conductors(rehearsed, held, ANSWER_BYTES_MAX - size))
            size += message.ByteSize()
            continue
        message.CopyFrom(views.workflow(state, held, include_tasks=False))
        message.definition_json = queries.execution_document(state, held)
        size += message.ByteSize()
        for sequence in sorted(held.tasks):
            message.tasks.append(views.task(state, held, held.tasks[sequence]))
            size += message.tasks[-1].ByteSize()
            if size > ANSWER_BYTES_MAX:
                raise _too_large("bytes of the answer", ANSWER_BYTES_MAX)
            await asyncio.sleep(0)
    return answer


async def _conductors(rehearsed: Rehearsed, held: ExecutionState, bytes_max: int) -> pb.Workflow:
    slices = showing.conductors_workflow(
        rehearsed.state, held, include_tasks=True, parent_task=_parent_task(rehearsed, held), bytes_max=bytes_max
    )
    try:
        return await in_turns(slices)
    except conductor_view.TooLarge:
        raise _too_large("bytes of the answer", ANSWER_BYTES_MAX) from None


def _parent_task(rehearsed: Rehearsed, held: ExecutionState) -> str:
    """The id of the task that has started the execution; "" for the outermost one."""
    x = held.execution
    for other in rehearsed.executions:
        if other.execution.workflow_id == x.parent and x.parent_sequence in other.tasks:
            return other.tasks[x.parent_sequence].task_id
    return ""


def _too_large(limit: str, most: float) -> RpcFailure:
    metadata = {"field": limit, "limit": f"{most:.0f}"}
    message = f"the test of the workflow exceeds its limit of {most:,.0f} {limit}"
    return RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "TEST_TOO_LARGE", message, metadata)
