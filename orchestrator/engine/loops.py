"""DO_WHILE: iterations that follow each other, each a sequence of its own, until the condition or the items end.

The loop's attempt counts the sequences that are open in its current iteration. When there is none left, the condition
is asked for; what it says begins the next iteration or ends the loop. Conditions are scripts, which a node evaluates.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import assembly, attempts, blob_uses, evaluations, limits, places, scopes
from orchestrator.engine.definitions.model import Loop, TaskNode, TaskType
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, fields_of, is_null, text_of
from orchestrator.engine.model import AgendaKind, Table, TaskAttempt, TaskStatus
from orchestrator.engine.payloads import drop
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, TASK_TERMINAL, check_task


def begin(step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
    """The first iteration, if there is anything to go through."""
    loop = _loop(node)
    keep, most = _number(given, "keepLastN"), _number(given, "maxIterations")
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    attempt = step.put_task(
        replace(
            attempt,
            status=TaskStatus.IN_PROGRESS,
            started_ms=step.now,
            updated_ms=step.now,
            keep_last=keep or 0,
            most_iterations=most or 0,
        )
    )
    if keep is None or most is None:
        key = "keepLastN" if keep is None else "maxIterations"
        _end(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, f"{key} must be a number of iterations")
        return
    try:
        items = fields_of(given).get("_items") if loop.items else None
        blob_uses.require_known(step, "the items of the loop", items)
    except LimitExceeded as error:
        attempts.fail_at_limit(step, attempt, error)
        return
    if loop.items and not assembly.items_of(step.hot, attempt):
        attempts.complete_operator(step, attempt, b"")
        return
    _iterate(step, node, attempt, 1)


def _number(given: bytes, key: str) -> int | None:
    """0 if there is none; None if it is no number."""
    value = fields_of(given).get(key)
    if value is None or is_null(value):
        return 0
    text = text_of(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _loop(node: TaskNode) -> Loop:
    assert node.loop is not None
    return node.loop


def _iterate(step: Step, node: TaskNode, attempt: TaskAttempt, number: int) -> None:
    most = min(attempt.most_iterations or limits.ITERATIONS, limits.ITERATIONS)
    if number > most:
        reason = f"the loop exceeds the limit of {most} iterations"
        _end(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason, attempts.LIMIT_EXCEEDED)
        return
    step.put_task(replace(attempt, position=number, waiting=1, updated_ms=step.now))
    step.change(open_branches=step.x.open_branches + 1)
    step.note(AgendaKind.SCHEDULE, attempt.sequence, _loop(node).body[0])
    if attempt.keep_last and number > attempt.keep_last:
        step.note(AgendaKind.FORGET, attempt.sequence, str(number - attempt.keep_last))


# --- sequences inside


def branches_opened(step: Step, attempt: TaskAttempt, count: int) -> None:
    """The attempt begins so many sequences below it."""
    step.change(open_branches=step.x.open_branches + count)
    loop = places.loop_of(step.plan, step.hot, attempt)
    if loop is not None:
        step.put_task(replace(loop, waiting=loop.waiting + count))


def sequence_ended(step: Step, last: TaskAttempt, parent: TaskAttempt | None) -> None:
    """The last attempt of a sequence has passed; the iteration it belongs to may have ended with it."""
    step.header.open_branches -= 1
    if not last.iterations or parent is None:
        return
    loop = parent if parent.type == TaskType.DO_WHILE else places.loop_of(step.plan, step.hot, parent)
    if loop is None or loop.status is not TaskStatus.IN_PROGRESS:
        return
    loop = step.put_task(replace(loop, waiting=loop.waiting - 1))
    if loop.waiting == 0:
        _iteration_ended(step, loop)


def _iteration_ended(step: Step, attempt: TaskAttempt) -> None:
    node = attempts.node_of(step, attempt)
    loop = _loop(node)
    size = assembly.iteration_size(step.plan, step.hot, attempt, node, attempt.position)
    attempt = step.put_task(replace(attempt, assembled_bytes=attempt.assembled_bytes + size, updated_ms=step.now))
    if attempt.assembled_bytes > PAYLOAD_BYTES_MAX:
        reason = (
            f"the output of the loop exceeds the limit of {PAYLOAD_BYTES_MAX} bytes:"
            " keepLastN says of how many iterations it is kept"
        )
        _end(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason, attempts.LIMIT_EXCEEDED)
    elif loop.items and attempt.position >= len(assembly.items_of(step.hot, attempt)):
        _end(step, attempt, TaskStatus.COMPLETED)
    elif loop.condition:
        _ask(step, attempt)
    else:
        _iterate(step, node, attempt, attempt.position + 1)


def _ask(step: Step, attempt: TaskAttempt) -> None:
    """Asks for the condition, unless its input has grown too large meanwhile."""
    try:
        given = scopes.condition_given(step.plan, step.hot, step.x, attempt, is_asked=True)
        if len(given) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"the input of the loop's condition exceeds the limit of {PAYLOAD_BYTES_MAX} bytes")
    except LimitExceeded as error:
        attempts.fail_at_limit(step, attempt, error)
    else:
        evaluations.ask(step, attempt)


def condition_said(step: Step, node: TaskNode, attempt: TaskAttempt, goes_on: bool) -> None:
    """The condition was evaluated after an iteration."""
    if goes_on:
        _iterate(step, node, attempt, attempt.position + 1)
    else:
        _end(step, attempt, TaskStatus.COMPLETED)


def condition_failed(step: Step, attempt: TaskAttempt, reason: str) -> None:
    _end(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason)


def _end(step: Step, attempt: TaskAttempt, status: TaskStatus, reason: str = "", error_code: str = "") -> None:
    attempts.finish(step, attempt, status, reason=reason, error_code=error_code)


# --- failure inside


def is_left(step: Step, attempt: TaskAttempt) -> bool:
    """Whether the attempt stands in a loop that has ended, or in an iteration that is over."""
    inner = attempt
    while inner.iterations:
        loop = places.loop_of(step.plan, step.hot, inner)
        if loop is None or loop.status is not TaskStatus.IN_PROGRESS:
            return True
        if inner.iterations[len(loop.iterations)] != loop.position:
            return True
        inner = loop
    return False


def is_past(step: Step, attempt: TaskAttempt) -> bool:
    """Whether the attempt stands in a loop, or an iteration, that the walk has left behind."""
    inner = attempt
    while inner.iterations:
        loop = places.loop_of(step.plan, step.hot, inner)
        if loop is None or loop.passed or inner.iterations[len(loop.iterations)] != loop.position:
            return True
        inner = loop
    return False


def fail_around(step: Step, attempt: TaskAttempt) -> TaskAttempt | None:
    """Fails the loops around an attempt that has failed for good, the inner ones first.

    Answers the first whose failure lets the walk go on from its place; None if there is none, and the workflow ends.
    Then what is open in the loops stays counted: an operator's retry goes on with it.
    """
    failed: list[TaskAttempt] = []
    loop = places.loop_of(step.plan, step.hot, attempt)
    while loop is not None:
        node = attempts.node_of(step, loop)
        reason = _reasons(step, loop) or attempt.reason
        failed.append(attempts.finish(step, loop, TaskStatus.FAILED, reason=reason, follow=False))
        if node.optional or is_counted_at_end(step, node, loop):
            return _leave(step, failed, node)
        loop = places.loop_of(step.plan, step.hot, loop)
    return None


def left(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """The walk goes on behind the attempt: if it is a loop whose time was over, what is open in it is cancelled."""
    if attempt.type != TaskType.DO_WHILE or not attempt.waiting:
        return attempt
    step.change(open_branches=step.x.open_branches - attempt.waiting)
    step.note(AgendaKind.ABANDON, attempt.sequence)
    return step.put_task(replace(attempt, waiting=0))


def is_counted_at_end(step: Step, node: TaskNode, attempt: TaskAttempt) -> bool:
    """Whether it is permissive, and its failure counts when everything has ended; one in a loop fails the loop."""
    return node.permissive and not _has_loop(step, attempt)


def first_that_counts(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """The attempt, which has failed for good, or the first loop around it that is not permissive."""
    while attempts.node_of(step, attempt).permissive:
        loop = places.loop_of(step.plan, step.hot, attempt)
        if loop is None:
            break
        attempt = loop
    return attempt


def _has_loop(step: Step, attempt: TaskAttempt) -> bool:
    """Whether it is a task of a loop; what was forked dynamically in one is not its, but is joined there."""
    loop = places.loop_of(step.plan, step.hot, attempt)
    return loop is not None and loop.expansion == attempt.expansion


def _leave(step: Step, failed: list[TaskAttempt], outermost: TaskNode) -> TaskAttempt:
    for loop in failed:
        step.change(open_branches=step.x.open_branches - loop.waiting)
        step.put_task(replace(loop, waiting=0))
    left = step.hot.tasks[failed[-1].sequence]
    step.note(AgendaKind.ABANDON, left.sequence)
    if outermost.optional:
        check_task(left.status, TaskStatus.COMPLETED_WITH_ERRORS)
        left = step.put_task(replace(left, status=TaskStatus.COMPLETED_WITH_ERRORS))
    return left


def _reasons(step: Step, loop: TaskAttempt) -> str:
    found = []
    for reference in _loop(attempts.node_of(step, loop)).inside:
        attempt = step.hot.latest(assembly.instance_in(loop, reference, loop.position))
        if attempt is not None and attempt.status in TASK_TERMINAL and attempt.status not in TASK_SUCCESSFUL:
            found.append(attempt.reason)
    return " ".join(reason for reason in found if reason)


def abandon(step: Step, loop: TaskAttempt) -> None:
    """Cancels what is still open inside of a loop that has failed, as much as the step may."""
    for sequence in sorted(step.hot.open):
        attempt = step.hot.tasks[sequence]
        if not _is_inside(step, attempt, loop):
            continue
        if step.budget <= 0:
            step.note(AgendaKind.ABANDON, loop.sequence)
            return
        if attempt.type == TaskType.DO_WHILE:
            step.change(open_branches=step.x.open_branches - attempt.waiting)
        attempts.finish(step, attempt, TaskStatus.CANCELED, reason="the loop has failed", follow=False)


def _is_inside(step: Step, attempt: TaskAttempt, loop: TaskAttempt) -> bool:
    inner = places.loop_of(step.plan, step.hot, attempt) if not attempt.compensates else None
    while inner is not None:
        if inner.sequence == loop.sequence:
            return True
        inner = places.loop_of(step.plan, step.hot, inner)
    return False


def reopen(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """An operator retries the workflow: the loop goes on with its current iteration."""
    attempt = step.put_task(_opened(step, attempt))
    if attempt.waiting == 0:
        # It failed between two iterations, or before the first: where it failed, it tries again.
        if attempt.position == 0:
            begin_again = replace(attempt, status=TaskStatus.SCHEDULED)
            begin(step, node, step.put_task(begin_again), attempts.input_of(step, attempt))
        else:
            _ask(step, attempt)


def interrupt(step: Step, node: TaskNode, loop: TaskAttempt, iteration: int) -> None:
    """Something in this iteration is about to be made again: the loop goes on with it, and later ones are forgotten."""
    if loop.status is TaskStatus.IN_PROGRESS and loop.position <= iteration:
        return
    # What is open in an iteration says that its size does not count yet.
    counted = loop.position if loop.waiting == 0 else loop.position - 1
    sizes = [assembly.iteration_size(step.plan, step.hot, loop, node, one) for one in range(iteration, counted + 1)]
    loop = replace(loop, position=iteration, waiting=1, assembled_bytes=max(0, loop.assembled_bytes - sum(sizes)))
    step.put_task(_opened(step, loop))
    step.budget -= 1


def reopen_at(step: Step, node: TaskNode, loop: TaskAttempt) -> None:
    """The loop is in progress again, with nothing open but the sequence of its current iteration."""
    interrupt(step, node, loop, loop.position)
    step.put_task(replace(step.hot.tasks[loop.sequence], waiting=1))
    step.change(open_branches=step.x.open_branches + 1)


def _opened(step: Step, loop: TaskAttempt) -> TaskAttempt:
    if loop.status is not TaskStatus.IN_PROGRESS:
        check_task(loop.status, TaskStatus.IN_PROGRESS)
        step.change(open_tasks=step.x.open_tasks + 1)
    return replace(
        loop,
        status=TaskStatus.IN_PROGRESS,
        ended_ms=0,
        updated_ms=step.now,
        reason="",
        error_code="",
        fencing_token=0,
        ready=0,
    )


def current_iterations(step: Step, node: TaskNode) -> tuple[int, ...] | None:
    """The iterations in which a task of the definition would be made now; None if a loop around it is not open."""
    if node.loops == 0:
        return ()
    above = node.parent
    while above is not None and step.plan.nodes[above].type != TaskType.DO_WHILE:
        above = step.plan.nodes[above].parent
    loop = None if above is None else step.hot.newest(above)
    if loop is None or loop.status is not TaskStatus.IN_PROGRESS:
        return None
    return (*loop.iterations, loop.position)


# --- what is not kept


def forget(step: Step, loop: TaskAttempt, what: str) -> None:
    """Removes the attempts of an iteration, and what they alone hold, as much as the step may.

    `what`: the number of the iteration, with a sign after it if its removal has begun already.
    """
    iteration = int(what.removesuffix(_BEGUN))
    if not 0 < iteration < loop.position:
        return
    if not what.endswith(_BEGUN):
        node = attempts.node_of(step, loop)
        size = assembly.iteration_size(step.plan, step.hot, loop, node, iteration)
        step.put_task(replace(loop, assembled_bytes=max(0, loop.assembled_bytes - size)))
    prefix = (*loop.iterations, iteration)
    standing = [
        sequence
        for iterations, sequences in step.hot.of_iterations.items()
        if iterations[: len(prefix)] == prefix
        for sequence in sequences
        if _is_inside(step, step.hot.tasks[sequence], loop)
    ]
    # The newest first: where an attempt stands is told by older ones.
    for sequence in sorted(standing, reverse=True):
        if step.budget <= 0:
            step.note(AgendaKind.FORGET, loop.sequence, f"{iteration}{_BEGUN}")
            return
        _remove(step, step.hot.tasks[sequence])


_BEGUN = "+"


def _remove(step: Step, attempt: TaskAttempt) -> None:
    key = (step.x.namespace, step.x.workflow_id)
    if attempts.node_of(step, attempt).compensate_with is None:
        # Otherwise its record may share them.
        for payload in (attempt.input, attempt.output):
            drop(step, payload)
    drop(step, attempt.details)
    step.remove_task(attempt)
    step.budget -= 1
    expansion = step.hot.expansions.get(attempt.expanded)
    is_its_own = expansion is not None and expansion.parent == attempt.sequence
    if expansion is not None and is_its_own and not places.steps_of(step.plan, step.hot, expansion.number):
        drop(step, expansion.document)
        drop(step, expansion.inputs)
        step.write(Table.EXPANSION, (*key, expansion.number), None)
