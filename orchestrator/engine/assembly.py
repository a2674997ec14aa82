"""Outputs that are put together when they are read: those of JOIN and DO_WHILE, which are outputs of other attempts.

Nothing is copied, so a join of thousands costs no more than its branches. What was joined stays as long as the join.
"""

from __future__ import annotations

from typing import cast

from orchestrator.engine import places
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.execution_state import ExecutionState, base_of, instance_of
from orchestrator.engine.expressions import NULL, assemble_object, elements_of, fields_of, is_null
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.plan import Plan

_EMPTY = b"{}"
_AROUND = 4  # the quotes, colon and comma of a field


def output_of(plan: Plan, hot: ExecutionState, attempt: TaskAttempt, wanted: str = "") -> bytes:
    """The attempt's output. `wanted`: the one field that is asked for; others may be left out."""
    if attempt.type == TaskType.DO_WHILE:
        return _output_of_loop(plan, hot, attempt, wanted)
    if attempt.type == TaskType.JOIN and attempt.assembled_bytes:
        return _output_of_join(plan, hot, attempt, wanted)
    return hot.load(attempt.output) or _EMPTY


def output_size(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> int:
    """The bytes of the output as part of another; 0 if there is none."""
    if attempt.type in (TaskType.DO_WHILE, TaskType.JOIN):
        return attempt.assembled_bytes
    text = hot.load(attempt.output)
    return 0 if text in (b"", _EMPTY) else len(text)


def field_size(reference: str, size: int) -> int:
    """What a field with a value of this size adds to an object; nothing if the value is left out."""
    return len(reference) + size + _AROUND if size else 0


# --- JOIN


def joined_by(plan: Plan, hot: ExecutionState, node: TaskNode, attempt: TaskAttempt) -> list[str]:
    """The references, with their iterations, that the JOIN waits for."""
    fork = places.node_at(plan, hot, node.forked_by, attempt.expansion)
    if fork.type != TaskType.FORK_JOIN_DYNAMIC:
        return [instance_of(reference, attempt.iterations) for reference in dict.fromkeys(node.join_on)]
    forked = hot.latest(instance_of(fork.reference, attempt.iterations))
    if forked is None or not forked.expanded:
        return []
    references = places.forked_references(plan, hot, forked.expanded)
    return [instance_of(reference, attempt.iterations) for reference in references]


def _output_of_join(plan: Plan, hot: ExecutionState, attempt: TaskAttempt, wanted: str) -> bytes:
    node = places.node_at(plan, hot, base_of(attempt), attempt.expansion)
    references = joined_by(plan, hot, node, attempt)
    if wanted:
        references = [reference for reference in references if reference == wanted]
    found = [(reference, hot.latest(reference)) for reference in references]
    texts = [(reference, output_of(plan, hot, one)) for reference, one in found if one is not None]
    return assemble_object([(reference, text) for reference, text in texts if text != _EMPTY])


# --- DO_WHILE


def instance_in(loop: TaskAttempt, reference: str, iteration: int) -> str:
    """The reference of a task directly inside the loop, in one of its iterations."""
    return instance_of(reference, (*loop.iterations, iteration))


def items_of(hot: ExecutionState, loop: TaskAttempt) -> list[bytes]:
    """What the loop goes through."""
    key = ("items", loop.sequence)
    made = hot.derived.get(key)
    if made is None:
        # The input of a loop is always kept as it was resolved.
        items = fields_of(hot.load(loop.input)).get("_items", NULL)
        is_one = items[:1] != b"[" and not is_null(items)
        made = hot.derived[key] = [items] if is_one else elements_of(items)
    return cast(list[bytes], made)


def iteration_size(plan: Plan, hot: ExecutionState, loop: TaskAttempt, node: TaskNode, iteration: int) -> int:
    """What the iteration adds to the loop's output, in bytes."""
    assert node.loop is not None
    size = 0
    for reference in node.loop.inside:
        attempt = hot.latest(instance_in(loop, reference, iteration))
        if attempt is not None:
            size += field_size(reference, max(output_size(plan, hot, attempt), len(_EMPTY)))
    return field_size(str(iteration), size + len(_EMPTY))


def _output_of_loop(plan: Plan, hot: ExecutionState, loop: TaskAttempt, wanted: str) -> bytes:
    node = places.node_at(plan, hot, base_of(loop), loop.expansion)
    assert node.loop is not None
    fields: list[tuple[str, bytes]] = []
    first = max(1, loop.position - loop.keep_last + 1) if loop.keep_last else 1
    for iteration in range(first, loop.position + 1):
        if not wanted or wanted == str(iteration):
            fields.append((str(iteration), _iteration(plan, hot, loop, node, iteration)))
    if node.loop.items and loop.position > 0:
        fields.extend(_item(hot, loop))
    fields.append(("iteration", b"%d" % loop.position))
    return assemble_object(fields)


def _item(hot: ExecutionState, loop: TaskAttempt) -> list[tuple[str, bytes]]:
    """Where a loop that has begun stands in its items."""
    items = items_of(hot, loop)
    item = items[loop.position - 1] if loop.position <= len(items) else NULL
    return [("loopIndex", b"%d" % (loop.position - 1)), ("loopItem", item)]


def _iteration(plan: Plan, hot: ExecutionState, loop: TaskAttempt, node: TaskNode, iteration: int) -> bytes:
    assert node.loop is not None
    fields = []
    for reference in node.loop.inside:
        attempt = hot.latest(instance_in(loop, reference, iteration))
        if attempt is not None:
            fields.append((reference, output_of(plan, hot, attempt)))
    return assemble_object(fields)


def condition_input(plan: Plan, hot: ExecutionState, loop: TaskAttempt, given: bytes) -> bytes:
    """What the condition of a loop sees: its input as it is `given` now, the newest outputs of its tasks, and its own
    output."""
    node = places.node_at(plan, hot, base_of(loop), loop.expansion)
    assert node.loop is not None
    fields = fields_of(given)
    for reference in node.loop.seen:
        attempt = hot.newest(reference)
        if attempt is not None:
            fields[reference] = output_of(plan, hot, attempt)
    fields.update(_item(hot, loop) if node.loop.items else ())
    # All of it only where the condition may look at earlier iterations: it grows with each.
    wanted = str(loop.position) if node.loop.is_condition_local else ""
    fields[node.reference] = _output_of_loop(plan, hot, loop, wanted)
    return assemble_object(fields.items())

