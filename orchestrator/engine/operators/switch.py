"""SWITCH: chooses a branch by the text of an input parameter; the walk passes it when that branch has ended."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import (
    assemble_array,
    assemble_object,
    dump_string,
    fields_of,
    merge_objects,
    text_of,
)
from orchestrator.engine.model import AgendaKind, TaskAttempt, TaskStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.step import Step

_EVALUATOR = "value-param"


class SwitchCase:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        switch = node.switch
        assert switch is not None
        if switch.evaluator != _EVALUATOR:
            _fail(step, attempt, f"unknown evaluator {switch.evaluator}")
            return
        value = fields_of(given).get(switch.expression)
        case = "null" if value is None else text_of(value)
        branch = switch.cases.get(case, switch.default)
        text = dump_string(case)
        seen = [("case", text), *([("hasChildren", b'"true"')] if branch else [])]
        output = assemble_object([("evaluationResult", assemble_array([text])), ("selectedCase", text)])
        try:
            kept = store(step, merge_objects(given, assemble_object(seen)))
            outcome = store(step, output)
        except LimitExceeded as error:
            _fail(step, attempt, str(error))
            return
        attempt = replace(attempt, input=kept, bindings=(), bound_variables=b"", started_ms=step.now)
        if branch:
            step.change(open_branches=step.x.open_branches + 1)
            step.note(AgendaKind.SCHEDULE, 0, branch[0])
        attempts.finish(step, attempt, TaskStatus.COMPLETED, output=outcome, follow=not branch)


def _fail(step: Step, attempt: TaskAttempt, reason: str) -> None:
    attempts.finish(step, attempt, TaskStatus.FAILED, reason=reason)
