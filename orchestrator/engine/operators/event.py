"""EVENT: publishes an event, to whatever handles it."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts
from orchestrator.engine.announcing import about_workflow
from orchestrator.engine.definitions.errors import quoted
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.definitions.sinks import event_of_sink
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import assemble_object, dump_string, merge_objects, resolve, text_of
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.payloads import drop, store
from orchestrator.engine.results import Rejected
from orchestrator.engine.scopes import ExecutionScope
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task
from orchestrator.engine.triggers import events


class Event:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        sink = _sink(step, node, attempt)
        name = event_of_sink(sink, step.x.name, node.reference)
        if not name:
            reason = f"the sink {quoted(sink)} is not supported, conductor and conductor:NAME are"
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=reason)
            return
        payload = merge_objects(given, about_workflow(step.x))
        try:
            output = store(step, merge_objects(payload, assemble_object([("event_produced", dump_string(name))])))
        except LimitExceeded as error:
            # Before anybody is told.
            attempts.fail_at_limit(step, attempt, error)
            return
        published = events.publish(step, name, attempt.task_id, payload, trace=step.x.trace)
        if isinstance(published, Rejected):
            drop(step, output)
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=published.message, error_code=published.reason)
            return
        if not node.async_complete:
            attempts.complete_operator(step, attempt, output)
            return
        check_task(attempt.status, TaskStatus.IN_PROGRESS)
        step.put_task(
            replace(
                attempt,
                status=TaskStatus.IN_PROGRESS,
                output=output,
                started_ms=step.now,
                updated_ms=step.now,
                signal=attempt.reference,
            )
        )



def _sink(step: Step, node: TaskNode, attempt: TaskAttempt) -> str:
    if node.sink_expression is None:
        return node.sink
    scope = ExecutionScope(step.plan, step.hot, step.x, task_id=attempt.task_id)
    return text_of(resolve(node.sink_expression, scope))
