"""DYNAMIC: becomes the task whose name its input says, with that task's definition as it is registered now."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, blob_uses, expansions, outcomes
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import fields_of, text_of
from orchestrator.engine.model import TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.operators.checked import Checked
from orchestrator.engine.operators.human import Human
from orchestrator.engine.operators.inline import Inline
from orchestrator.engine.operators.noop import Noop
from orchestrator.engine.operators.operator import Operator
from orchestrator.engine.operators.worked import Worked
from orchestrator.engine.step import Step

# Types that need nothing of the definition but the input.
_TYPES: dict[str, Operator] = {
    "SIMPLE": Checked(Worked()),
    "HTTP": Checked(Worked()),
    "GRPC": Checked(Worked()),
    "JSON_JQ_TRANSFORM": Checked(Inline()),
    "HUMAN": Checked(Human()),
    "NOOP": Checked(Noop()),
}


class Dynamic:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        if attempt.expanded:
            _TYPES[node.type].begin(step, node, attempt, given)
            return
        value = fields_of(given).get(node.parameter)
        name = "" if value is None else text_of(value)
        try:
            blob_uses.require_known(step, f"the field {node.parameter} of a DYNAMIC", value)
            attempt = expansions.name_body(step, attempt, name)
        except (DefinitionError, LimitExceeded) as error:
            attempts.finish(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=str(error), follow=False)
            outcomes.end_badly(step, WorkflowStatus.FAILED, str(error), attempt.reference)
            return
        body = attempts.node_of(step, attempt)
        attempt = step.put_task(replace(attempt, name=body.name, type=body.reported or str(body.type)))
        _TYPES[body.type].begin(step, body, attempt, given)
