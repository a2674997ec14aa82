"""How many executions of a workflow run at once under one key; the others wait in the order in which they came.

Who waits is RUNNING, has nothing scheduled, and says what it waits for. An execution takes a place when it begins, or
begins again, and has it until it ends: paused and compensating ones have one, too. The step that ends it hands the
place to the next, who is told by a message. A compensation is not kept waiting: an execution that is turned round while
it waits goes on without a place. The group is that of when it began, also where it runs another definition now, until
it is run again from the beginning. A sub-workflow under the key of its own ancestors waits for them, as they for it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import cast

from msgspec.structs import replace

from orchestrator.engine import crossing
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.definitions.model import RateLimit
from orchestrator.engine.expressions import resolve, text_of
from orchestrator.engine.expressions.template_model import Part, Reference
from orchestrator.engine.messages import LetIn
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.resident import WaitingExecution, WorkflowGroup
from orchestrator.engine.scopes import ExecutionScope
from orchestrator.engine.state import State
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import WORKFLOW_TERMINAL

KEY_CHARS_SHOWN = 200
_DIGEST_BYTES = 16


class _InputScope:
    """Of an execution that is about to be made: what a key finds in its input is all that matters here."""

    has_blobs = True

    def __init__(self, given: bytes) -> None:
        self._given = given
        self.crossed = ""

    def goes_into(self, value: bytes, reference: Reference) -> None:
        if crossing.leads_into(value, reference.steps):
            self.crossed = crossing.name_of(reference)

    def writes_out(self, value: bytes, part: Part) -> None:
        if crossing.is_outside(value):
            self.crossed = "the key"

    def workflow(self, field: str) -> bytes | None:
        return self._given if field == "input" else None

    def task(self, reference: str, field: str, wanted: str = "") -> bytes | None:
        return None

    def task_id(self) -> bytes | None:
        return None


def obstacle(step: Step, limit: RateLimit | None, given: bytes) -> str:
    """Why nobody can say which group an execution with this input belongs to; "": it can be said."""
    if limit is None or step.level < STREAMS or not crossing.is_outside(given):
        return ""
    scope = _InputScope(given)
    if crossing.is_outside(resolve(limit.key, scope)):
        scope.crossed = "the key"
    return f"the rate limit's key: {crossing.crossed(scope.crossed)}" if scope.crossed else ""


def assign(step: Step) -> None:
    """The step's execution is about to begin: which group it belongs to, by its definition and input."""
    limit = step.plan.definition.rate_limit
    if limit is None:
        if step.x.group:
            step.change(group=b"", group_key="")
        return
    key = text_of(resolve(limit.key, ExecutionScope(step.plan, step.hot, step.x)))
    step.change(group=_digest(step.x.namespace, step.x.name, key), group_key=key[:KEY_CHARS_SHOWN])


def enter(step: Step) -> None:
    """Before the execution goes on: if it has neither a place nor its turn in the queue, it gets one of the two."""
    x = step.x
    if not x.group or x.has_place or x.waits or step.phase is not WorkflowStatus.RUNNING or x.ending is not None:
        return
    limit = step.plan.definition.rate_limit
    if limit is None:
        # It was moved to a definition that has none.
        step.change(group=b"", group_key="")
        return
    group = _group(step, x.group)
    if group.running < limit.at_once and step.state.next_waiting(x.group) is None:
        step.write(Table.WORKFLOW_GROUP, (x.group,), replace(group, running=group.running + 1))
        step.change(has_place=True)
        return
    number = step.ready_number()
    row = WaitingExecution(number, x.group, x.namespace, x.workflow_id, limit.at_once)
    step.write(Table.WAITING, (number,), row)
    step.change(waits=number)


def let_in(step: Step, number: int) -> None:
    """The execution was handed a place when this was its turn. If it has ended since, it has given it back."""
    if step.x.waits == number:
        step.change(waits=0, has_place=True)


def leave(step: Step) -> None:
    """After the execution has gone on: if it has ended, its place goes to the next."""
    x = step.x
    if not (x.has_place or x.waits) or x.status not in WORKFLOW_TERMINAL:
        return
    group = _group(step, x.group)
    running = group.running
    if x.has_place or (x.waits,) not in step.state.waiting:
        running -= 1
    else:
        step.write(Table.WAITING, (x.waits,), None)
    step.change(has_place=False, waits=0)
    while (first := step.state.next_waiting(x.group)) is not None and running < first.at_once:
        step.write(Table.WAITING, (first.number,), None)
        step.send(LetIn(first.namespace, first.workflow_id, first.number))
        running += 1
    step.write(Table.WORKFLOW_GROUP, (x.group,), replace(group, running=running) if running else None)


def _group(step: Step, digest: bytes) -> WorkflowGroup:
    x = step.x
    found = cast(WorkflowGroup | None, step.state.resident[Table.WORKFLOW_GROUP].get((digest,)))
    return found or WorkflowGroup(x.namespace, x.name, x.group_key, 0)


def running(state: State, group: bytes) -> int:
    """How many places of the group are taken."""
    found = cast(WorkflowGroup | None, state.resident[Table.WORKFLOW_GROUP].get((group,)))
    return 0 if found is None else found.running


def _digest(*parts: str) -> bytes:
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, person=b"group").digest()
