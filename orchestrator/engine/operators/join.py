"""JOIN: waits until every joined reference has ended for good, and gathers their outputs.

A counter says how many are still awaited. A reference counts when the walk has passed it: it has ended, no retry
is due, and if it is a SWITCH its branch has ended. One that was never made counts when its branch of the fork ends.
The output is put together when it is read; what is kept is its size.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import assembly, attempts, places
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.execution_state import base_of, instance_of
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.places import Place
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, check_task


class Join:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        _await(step, node, attempt)


def reopen(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """An operator retries the workflow: the JOIN goes on in place."""
    step.change(open_tasks=step.x.open_tasks + 1)
    _await(step, node, replace(attempt, ended_ms=0, reason="", error_code="", output=b""))


def interrupt(step: Step, attempt: TaskAttempt) -> None:
    """Something that the JOIN waited for is about to be made again: it is in progress, and `count` follows."""
    if attempt.status is TaskStatus.IN_PROGRESS:
        return
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    step.change(open_tasks=step.x.open_tasks + 1)
    step.put_task(
        replace(
            attempt, status=TaskStatus.IN_PROGRESS, ended_ms=0, reason="", error_code="", output=b"", waiting=0
        )
    )
    step.budget -= 1


def count(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """The JOIN, which was interrupted, waits for what the walk has not passed again."""
    _await(step, node, replace(attempt, status=TaskStatus.SCHEDULED))


def _await(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    awaited, size = 0, 0
    for reference in assembly.joined_by(step.plan, step.hot, node, attempt):
        joined = reached(step, reference)
        if joined is not None and joined.passed:
            size += _size(step, joined)
        elif joined is not None or not _will_never_be(step, node, attempt, reference):
            awaited += 1
    attempt = step.put_task(
        replace(
            attempt,
            status=TaskStatus.IN_PROGRESS,
            started_ms=step.now,
            updated_ms=step.now,
            waiting=awaited,
            assembled_bytes=size,
        )
    )
    if awaited == 0:
        _end(step, node, attempt)


def reached(step: Step, reference: str) -> TaskAttempt | None:
    """The newest attempt, if the walk has come there: what was skipped is there before."""
    attempt = step.hot.latest(reference)
    skipped = attempt is not None and attempt.status is TaskStatus.SKIPPED and not attempt.passed
    return None if skipped else attempt


def _size(step: Step, joined: TaskAttempt) -> int:
    return assembly.field_size(joined.reference, assembly.output_size(step.plan, step.hot, joined))


def _will_never_be(step: Step, node: TaskNode, join: TaskAttempt, reference: str) -> bool:
    """Of a reference that was not made: whether the branch that could come by it has ended without it."""
    fork = places.node_at(step.plan, step.hot, node.forked_by, join.expansion)
    if fork.type == TaskType.FORK_JOIN_DYNAMIC:
        return False
    inner = places.node_at(step.plan, step.hot, _without(reference, join.iterations), join.expansion)
    while True:
        assert inner.parent is not None
        above = places.node_at(step.plan, step.hot, inner.parent, join.expansion)
        if above.type == TaskType.FORK_JOIN and step.hot.latest(instance_of(above.reference, join.iterations)):
            # The innermost fork around it that was made: its branch is where the walk is.
            return has_ended(step, instance_of(above.fork[inner.branch][-1], join.iterations))
        inner = above


def _without(reference: str, iterations: tuple[int, ...]) -> str:
    return reference[: -len(instance_of("", iterations))] if iterations else reference


def has_ended(step: Step, last: str) -> bool:
    """Whether the walk has ever passed the last reference of a branch."""
    sequences = step.hot.attempts_of.get(last)
    if sequences is not None:
        tasks = step.hot.tasks
        for sequence in sequences:
            if tasks[sequence].passed:
                return True
    return False


def reference_passed(step: Step, attempt: TaskAttempt) -> None:
    """The attempt has ended for good: one less of what a JOIN may wait for."""
    plan = places.plan_at(step.plan, step.hot, attempt.expansion)
    joins = plan.joins_of.get(base_of(attempt)) if plan.joins_of else None
    for reference in joins or ():
        one_less(step, places.inside(step.plan, step.hot, attempt, reference), attempt)
    if attempt.expansion:
        _forked_passed(step, attempt)


def _forked_passed(step: Step, attempt: TaskAttempt) -> None:
    """One of the tasks of a dynamic fork; what is deeper inside of one is joined there."""
    if places.node_at(step.plan, step.hot, base_of(attempt), attempt.expansion).parent is not None:
        return
    fork = step.hot.tasks[step.hot.expansions[attempt.expansion].parent]
    join = attempts.node_of(step, fork).join
    assert join is not None
    one_less(step, places.inside(step.plan, step.hot, fork, join), attempt)


def one_less(step: Step, place: Place, passed: TaskAttempt | None) -> None:
    """The JOIN at the place waits for one less. `passed`: its attempt, if it was ever made."""
    attempt = step.hot.latest(place.reference)
    if attempt is None or attempt.status is not TaskStatus.IN_PROGRESS or attempt.waiting == 0:
        return
    size = attempt.assembled_bytes + (0 if passed is None else _size(step, passed))
    attempt = step.put_task(
        replace(attempt, waiting=attempt.waiting - 1, assembled_bytes=size, updated_ms=step.now)
    )
    if attempt.waiting == 0:
        _end(step, place.node, attempt)


def _end(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    references = assembly.joined_by(step.plan, step.hot, node, attempt)
    made = [one for one in map(step.hot.latest, references) if one is not None]
    failed = [one for one in made if one.status not in TASK_SUCCESSFUL]
    erred = [] if failed else _erred(step, made)
    reason = " ".join(one.reason for one in failed if one.reason)
    if failed and all(one.status is TaskStatus.CANCELED for one in failed):
        status = TaskStatus.CANCELED
    elif failed:
        status = TaskStatus.FAILED
    elif erred:
        status = TaskStatus.COMPLETED_WITH_ERRORS
        reason = " ".join([*(f"{one.name}/{one.task_id}" for one in erred), "completed with errors"])
    else:
        status = TaskStatus.COMPLETED
    if attempt.assembled_bytes > PAYLOAD_BYTES_MAX:
        reason = f"the output of the JOIN exceeds the limit of {PAYLOAD_BYTES_MAX} bytes"
        attempts.finish(
            step,
            replace(attempt, assembled_bytes=0),
            TaskStatus.FAILED_WITH_TERMINAL_ERROR,
            reason=reason,
            error_code=attempts.LIMIT_EXCEEDED,
        )
        return
    attempts.finish(step, attempt, status, reason=reason)


def _erred(step: Step, made: list[TaskAttempt]) -> list[TaskAttempt]:
    """Optional tasks that have failed; a JOIN inside, and the like, that says so of others is not one."""
    found = [one for one in made if one.status is TaskStatus.COMPLETED_WITH_ERRORS]
    return [one for one in found if attempts.node_of(step, one).optional]
