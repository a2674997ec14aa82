"""Which message is taken up next: in the order of their numbers, but nothing by an execution that is being cleared.

What is sent to such an execution waits until that is done, and then comes in its turn. Whether one is being cleared is
told by the inbox itself: its `ClearExecution` is there.
"""

from __future__ import annotations

from heapq import heappop, heappush

from orchestrator.engine.messages import ClearExecution, ContinueExecution, Message
from orchestrator.engine.model import ExecutionKey, RowKey


class Deliveries:
    """The order of the inbox, whose rows are kept elsewhere."""

    def __init__(self, messages: dict[RowKey, Message]) -> None:
        self._messages = messages
        self._numbers: list[int] = []
        self._clearing: dict[ExecutionKey, int] = {}  # how many ClearExecutions there are of it
        self._continuing: dict[ExecutionKey, int] = {}  # ... of ContinueExecutions
        self._waiting: dict[ExecutionKey, list[int]] = {}

    def changed(self, number: int, old: Message | None, new: Message | None) -> None:
        """Corrects the order with each row."""
        if new is not None:
            heappush(self._numbers, number)
        for message, by in ((old, -1), (new, 1)):
            if isinstance(message, ClearExecution):
                key = _key(message)
                self._clearing[key] = self._clearing.get(key, 0) + by
            elif isinstance(message, ContinueExecution):
                key = _key(message)
                count = self._continuing[key] = self._continuing.get(key, 0) + by
                if not count:
                    del self._continuing[key]

    def is_continued(self, key: ExecutionKey) -> bool:
        """Whether a ContinueExecution is in the inbox for it."""
        return key in self._continuing

    def next(self) -> int | None:
        """The number of the message at the head; None if there is none, or all wait."""
        for key in [key for key, count in self._clearing.items() if not count]:
            del self._clearing[key]
            for number in self._waiting.pop(key, ()):
                heappush(self._numbers, number)
        numbers = self._numbers
        while numbers:
            message = self._messages.get((numbers[0],))
            if message is not None:
                if not self._clearing or isinstance(message, ClearExecution) or _key(message) not in self._clearing:
                    return numbers[0]
                self._waiting.setdefault(_key(message), []).append(numbers[0])
            heappop(numbers)
        return None


def _key(message: Message) -> ExecutionKey:
    return (message.namespace, message.workflow_id)
