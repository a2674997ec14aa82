"""Payloads that have to keep a JSON schema: what is looked at, when, and by which schema.

A schema has patterns that somebody has written, so it is a node that looks, in a process of its own. Meanwhile the
attempt waits: with its input before it begins, with its output when it is done. Then the lease is for that alone, and
has no effect outside. Compensations are not looked at: no schema keeps what was done from being undone.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import leases, places, system
from orchestrator.engine.definitions.model import INPUT_CHECK, OUTPUT_CHECK, TaskNode, TaskType
from orchestrator.engine.definitions.schemas import PayloadSchema
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import Check, TaskAttempt
from orchestrator.engine.step import Step


def is_input_due(node: TaskNode, attempt: TaskAttempt) -> bool:
    """Whether somebody has to look at the input before the attempt begins."""
    return node.input_schema is not None and attempt.check is not Check.INPUT_PASSED and not attempt.compensates


def is_output_due(step: Step, attempt: TaskAttempt) -> bool:
    """Whether somebody has to look at the output of an attempt that is done, before it has completed."""
    if attempt.compensates or attempt.check is Check.OUTPUT_PASSED:
        return False
    node = places.node_of(step.plan, step.hot, attempt)
    return node.output_schema is not None and leases.is_wanted(step, attempt)


def ask(step: Step, attempt: TaskAttempt, check: Check) -> TaskAttempt:
    """The attempt waits for a node to look at its payload."""
    attempt = replace(attempt, check=check)
    return leases.enqueue(step, attempt, "", 0, system.EVALUATION_MS, system_queue=system.evaluated_in(attempt))


# --- what is looked at


def schema_of(node: TaskNode, attempt: TaskAttempt) -> PayloadSchema | None:
    """None if the definition, which may have been exchanged, has none any more."""
    return node.output_schema if attempt.check is Check.OUTPUT else node.input_schema


def payload_of(hot: ExecutionState, attempt: TaskAttempt, given: bytes) -> bytes:
    """`given`: the attempt's input."""
    if is_of_workflow(attempt) and attempt.reference == INPUT_CHECK:
        return hot.load(hot.execution.input) or b"{}"
    if attempt.check is Check.OUTPUT or is_of_workflow(attempt):
        return hot.load(attempt.output) or b"{}"
    return given


def is_of_workflow(attempt: TaskAttempt) -> bool:
    """Whether it is the workflow's own payload that the attempt is there to look at."""
    return attempt.type == TaskType.SCHEMA_CHECK


def what(attempt: TaskAttempt) -> str:
    """For people."""
    if is_of_workflow(attempt):
        return "the workflow's output" if attempt.reference == OUTPUT_CHECK else "the workflow's input"
    return "its output" if attempt.check is Check.OUTPUT else "its input"
