"""What `${...}` sees of an execution: its header, the newest attempts, and for a compensation the step it undoes.

Where an input is resolved later than its attempt was made, the scope is bound to the attempts and variables of then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from orchestrator.engine import crossing
from orchestrator.engine.assembly import output_of
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import (
    PAYLOAD_BYTES_MAX,
    assemble_array,
    assemble_object,
    dump_string,
    merge_objects,
    resolve,
)
from orchestrator.engine.expressions.template_model import Part, Reference
from orchestrator.engine.model import Execution, Payload, SagaRecord, StepOutcome, TaskAttempt
from orchestrator.engine.places import forked_references, given_input, node_of, place_of
from orchestrator.engine.plan import Plan

_EMPTY: Final = b"{}"
_FORK: Final = "FORK"
_number: Final = msgspec.json.encode


def load(hot: ExecutionState, payload: Payload) -> bytes:
    """The JSON text of a payload; `b""` if there is none."""
    return hot.load(payload)


def input_bytes_max(record: SagaRecord | None) -> int:
    """How large a task's input may be: a compensation has room for the input and the output of its step besides."""
    return PAYLOAD_BYTES_MAX if record is None else 3 * PAYLOAD_BYTES_MAX


def input_of(plan: Plan, hot: ExecutionState, header: Execution, attempt: TaskAttempt) -> bytes:
    """The attempt's input as it was resolved, or would have been, when the attempt was made."""
    stored = load(hot, attempt.input)
    if stored:
        return _with_forked(plan, hot, attempt, stored) if attempt.type == _FORK and attempt.expanded else stored
    record = hot.records.get(attempt.compensates)
    node = node_of(plan, hot, attempt)
    scope = ExecutionScope(
        plan,
        hot,
        header,
        task_id=attempt.task_id,
        record=record,
        bindings=dict(attempt.bindings),
        variables=attempt.bound_variables,
    )
    return resolve(node.input, scope, input_bytes_max(record))


def condition_given(
    plan: Plan, hot: ExecutionState, header: Execution, loop: TaskAttempt, *, is_asked: bool = False
) -> bytes:
    """A loop's input as it would be resolved now: each time its condition is asked for.

    `is_asked`: it is about to be; raises LimitExceeded if an expression leads into what is kept outside the log.
    """
    node = node_of(plan, hot, loop)
    if not (node.input.parts or node.input.defaults):
        return input_of(plan, hot, header, loop)
    scope = ExecutionScope(plan, hot, header, task_id=loop.task_id)
    text = resolve(node.input, scope)
    if is_asked:
        scope.require_inside()
    return merge_objects(text, given_input(hot, place_of(plan, hot, loop))) if loop.expansion else text


def _with_forked(plan: Plan, hot: ExecutionState, attempt: TaskAttempt, stored: bytes) -> bytes:
    """A dynamic fork's input shows what was forked."""
    references = forked_references(plan, hot, attempt.expanded)
    names = assemble_array([dump_string(reference) for reference in references])
    return merge_objects(stored, assemble_object([("forkedTasks", names)]))


def record_input(plan: Plan, hot: ExecutionState, header: Execution, record: SagaRecord) -> bytes:
    """The input of the step that the record is of."""
    stored = load(hot, record.input)
    return stored or input_of(plan, hot, header, hot.tasks[record.step_sequence])


class ExecutionScope:
    """The scope of one execution, for one attempt or for the workflow's output."""

    def __init__(
        self,
        plan: Plan,
        hot: ExecutionState,
        header: Execution,
        *,
        task_id: str = "",
        record: SagaRecord | None = None,
        bindings: Mapping[str, int] | None = None,
        variables: Payload | None = None,
    ) -> None:
        self._plan = plan
        self._hot = hot
        self._header = header
        self._task_id = task_id
        self._record = record
        self._bindings = bindings
        self._variables = header.variables if variables is None else variables
        self.has_blobs = bool(header.blobs)
        self.crossed = ""  # the first reference that leads into a value outside the log: it was read as null

    def require_inside(self) -> None:
        """Raises LimitExceeded if what was resolved is not all that it should be."""
        if self.crossed:
            raise crossing.crossed(self.crossed)

    def goes_into(self, value: bytes, reference: Reference) -> None:
        if not self.crossed and crossing.leads_into(value, reference.steps):
            self.crossed = crossing.name_of(reference)

    def writes_out(self, value: bytes, part: Part) -> None:
        if not self.crossed and crossing.is_outside(value):
            self.crossed = crossing.name_of(part) if isinstance(part, Reference) else "a computed expression"

    def task_id(self) -> bytes | None:
        return dump_string(self._task_id) if self._task_id else None

    def workflow(self, field: str) -> bytes | None:
        header, hot = self._header, self._hot
        if field == "input":
            return load(hot, header.input) or _EMPTY
        if field == "variables":
            return load(hot, self._variables) or _EMPTY
        if field == "output":
            return load(hot, header.output) or _EMPTY
        if field == "status":
            return dump_string(header.status.name)
        if field in ("version", "schemaVersion"):
            return _number(header.version if field == "version" else 2)
        text = {
            "workflowId": header.workflow_id,
            "workflowType": header.name,
            "parentWorkflowId": header.parent or None,
            "parentWorkflowTaskId": header.parent_task or None,
            "correlationId": header.correlation_id or None,
            "reasonForIncompletion": header.reason or None,
        }.get(field)
        return None if text is None else dump_string(text)

    def task(self, reference: str, field: str, wanted: str = "") -> bytes | None:
        if reference == "step" and self._record is not None:
            return self._step(self._record, field)
        if self._bindings is not None:
            sequence = self._bindings.get(reference)
            attempt = None if sequence is None else self._hot.tasks.get(sequence)
        else:
            attempt = self._hot.newest(reference)
        return None if attempt is None else self._field(attempt, field, wanted)

    def _step(self, record: SagaRecord, field: str) -> bytes | None:
        if field == "input":
            return record_input(self._plan, self._hot, self._header, record)
        if field == "output" and record.outcome is StepOutcome.COMPLETED:
            return load(self._hot, record.output) or _EMPTY
        return None

    def _field(self, attempt: TaskAttempt, field: str, wanted: str) -> bytes | None:
        if field == "output":
            return output_of(self._plan, self._hot, attempt, wanted)
        if field == "input":
            return input_of(self._plan, self._hot, self._header, attempt)
        numbers = {
            "retryCount": attempt.retry_count,
            "pollCount": 1 if attempt.fencing_token else 0,
            "scheduledTime": attempt.scheduled_ms,
            "startTime": attempt.started_ms,
            "endTime": attempt.ended_ms,
            "callbackAfterSeconds": 0,
            "iteration": attempt.iteration,
        }
        if field in numbers:
            return _number(numbers[field])
        text = {
            "status": attempt.status.name,
            "taskType": attempt.name if attempt.type == "SIMPLE" else attempt.type,
            "referenceTaskName": attempt.reference,
            "subWorkflowId": attempt.child or None,
            "correlationId": self._header.correlation_id or None,
            "taskDefName": attempt.name,
            "workflowInstanceId": self._header.workflow_id,
            "taskId": attempt.task_id,
            "reasonForIncompletion": attempt.reason or None,
            "workerId": attempt.worker_id or None,
        }.get(field)
        return None if text is None else dump_string(text)
