"""EVENT: publishes an event, to whatever handles it."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, blob_uses
from orchestrator.engine.announcing import Told, about_workflow, source_of
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.definitions.errors import quoted
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.definitions.sinks import event_of_sink, is_stream
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import assemble_object, dump_string, merge_objects, resolve, text_of
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.payloads import drop, store
from orchestrator.engine.results import Rejected
from orchestrator.engine.scopes import ExecutionScope
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task
from orchestrator.engine.triggers import events, outbox, trail


class Event:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        sink = _sink(step, node, attempt)
        name = event_of_sink(sink, step.x.name, node.reference, step.level)
        if not name:
            others = "conductor, conductor:NAME and redis:NAME are" if step.level >= STREAMS else _FIRST
            reason = f"the sink {quoted(sink)} is not supported, {others}"
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=reason)
            return
        payload = merge_objects(given, about_workflow(step.x))
        try:
            blob_uses.require_inside(step, "an event", payload)
            output = store(step, merge_objects(payload, assemble_object([("event_produced", dump_string(name))])))
        except LimitExceeded as error:
            # Before anybody is told.
            attempts.fail_at_limit(step, attempt, error)
            return
        refused = _publish(step, name, node, attempt, payload)
        if refused is not None:
            drop(step, output)
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=refused.message, error_code=refused.reason)
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


_FIRST = "conductor and conductor:NAME are"


def _publish(step: Step, event: str, node: TaskNode, attempt: TaskAttempt, payload: bytes) -> Rejected | None:
    if not is_stream(event):
        author = trail.workflow_as_author(step, source_of(attempt))
        published = events.publish(step, event, attempt.task_id, payload, trace=step.x.trace, author=author)
        return published if isinstance(published, Rejected) else None
    full = outbox.refusal(step, len(payload), times=2)
    if full is None:
        # Behind what the step has told before, so that the stream has all in the order in which it happened.
        step.told.append(Told(event, payload, payload, node.reference, source_of(attempt), attempt.task_id))
    return full


def _sink(step: Step, node: TaskNode, attempt: TaskAttempt) -> str:
    if node.sink_expression is None:
        return node.sink
    scope = ExecutionScope(step.plan, step.hot, step.x, task_id=attempt.task_id)
    name = text_of(resolve(node.sink_expression, scope))
    return "" if scope.crossed else name
