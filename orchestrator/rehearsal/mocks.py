"""What stands in for the tasks of a rehearsed workflow: lists of outcomes by reference, each taken once, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.engine.execution_state import base_of
from orchestrator.engine.model import TaskAttempt, TaskStatus


@dataclass(frozen=True)
class Mock:
    """One outcome of an attempt. `output` is a JSON object; IN_PROGRESS only adds to the output.

    The attempt waits for `queue_wait_ms`, and is then executed for `execution_ms`, both of virtual time.
    """

    status: TaskStatus = TaskStatus.COMPLETED
    output: bytes = b"{}"
    reason: str = ""
    error_code: str = ""
    queue_wait_ms: int = 0
    execution_ms: int = 0


@dataclass
class Mocks:
    """The outcomes of one execution's tasks, and the mocks of the executions that its tasks start."""

    tasks: dict[str, deque[Mock]] = field(default_factory=dict)
    sub_workflows: dict[str, Mocks] = field(default_factory=dict)

    def next_for(self, attempt: TaskAttempt) -> Mock | None:
        """Takes the next one. A list may be for one iteration of a loop (`work__2`), or for all of them (`work`)."""
        for reference in _names(attempt):
            waiting = self.tasks.get(reference)
            if waiting:
                return waiting.popleft()
        return None

    def of_child(self, attempt: TaskAttempt) -> Mocks:
        """Those of the execution that the attempt starts. Who is named once is meant each time."""
        for reference in _names(attempt):
            if reference in self.sub_workflows:
                return self.sub_workflows[reference]
        return Mocks()

    def left(self, path: str = "") -> Iterator[str]:
        """The references of mocks that nobody has taken; of a sub-workflow's behind its own: `sub/work`."""
        for reference in sorted(self.tasks):
            if self.tasks[reference]:
                yield f"{path}{reference}"
        for reference in sorted(self.sub_workflows):
            yield from self.sub_workflows[reference].left(f"{path}{reference}/")


def _names(attempt: TaskAttempt) -> tuple[str, ...]:
    if not attempt.iterations:
        return (attempt.reference,)
    return (attempt.reference, base_of(attempt))
