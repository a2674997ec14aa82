"""The failure workflow: started when a workflow has failed or timed out, and told everything about it."""

from __future__ import annotations

from orchestrator.engine import crossing, limits
from orchestrator.engine.assembly import output_of
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import (
    PAYLOAD_BYTES_MAX,
    assemble_array,
    assemble_object,
    dump_string,
    is_json_object,
    merge_objects,
    resolve,
    text_of,
)
from orchestrator.engine.messages import StartExecution
from orchestrator.engine.model import SagaRecord, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.scopes import ExecutionScope
from orchestrator.engine.step import Step

_FAILURES = (WorkflowStatus.FAILED, WorkflowStatus.TIMED_OUT)
_NULL = b"null"


def start(step: Step) -> None:
    """The step's execution has just come to its end. Its output says which workflow was started, if one is named."""
    definition = step.plan.definition
    if definition.failure_workflow is None or not _has_failed(step):
        return
    scope = ExecutionScope(step.plan, step.hot, step.x)
    name = text_of(resolve(definition.failure_workflow, scope))
    if scope.crossed:
        why = f"{step.x.reason}; no failure workflow: {crossing.crossed(scope.crossed)}"
        step.change(reason=why[: limits.REASON_CHARS])
        return
    if not name or name == "null":
        return
    x = step.x
    started = step.ids.make()
    message = StartExecution(
        x.namespace,
        started,
        name,
        definition.failure_version,
        _input(step),
        correlation_id=x.correlation_id,
        task_to_domain=x.task_to_domain,
        created_by=x.created_by,
        trace=x.trace,
    )
    step.send(message)
    output = step.hot.load(x.output)
    said = assemble_object([("conductor.failure_workflow", dump_string(started))])
    try:
        step.change(output=store(step, merge_objects(output if is_json_object(output) else b"{}", said)))
    except LimitExceeded:
        # It is started all the same, and knows where it comes from.
        return


def _has_failed(step: Step) -> bool:
    """By itself: that somebody has terminated it is not its failure."""
    return step.x.status in _FAILURES or (step.x.status is WorkflowStatus.TERMINATED and _failed_task(step) is not None)


def _failed_task(step: Step) -> TaskAttempt | None:
    """The task that has failed the workflow, or the TERMINATE that has ended it."""
    if step.x.failed_task:
        return step.hot.latest(step.x.failed_task)
    for attempt in step.hot.tasks.values():
        if attempt.type == TaskType.TERMINATE and attempt.status is TaskStatus.COMPLETED:
            return attempt
    return None


def _input(step: Step) -> bytes:
    """The workflow's own input, and what became of it: as much of that as an input may hold."""
    x = step.x
    fields = [
        ("workflowId", dump_string(x.workflow_id)),
        ("reason", dump_string(x.reason)),
        ("failureStatus", dump_string(x.status.name)),
    ]
    failed = _failed_task(step)
    if failed is not None:
        fields.append(("failureTaskId", dump_string(failed.task_id)))
    fields.append(("compensation", _compensation(step)))
    base = merge_objects(step.hot.load(x.input) or b"{}", assemble_object(fields))
    # With the outputs of all tasks, without them, or without the tasks.
    for tasks in (_tasks(step, outputs=True), _tasks(step, outputs=False), b"[]"):
        given = merge_objects(base, assemble_object([("failedWorkflow", _workflow(step, tasks))]))
        if len(given) <= PAYLOAD_BYTES_MAX:
            return given
    return base if len(base) <= PAYLOAD_BYTES_MAX else assemble_object(fields)


def _workflow(step: Step, tasks: bytes) -> bytes:
    x, hot = step.x, step.hot
    return assemble_object(
        [
            ("workflowId", dump_string(x.workflow_id)),
            ("workflowType", dump_string(x.name)),
            ("workflowName", dump_string(x.name)),
            ("workflowVersion", b"%d" % x.version),
            ("status", dump_string(x.status.name)),
            ("reasonForIncompletion", dump_string(x.reason)),
            ("correlationId", dump_string(x.correlation_id) if x.correlation_id else _NULL),
            ("createTime", b"%d" % x.created_ms),
            ("endTime", b"%d" % x.ended_ms),
            ("input", hot.load(x.input) or b"{}"),
            ("output", hot.load(x.output) or b"{}"),
            ("variables", hot.load(x.variables) or b"{}"),
            ("tasks", tasks),
        ]
    )


def _tasks(step: Step, *, outputs: bool) -> bytes:
    shown = [_task(step, attempt, outputs) for attempt in step.hot.tasks.values() if not attempt.compensates]
    return assemble_array(shown)


def _task(step: Step, attempt: TaskAttempt, outputs: bool) -> bytes:
    fields = [
        ("taskId", dump_string(attempt.task_id)),
        ("referenceTaskName", dump_string(attempt.reference)),
        ("taskDefName", dump_string(attempt.name)),
        ("taskType", dump_string(attempt.type)),
        ("status", dump_string(attempt.status.name)),
        ("retryCount", b"%d" % attempt.retry_count),
        ("reasonForIncompletion", dump_string(attempt.reason) if attempt.reason else _NULL),
    ]
    if outputs:
        fields.append(("outputData", output_of(step.plan, step.hot, attempt)))
    return assemble_object(fields)


def _compensation(step: Step) -> bytes:
    x, records = step.x, step.hot.records
    done = [_step(records[number]) for number in x.done]
    left = [_step(records[number]) for number in x.left]
    return assemble_object(
        [
            ("state", dump_string(x.compensation.name)),
            ("done", assemble_array(done)),
            ("left", assemble_array(left)),
        ]
    )


def _step(record: SagaRecord) -> bytes:
    return assemble_object(
        [("reference", dump_string(record.reference)), ("iteration", b"%d" % record.iteration)]
    )
