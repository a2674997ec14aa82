"""JOIN: waits until every joined reference has ended for good, and gathers their outputs.

A counter says how many are still awaited. A reference counts when the walk has passed it: it has ended, no retry
is due, and if it is a SWITCH its branch has ended. One that was never made counts when its branch of the fork ends.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, assemble_object
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, check_task


class Join:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        _await(step, node, attempt)


def reopen(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """An operator retries the workflow: the JOIN goes on in place."""
    step.change(open_tasks=step.x.open_tasks + 1)
    _await(step, node, replace(attempt, ended_ms=0, reason="", error_code="", output=b""))


def _await(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    awaited = sum(1 for reference in dict.fromkeys(node.join_on) if not _counts(step, node, reference))
    attempt = step.put_task(
        replace(
            attempt, status=TaskStatus.IN_PROGRESS, started_ms=step.now, updated_ms=step.now, waiting=awaited
        )
    )
    if awaited == 0:
        _end(step, node, attempt)


def _counts(step: Step, join: TaskNode, reference: str) -> bool:
    attempt = step.hot.latest(reference)
    if attempt is not None:
        return attempt.passed
    fork, branch = branch_of(step, join, reference)
    return fork is not None and has_ended(step, fork.fork[branch][-1])


def branch_of(step: Step, join: TaskNode, reference: str) -> tuple[TaskNode | None, int]:
    """The fork of the JOIN, and in which of its branches the reference stands."""
    node = step.plan.node(reference)
    while node.parent is not None:
        parent = step.plan.node(node.parent)
        if parent.join == join.reference:
            return parent, node.branch
        node = parent
    return None, 0


def has_ended(step: Step, last: str) -> bool:
    """Whether the walk has ever passed the last reference of a branch."""
    return any(step.hot.tasks[sequence].passed for sequence in step.hot.attempts_of.get(last, ()))


def reference_passed(step: Step, reference: str) -> None:
    """One more of the joined references has ended for good."""
    for join in step.plan.definition.joins_of.get(reference, ()):
        one_less(step, step.plan.node(join))


def one_less(step: Step, node: TaskNode) -> None:
    attempt = step.hot.latest(node.reference)
    if attempt is None or attempt.status is not TaskStatus.IN_PROGRESS or attempt.waiting == 0:
        return
    attempt = step.put_task(replace(attempt, waiting=attempt.waiting - 1, updated_ms=step.now))
    if attempt.waiting == 0:
        _end(step, node, attempt)


def _end(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    joined = [step.hot.latest(reference) for reference in dict.fromkeys(node.join_on)]
    made = [one for one in joined if one is not None]
    failed = [one for one in made if one.status not in TASK_SUCCESSFUL]
    reason = " ".join(one.reason for one in failed if one.reason)
    if failed and all(one.status is TaskStatus.CANCELED for one in failed):
        status = TaskStatus.CANCELED
    elif failed:
        status = TaskStatus.FAILED
    elif any(one.status is TaskStatus.COMPLETED_WITH_ERRORS for one in made):
        status = TaskStatus.COMPLETED_WITH_ERRORS
    else:
        status = TaskStatus.COMPLETED
    texts = [(one.reference, load(step.hot, one.output)) for one in made]
    output = assemble_object([(reference, text) for reference, text in texts if text not in (b"", b"{}")])
    try:
        if len(output) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"the output of the JOIN exceeds the limit of {PAYLOAD_BYTES_MAX} bytes")
        attempts.finish(step, attempt, status, output=store(step, output), reason=reason)
    except LimitExceeded as error:
        attempts.finish(
            step,
            attempt,
            TaskStatus.FAILED_WITH_TERMINAL_ERROR,
            reason=str(error),
            error_code=attempts.LIMIT_EXCEEDED,
        )
