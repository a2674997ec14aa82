"""Places: which task an attempt is of, and where that stands - in a loop's iteration, in a branch, in a dynamic fork.

A definition is walked in instances of its tasks: `work__2` is `work` in the second iteration of the loop around it.
Tasks that a dynamic fork was given are not in the definition; they form a plan of their own, kept as an EXPANSION.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine.definitions.expansion import compile_body, compile_forked, compile_spread
from orchestrator.engine.definitions.model import RetryPolicy, TaskNode, TaskType, Timeouts
from orchestrator.engine.execution_state import ExecutionState, base_of, instance_of
from orchestrator.engine.expressions import (
    Template,
    append_field,
    assemble_object,
    elements_of,
    fields_of,
    is_json_object,
)
from orchestrator.engine.model import Expansion, ExpansionKind, SagaRecord, TaskAttempt
from orchestrator.engine.plan import Plan, make_plan

_NOTHING = Template(b"{}")
_NO_TIMEOUTS = Timeouts(response_ms=0)


class Place:
    """A task, and the instance of it."""

    __slots__ = ("expansion", "iterations", "node", "reference")

    def __init__(self, node: TaskNode, iterations: tuple[int, ...] = (), expansion: int = 0) -> None:
        self.node = node
        self.iterations = iterations
        self.expansion = expansion
        self.reference = instance_of(node.reference, iterations)


def place_of(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> Place:
    """Not of a compensation."""
    return Place(node_of(plan, hot, attempt), attempt.iterations, attempt.expansion)


def node_of(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> TaskNode:
    """The task that the attempt is of, be it a compensation."""
    if not (hot.expansions or hot.records or attempt.iterations):
        # There is nothing else that an attempt could be of.
        return plan.nodes[attempt.reference]
    if attempt.compensates:
        return undo_of(plan, hot, hot.records[attempt.compensates])
    node = node_at(plan, hot, base_of(attempt), attempt.expansion)
    if node.type == TaskType.DYNAMIC and attempt.expanded:
        return _body(hot, node, attempt.expanded)
    return node


def node_at(plan: Plan, hot: ExecutionState, base: str, expansion: int) -> TaskNode:
    if not expansion:
        return plan.nodes[base]
    # A step asks again and again for the same one.
    made = cast(TaskNode | None, hot.derived.get(expansion))
    if made is not None and made.reference == base:
        return made
    row = hot.expansions[expansion]
    if row.kind is not ExpansionKind.SPREAD:
        return plan_at(plan, hot, expansion).nodes[base]
    made = hot.derived[expansion] = replace(_spread(hot, row)[0], reference=base)
    return made


def undo_of(plan: Plan, hot: ExecutionState, record: SagaRecord) -> TaskNode:
    """The task that undoes the step; of a sub-workflow, which undoes its own steps, one that waits for that."""
    node = node_at(plan, hot, record.reference, record.expansion)
    if record.child:
        undoing = f"{record.reference}__compensation"
        changed = {"input": _NOTHING, "retry": RetryPolicy(0), "timeouts": _NO_TIMEOUTS, "announcements": {}}
        return replace(node, reference=undoing, **changed)
    assert node.compensate_with is not None
    return node.compensate_with


def plan_at(plan: Plan, hot: ExecutionState, expansion: int) -> Plan:
    """The plan that the tasks of the expansion belong to; the definition's if it is 0."""
    if not expansion:
        return plan
    made = hot.derived.get(("plan", expansion))
    if made is None:
        row = hot.expansions[expansion]
        nodes = {} if row.kind is not ExpansionKind.FORKED else compile_forked(hot.load(row.document), row.loops)
        made = hot.derived["plan", expansion] = make_plan(nodes)
    return cast(Plan, made)


def compiled(hot: ExecutionState, expansion: int, nodes: dict[str, TaskNode]) -> None:
    """What the expansion compiles to, if that is known already: there may be thousands of tasks."""
    hot.derived["plan", expansion] = make_plan(nodes)


def forget(hot: ExecutionState, expansion: int, base: str) -> None:
    """The expansion is gone, and with it what was derived from it. `base`: the reference of what was expanded."""
    kinds = ("plan", "spread", "forked", "inputs")
    for key in (expansion, *((kind, expansion) for kind in kinds), ("body", expansion, base)):
        hot.derived.pop(key, None)


