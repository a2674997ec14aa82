"""Payloads of an execution: small ones stay in the row that has them, larger ones get a row of their own."""

from __future__ import annotations

from typing import Final

from orchestrator.engine import blob_uses, limits
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import Template, merge_objects, resolve, signed_template
from orchestrator.engine.expressions.secret_names import marks_of, sign_for
from orchestrator.engine.model import (
    INLINE_PAYLOAD_BYTES,
    Payload,
    PayloadRow,
    SagaRecord,
    Table,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
)
from orchestrator.engine.places import Place, given_input
from orchestrator.engine.scopes import ExecutionScope, input_bytes_max, load
from orchestrator.engine.step import Step

# What `workflow.<field>` never changes, or is bound as it was.
_FIXED_FIELDS: Final = frozenset("input variables workflowId workflowType version correlationId schemaVersion".split())


def check_room(step: Step, more: int) -> None:
    """Raises LimitExceeded if the execution cannot take so many bytes more."""
    # A limit must not keep what was done from being undone.
    if step.x.payload_bytes + more > limits.EXECUTION_BYTES and step.phase is not WorkflowStatus.COMPENSATING:
        raise LimitExceeded(f"the execution's payloads exceed the limit of {limits.EXECUTION_BYTES} bytes")


def store_brought(step: Step, text: bytes) -> Payload:
    """Keeps a payload that comes from elsewhere, with what it refers to. Raises LimitExceeded."""
    blob_uses.note(step, text)
    return store(step, text)


def store(step: Step, text: bytes) -> Payload:
    """Keeps a payload; what was kept is never changed, so rows may share it. Raises LimitExceeded."""
    if not text:
        return b""
    check_room(step, len(text))
    blob_uses.check_own(step, text)
    if len(text) <= INLINE_PAYLOAD_BYTES:
        step.header.payload_bytes += len(text)
        return text
    number = step.x.next_number
    step.write(Table.PAYLOAD, (step.x.namespace, step.x.workflow_id, number), PayloadRow(text))
    step.change(next_number=number + 1, payload_bytes=step.x.payload_bytes + len(text))
    return number


def drop(step: Step, payload: Payload) -> None:
    """Forgets a payload that no other row shares."""
    step.change(payload_bytes=step.x.payload_bytes - len(load(step.hot, payload)))
    if isinstance(payload, int):
        step.write(Table.PAYLOAD, (step.x.namespace, step.x.workflow_id, payload), None)


class Input:
    """A resolved input and how its attempt keeps it: as it is, or as what it is resolved from."""

    __slots__ = ("bindings", "kept", "secrets", "text", "variables")

    def __init__(
        self,
        text: bytes,
        kept: Payload,
        bindings: tuple[tuple[str, int], ...] = (),
        variables: Payload = b"",
        secrets: tuple[int, ...] = (),
    ) -> None:
        self.text = text
        self.kept = kept
        self.bindings = bindings
        self.variables = variables
        self.secrets = secrets  # where in the text the definition names secrets


def make_input(step: Step, place: Place, task_id: str, record: SagaRecord | None) -> Input:
    """Resolves the input of a new attempt. Raises LimitExceeded."""
    node = place.node
    scope = ExecutionScope(step.plan, step.hot, step.x, task_id=task_id, record=record)
    most = input_bytes_max(record)
    text = resolve(node.input, scope, most)
    scope.require_inside()
    if record is None and place.expansion:
        text = merge_objects(text, given_input(step.hot, place))
    if len(text) > most:
        raise LimitExceeded(f"the task's input exceeds the limit of {most} bytes")
    secrets = _marks(node.input, scope, text) if node.input.names_secrets else ()
    if len(text) > INLINE_PAYLOAD_BYTES and _can_bind(step, place):
        bindings = tuple(
            (reference, attempt.sequence)
            for reference in node.input.references
            if (attempt := step.hot.newest(reference)) is not None
        )
        blob_uses.check_own(step, text)
        return Input(text, b"", bindings, step.x.variables if node.input.uses_variables else b"", secrets)
    return Input(text, store(step, text), secrets=secrets)


def _marks(template: Template, scope: ExecutionScope, text: bytes) -> tuple[int, ...]:
    """Where in its value the template names secrets, which data in it may seem to do, too."""
    sign = sign_for(text)
    # With room for the signs: nothing is left out that is in the text.
    signed = resolve(signed_template(template, sign), scope, 2 * len(text) + limits.PAYLOAD_BYTES)
    plain, marks = marks_of(signed, sign)
    # A definition that names secrets is registered, and what is forked by data names none: nothing was merged into it.
    assert plain == text
    return marks


def _can_bind(step: Step, place: Place) -> bool:
    """Whether the input comes out the same whenever it is resolved, without resolving a long chain of others."""
    node = place.node
    if node.type == TaskType.DO_WHILE or place.expansion or place.iterations:
        return False
    if not _FIXED_FIELDS.issuperset(node.input.workflow_fields):
        return False
    made = [attempt for name in node.input.references if (attempt := step.hot.newest(name)) is not None]
    # What is in a loop may not be kept.
    if not all(_is_final(attempt) and not attempt.iterations for attempt in made):
        return False
    return not node.input.reads_task_input or all(attempt.input != b"" for attempt in made)


def _is_final(attempt: TaskAttempt) -> bool:
    """Whether the attempt stays as it is. What did not end well may be reopened in place."""
    if attempt.type == TaskType.DO_WHILE:
        return False
    if attempt.type == TaskType.JOIN:
        return attempt.status in (TaskStatus.COMPLETED, TaskStatus.COMPLETED_WITH_ERRORS)
    return attempt.passed or attempt.status is TaskStatus.COMPLETED
