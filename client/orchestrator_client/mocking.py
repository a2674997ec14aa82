"""Tests of workflows on the cluster: their tasks have mocked outcomes, time is virtual, and nothing is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client import definitions as forms
from orchestrator_client.codec import dumps
from orchestrator_client.connection import Connection
from orchestrator_client.errors import InvalidRequest
from orchestrator_client.execution import Execution, TaskStatus, read_execution
from orchestrator_client.runs import object_payload
from orchestrator_client.workflow import Workflow

# A test has 30 s on the node; it may have to wait for its turn before.
_ATTEMPT_S = 40.0
# The names of Conductor's WorkflowTestRequest.
_REQUEST = frozenset(
    "name version workflowDef workflowId input correlationId priority createdBy taskToDomain taskRefToMockOutput"
    " subWorkflowTestRequest".split()
)
_OUTCOME = frozenset("status output executionTime queueWaitTime reasonForIncompletion errorCode".split())


@dataclass(frozen=True)
class TaskMock:
    """One outcome of an attempt: COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR.

    IN_PROGRESS only adds to the output, and the next outcome follows. The times are virtual: a mock that takes longer
    than its task may times out.
    """

    output: Any = None
    status: TaskStatus | str = TaskStatus.COMPLETED
    reason: str = ""
    error_code: str = ""
    execution_ms: int = 0
    queue_wait_ms: int = 0


Outcomes = TaskMock | Sequence[TaskMock]


@dataclass(frozen=True)
class Mocks:
    """What stands in for the tasks of an execution, by reference, and for those of its sub-workflows.

    Each outcome of a task is taken once, in order: a retry takes the next one, and so does an iteration of a loop,
    unless it has its own ("work__2").
    """

    tasks: Mapping[str, Outcomes] = field(default_factory=dict)
    sub_workflows: Mapping[str, Mocks] = field(default_factory=dict)


@dataclass(frozen=True)
class Rehearsed:
    """What came of a test: the execution has ended, or is as it is when nothing goes on without further mocks."""

    execution: Execution
    # Those of its sub-workflows, and of theirs, in the order of their start.
    sub_workflows: list[Execution]
    # References of tasks that wait because there was no mock for them; in a sub-workflow "sub/work".
    without_mock: list[str]
    # References of mocks that no task has taken, likewise.
    unused_mocks: list[str]


class Mocking:
    """A part of the client."""

    connection: Connection

    async def test_workflow(
        self,
        workflow: Workflow | Mapping[str, Any] | str,
        input: Any = None,
        *,
        mocks: Mocks | Mapping[str, Outcomes] | None = None,
        definitions: Iterable[forms.Definition] = (),
        version: int = 0,
        correlation_id: str = "",
    ) -> Rehearsed:
        """Runs the workflow with these outcomes of its tasks, in virtual time. No task is executed or called.

        Scripts and queries are evaluated as always. `definitions` are there in this test only; a workflow that is
        given as an object or a dict need not be registered either. Raises InvalidRequest for what is too large.
        """
        request = pb.TestWorkflowRequest(
            start=pb.StartWorkflowRequest(
                namespace=self.connection.namespace,
                version=version,
                correlation_id=correlation_id,
                input=object_payload(input, "input"),
            ),
            mocks=_mocks(mocks if isinstance(mocks, Mocks) else Mocks(mocks or {})),
        )
        if isinstance(workflow, Workflow):
            request.start.definition_json = dumps(workflow.to_dict(inline_tasks=True))
        elif isinstance(workflow, Mapping):
            request.start.definition_json = dumps(workflow)
        else:
            request.start.name = workflow
        return await self._rehearse(request, definitions)

    async def test_document(
        self, document: Mapping[str, Any], *, definitions: Iterable[forms.Definition] = ()
    ) -> Rehearsed:
        """As `test_workflow`, of a request in Conductor's shape: `taskRefToMockOutput`, `subWorkflowTestRequest`."""
        return _rehearsed(await rehearse(self.connection, document, definitions))

    async def _rehearse(self, request: pb.TestWorkflowRequest, definitions: Iterable[forms.Definition]) -> Rehearsed:
        return _rehearsed(await _call(self.connection, request, definitions))