def _body(hot: ExecutionState, node: TaskNode, expansion: int) -> TaskNode:
    made = hot.derived.get(("body", expansion, node.reference))
    if made is None:
        made = compile_body(hot.load(hot.expansions[expansion].document), node)
        hot.derived["body", expansion, node.reference] = made
    return cast(TaskNode, made)


def _spread(hot: ExecutionState, row: Expansion) -> tuple[TaskNode, str]:
    """(the task, the beginning of its references)"""
    made = hot.derived.get(("spread", row.number))
    if made is None:
        made = hot.derived["spread", row.number] = compile_spread(hot.load(row.document), row.loops)
    return cast(tuple[TaskNode, str], made)


def steps_of(plan: Plan, hot: ExecutionState, expansion: int) -> tuple[str, ...]:
    """The references, without iterations, of the steps that have a compensation."""
    if expansion and hot.expansions[expansion].kind is not ExpansionKind.FORKED:
        return ()
    return tuple(plan_at(plan, hot, expansion).undoes)


# --- the tasks of a dynamic fork


def forked_references(plan: Plan, hot: ExecutionState, expansion: int) -> tuple[str, ...]:
    """The references of the forked tasks, without iterations, in the order of their making."""
    key = ("forked", expansion)
    made = hot.derived.get(key)
    if made is None:
        row = hot.expansions[expansion]
        if row.kind is ExpansionKind.SPREAD:
            prefix = _spread(hot, row)[1]
            made = tuple(f"{prefix}{position}" for position in range(row.count))
        else:
            made = plan_at(plan, hot, expansion).outermost
        hot.derived[key] = made
    return cast(tuple[str, ...], made)


def given_input(hot: ExecutionState, place: Place) -> bytes:
    """What a dynamic fork was given for the task, over its own input parameters: a JSON object."""
    if not place.expansion or place.node.parent is not None:
        return b"{}"
    row = hot.expansions[place.expansion]
    inputs = _inputs(hot, row)
    if isinstance(inputs, dict):
        given = inputs.get(place.node.reference, b"{}")
        return given if is_json_object(given) else b"{}"
    position = int(place.node.reference[len(_spread(hot, row)[1]) :])
    return _indexed(inputs[position], position)


def _inputs(hot: ExecutionState, row: Expansion) -> dict[str, bytes] | list[bytes]:
    """By reference, or by position."""
    key = ("inputs", row.number)
    made = hot.derived.get(key)
    if made is None:
        text = hot.load(row.inputs)
        made = hot.derived[key] = fields_of(text) if row.kind is ExpansionKind.FORKED else elements_of(text)
    return cast(dict[str, bytes] | list[bytes], made)


def _indexed(value: bytes, position: int) -> bytes:
    text = value if is_json_object(value) else assemble_object([("input", value)])
    return append_field(text, "__index", b"%d" % position)


# --- around an attempt


def parent_of(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> TaskAttempt | None:
    """The attempt in one of whose branches this one stands; None at the outermost."""
    node = node_at(plan, hot, base_of(attempt), attempt.expansion)
    if node.parent is None:
        return hot.tasks[hot.expansions[attempt.expansion].parent] if attempt.expansion else None
    parent = node_at(plan, hot, node.parent, attempt.expansion)
    return hot.latest(instance_of(parent.reference, attempt.iterations[: parent.loops]))


def loop_of(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> TaskAttempt | None:
    """The innermost loop around the attempt."""
    if not attempt.iterations:
        return None
    parent = parent_of(plan, hot, attempt)
    while parent is not None and parent.type != TaskType.DO_WHILE:
        parent = parent_of(plan, hot, parent)
    return parent


PASSED_IN_PAIRS = frozenset((TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC, TaskType.JOIN))
"""Types that only make sense together."""


def inside(plan: Plan, hot: ExecutionState, anchor: TaskAttempt, base: str) -> Place:
    """The task of this reference at the place of the anchor: next to it, or in one of its branches."""
    node = node_at(plan, hot, base, anchor.expansion)
    iterations = anchor.iterations
    if node.loops > len(iterations):
        iterations = (*iterations, anchor.position)
    return Place(node, iterations, anchor.expansion)


