"""What is told of the changes of a task's state (`onStateChange`), and of a workflow's statuses.

Each change is told by the step that makes it, with what is known at that moment; so by all replicas, and once.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.engine import places
from orchestrator.engine.crossing import is_outside
from orchestrator.engine.definitions.model import Change
from orchestrator.engine.definitions.sinks import STATUS_EVENT, TASK_EVENT, event_of_announcement, is_stream
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import (
    PAYLOAD_BYTES_MAX,
    assemble_object,
    dump_string,
    merge_objects,
    resolve,
)
from orchestrator.engine.model import Execution, TaskAttempt
from orchestrator.engine.model import TaskStatus as T
from orchestrator.engine.plan import Plan
from orchestrator.engine.scopes import ExecutionScope
from orchestrator.engine.transitions import TASK_TERMINAL
from orchestrator.engine.triggers.index import Triggers

_ENDS = {
    T.COMPLETED: Change.SUCCEEDED,
    T.COMPLETED_WITH_ERRORS: Change.SUCCEEDED,
    T.FAILED: Change.FAILED,
    T.FAILED_WITH_TERMINAL_ERROR: Change.FAILED,
    T.TIMED_OUT: Change.FAILED,
    T.CANCELED: Change.CANCELLED,
    T.SKIPPED: Change.CANCELLED,
}
WORKFLOW_SOURCE = "workflow"
"""Who says what a workflow itself tells."""
_OMITTED = b'{"payloadOmitted":true}'


class Told(NamedTuple):
    """An event to be raised. `about`: what says whom it is about, for when there is no room for all of the payload.

    The others are what a stream is told besides: what the event is called there, who says it, and its id; "": one is
    made.
    """

    event: str
    payload: bytes
    about: bytes
    name: str = ""
    source: str = ""
    event_id: str = ""


def about_workflow(header: Execution) -> bytes:
    """What every event of a task says of its execution."""
    domains = assemble_object([(name, dump_string(domain)) for name, domain in header.task_to_domain])
    return assemble_object(
        [
            ("workflowInstanceId", dump_string(header.workflow_id)),
            ("workflowType", dump_string(header.name)),
            ("workflowVersion", b"%d" % header.version),
            ("correlationId", _text(header.correlation_id)),
            ("taskToDomain", domains),
        ]
    )


def of_task(
    plan: Plan,
    hot: ExecutionState,
    header: Execution,
    triggers: Triggers,
    before: TaskAttempt | None,
    attempt: TaskAttempt,
) -> list[Told]:
    """What the task announces of the change, as far as somebody handles it."""
    told = _of_task_status(plan, header, before, attempt)
    change = change_of(before, attempt)
    if change is None:
        return told
    for announcement in places.node_of(plan, hot, attempt).announcements.get(change, ()):
        event = event_of_announcement(header.name, announcement.type, announcement.sink)
        if not is_stream(event) and not triggers.handlers_of(header.namespace, event):
            continue
        record = hot.records.get(attempt.compensates)
        scope = ExecutionScope(plan, hot, header, task_id=attempt.task_id, record=record)
        about = merge_objects(about_workflow(header), _about_task(change, attempt))
        payload = merge_objects(resolve(announcement.payload, scope), about)
        about = merge_objects(about, _OMITTED)
        if len(payload) > PAYLOAD_BYTES_MAX or (header.blobs and (scope.crossed or is_outside(payload))):
            # What is kept outside the log does not go out with events.
            payload = about
        told.append(Told(event, payload, about, announcement.type, source_of(attempt)))
    return told


def source_of(attempt: TaskAttempt) -> str:
    """Who says what a task tells."""
    return f"task/{attempt.reference}"


def _of_task_status(
    plan: Plan, header: Execution, before: TaskAttempt | None, attempt: TaskAttempt
) -> list[Told]:
    """What the listener of the workflow's tasks is told."""
    event = plan.definition.task_event
    if not event or (before is not None and before.status is attempt.status):
        return []
    payload = merge_objects(about_workflow(header), assemble_object(_facts(attempt)))
    return [Told(event, payload, payload, TASK_EVENT, source_of(attempt))]


def change_of(before: TaskAttempt | None, attempt: TaskAttempt) -> Change | None:
    """Each attempt is scheduled once, begins once and ends once; what is opened again begins and ends once more."""
    if before is not None and before.status is attempt.status:
        return None
    if attempt.status is T.SCHEDULED:
        # An attempt whose worker let go of it is still the same.
        return Change.SCHEDULED if before is None else None
    was_over = before is not None and before.status in TASK_TERMINAL
    if attempt.status is T.IN_PROGRESS:
        return Change.STARTED if before is None or was_over or not before.started_ms else None
    # That the failure of an optional task does not count is no news.
    return None if was_over else _ENDS[attempt.status]


def _about_task(change: Change, attempt: TaskAttempt) -> bytes:
    return assemble_object([("stateChange", dump_string(change.value)), *_facts(attempt)])


def _facts(attempt: TaskAttempt) -> list[tuple[str, bytes]]:
    return [
        ("taskId", dump_string(attempt.task_id)),
        ("referenceTaskName", dump_string(attempt.reference)),
        ("taskDefName", dump_string(attempt.name)),
        ("taskType", dump_string(attempt.type)),
        ("taskStatus", dump_string(attempt.status.name)),
        ("retryCount", b"%d" % attempt.retry_count),
        ("iteration", b"%d" % attempt.iteration),
        ("reasonForIncompletion", _text(attempt.reason)),
    ]


def of_status(header: Execution, event: str) -> Told:
    """What the workflow's listener is told of the status that it has come to."""
    payload = assemble_object(
        [
            ("workflowId", dump_string(header.workflow_id)),
            ("name", dump_string(header.name)),
            ("version", b"%d" % header.version),
            ("status", dump_string(header.status.name)),
            ("correlationId", _text(header.correlation_id)),
            ("reason", _text(header.reason)),
        ]
    )
    return Told(event, payload, payload, STATUS_EVENT, WORKFLOW_SOURCE)


def _text(text: str) -> bytes:
    return dump_string(text) if text else b"null"