async def rehearse(
    connection: Connection,
    document: Mapping[str, Any],
    definitions: Iterable[forms.Definition],
    view: pb.View.ValueType = pb.VIEW_NATIVE,
) -> pb.TestWorkflowResponse:
    """Of a request in Conductor's shape."""
    request = pb.TestWorkflowRequest(
        start=pb.StartWorkflowRequest(
            namespace=connection.namespace,
            name=_text(document, "name"),
            version=_number(document, "version"),
            workflow_id=_text(document, "workflowId"),
            correlation_id=_text(document, "correlationId"),
            priority=_number(document, "priority"),
            created_by=_text(document, "createdBy"),
            task_to_domain={name: str(domain) for name, domain in _object(document, "taskToDomain").items()},
            input=object_payload(document.get("input"), "input"),
        ),
        view=view,
    )
    if document.get("workflowDef"):
        request.start.definition_json = dumps(document["workflowDef"])
    _read(document, request.mocks, request, "")
    return await _call(connection, request, definitions)


async def _call(
    connection: Connection, request: pb.TestWorkflowRequest, definitions: Iterable[forms.Definition]
) -> pb.TestWorkflowResponse:
    found = forms.sort(definitions)
    request.workflow_definition_json.extend(dumps(one) for one in found.workflows)
    request.task_definition_json.extend(dumps(one) for one in found.tasks.values())
    return await connection.call(lambda node: node.workflows.TestWorkflow, request, attempt_s=_ATTEMPT_S)


def _rehearsed(reply: pb.TestWorkflowResponse) -> Rehearsed:
    return Rehearsed(
        read_execution(reply.workflow),
        [read_execution(one) for one in reply.sub_workflows],
        list(reply.without_mock),
        list(reply.unused_mocks),
    )


def _mocks(mocks: Mocks) -> pb.Mocks:
    message = pb.Mocks()
    for reference, outcomes in mocks.tasks.items():
        listed = [outcomes] if isinstance(outcomes, TaskMock) else outcomes
        message.tasks[reference].outcomes.extend(_outcome(outcome) for outcome in listed)
    for reference, inner in mocks.sub_workflows.items():
        message.sub_workflows[reference].CopyFrom(_mocks(inner))
    return message


def _outcome(mock: TaskMock) -> pb.TaskMock:
    return pb.TaskMock(
        status=_status(mock.status),
        output=object_payload(mock.output, "output"),
        reason=mock.reason,
        error_code=mock.error_code,
        execution_ms=mock.execution_ms,
        queue_wait_ms=mock.queue_wait_ms,
    )


def _status(status: str) -> pb.TaskStatus.ValueType:
    try:
        return pb.TaskStatus.Value(f"TASK_STATUS_{status}")
    except ValueError:
        raise InvalidRequest(f"there is no status {status!r}") from None


def _read(document: Mapping[str, Any], mocks: pb.Mocks, request: pb.TestWorkflowRequest, path: str) -> None:
    """The mocks of a document, and of those in it."""
    _refuse_unknown(document, _REQUEST, path)
    for reference, outcomes in _object(document, "taskRefToMockOutput", path).items():
        where = f"{path}taskRefToMockOutput.{reference}"
        if not isinstance(outcomes, Sequence) or not all(isinstance(one, Mapping) for one in outcomes):
            raise InvalidRequest(f"{where} must be a list of outcomes")
        mocks.tasks[reference].outcomes.extend(_outcome(_read_outcome(one, f"{where}.")) for one in outcomes)
    for reference, inner in _object(document, "subWorkflowTestRequest", path).items():
        if not isinstance(inner, Mapping):
            raise InvalidRequest(f"{path}subWorkflowTestRequest.{reference} must be an object")
        if inner.get("workflowDef"):
            request.workflow_definition_json.append(dumps(inner["workflowDef"]))
        _read(inner, mocks.sub_workflows[reference], request, f"{path}subWorkflowTestRequest.{reference}.")


def _read_outcome(document: Mapping[str, Any], path: str) -> TaskMock:
    _refuse_unknown(document, _OUTCOME, path)
    return TaskMock(
        document.get("output"),
        _text(document, "status", path) or TaskStatus.COMPLETED,
        _text(document, "reasonForIncompletion", path),
        _text(document, "errorCode", path),
        _number(document, "executionTime", path),
        _number(document, "queueWaitTime", path),
    )


def _text(document: Mapping[str, Any], key: str, path: str = "") -> str:
    value = document.get(key) or ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{path}{key} must be a text")
    return value


def _number(document: Mapping[str, Any], key: str, path: str = "") -> int:
    value = document.get(key) or 0
    if not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{path}{key} must be a number that is not negative")
    return value


def _object(document: Mapping[str, Any], key: str, path: str = "") -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{path}{key} must be an object")
    return value


def _refuse_unknown(document: Mapping[str, Any], known: frozenset[str], path: str) -> None:
    unknown = sorted(document.keys() - known)
    if unknown:
        raise InvalidRequest(f"{path}{unknown[0]}: there is no such field in a test of a workflow")
