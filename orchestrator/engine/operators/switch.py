"""SWITCH: chooses a branch by an input parameter or a script; the walk passes it when that branch has ended."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, blob_uses, evaluations, loops
from orchestrator.engine.crossing import crossed
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.evaluations import Answer
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

_BY_PARAMETER = "value-param"


class SwitchCase:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        switch = node.switch
        assert switch is not None
        if switch.evaluator == _BY_PARAMETER:
            _choose(step, node, attempt, given, fields_of(given).get(switch.expression, b"null"))
        else:
            evaluations.ask(step, attempt)

    def answered(self, step: Step, node: TaskNode, attempt: TaskAttempt, answer: Answer) -> None:
        if answer.error:
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=answer.error, accepted=True)
        else:
            _choose(step, node, attempt, attempts.input_of(step, attempt), answer.value)


def _choose(step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes, value: bytes) -> None:
    switch = node.switch
    assert switch is not None
    if blob_uses.is_outside(step, value):
        _fail(step, attempt, crossed(f"the case of {node.reference}"))
        return
    case = text_of(value)
    branch = switch.cases.get(case, switch.default)
    text = dump_string(case)
    seen = [("case", text), *([("hasChildren", b'"true"')] if branch else [])]
    chosen = [(switch.output_key, assemble_array([text]))]
    if switch.output_key == "evaluationResult":
        chosen.append(("selectedCase", text))
    try:
        kept = store(step, merge_objects(given, assemble_object(seen)))
        outcome = store(step, assemble_object(chosen))
    except LimitExceeded as error:
        _fail(step, attempt, error)
        return
    attempt = replace(
        attempt, input=kept, bindings=(), bound_variables=b"", started_ms=attempt.started_ms or step.now
    )
    attempt = attempts.finish(
        step, attempt, TaskStatus.COMPLETED, output=outcome, accepted=attempt.fencing_token > 0, follow=not branch
    )
    if branch:
        loops.branches_opened(step, attempt, 1)
        step.note(AgendaKind.SCHEDULE, attempt.sequence, branch[0])


def _fail(step: Step, attempt: TaskAttempt, error: LimitExceeded) -> None:
    code = attempts.LIMIT_EXCEEDED
    attempts.finish(step, attempt, TaskStatus.FAILED, reason=str(error), error_code=code, accepted=True)
