"""FORK_JOIN_DYNAMIC: forks tasks that its input says; its JOIN, the next in its sequence, waits for all of them.

The tasks are made in slices, as many as a step may, so that thousands of them stall nobody.
"""

from __future__ import annotations

from orchestrator.engine import attempts, expansions, loops, outcomes
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.model import AgendaKind, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.operators.fork_join import TYPE
from orchestrator.engine.step import Step


class ForkJoinDynamic:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        try:
            attempt = expansions.expand_fork(step, node, attempt, given)
        except (DefinitionError, LimitExceeded) as error:
            attempts.finish(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=str(error), follow=False)
            outcomes.end_badly(step, WorkflowStatus.FAILED, str(error), attempt.reference)
            return
        loops.branches_opened(step, attempt, step.hot.expansions[attempt.expanded].count)
        step.note(AgendaKind.EXPAND, attempt.sequence)
        attempts.complete_operator(step, attempt, b"{}", type=TYPE)

