"""What waits for its log entry: executions take turns, each with its own commands in their order.

One with thousands of tasks sends thousands of results, and whoever came after them would wait for all. So one command
is taken of each execution in turn, and none has more than its share of an entry, or of what is under way: appended and
not yet applied. A command that concerns no execution has a turn to itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import Generic, NamedTuple, Protocol, TypeVar

from orchestrator.engine.model import ExecutionKey

Owner = ExecutionKey | int
"""An execution, or the number of a command that concerns none."""


class Item(Protocol):
    """Something that waits."""

    @property
    def data(self) -> bytes: ...


T = TypeVar("T", bound=Item)


class Taken(NamedTuple, Generic[T]):
    items: list[T]
    owners: dict[Owner, int]  # how many of each execution


class _Line(Generic[T]):
    """What waits of one execution."""

    __slots__ = ("items", "since")

    def __init__(self, item: T, since: float) -> None:
        self.items = deque((item,))
        self.since = since  # waits for its turn


class Turns(Generic[T]):
    """The order in which what waits is taken."""

    def __init__(self, *, share_of_entry: int, share_under_way: int) -> None:
        self._share_of_entry = share_of_entry
        self._share_under_way = share_under_way
        self._lines: dict[Owner, _Line[T]] = {}
        self._turns: deque[Owner] = deque()  # of those that may be taken
        self._under_way: dict[Owner, int] = {}
        self._numbers = count()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_any_due(self) -> bool:
        """Whether something may be taken now: what waits may all have its share under way."""
        return bool(self._turns)

    @property
    def waiting_since(self) -> float | None:
        """When that which is next began to wait for its turn."""
        return self._lines[self._turns[0]].since if self._turns else None

    def put(self, execution: ExecutionKey | None, item: T, now: float) -> None:
        owner: Owner = next(self._numbers) if execution is None else execution
        self._count += 1
        line = self._lines.get(owner)
        if line is not None:
            line.items.append(item)
            return
        self._lines[owner] = _Line(item, now)
        if self._under_way.get(owner, 0) < self._share_under_way:
            self._turns.append(owner)

    def take(self, count_max: int, bytes_max: int, now: float) -> Taken[T]:
        """What goes into the next entry: under way until it is given back. The first may be of any size."""
        items: list[T] = []
        owners: dict[Owner, int] = {}
        sated: list[Owner] = []
        size = 0
        while self._turns and len(items) < count_max:
            owner = self._turns[0]
            line = self._lines[owner]
            size += len(line.items[0].data)
            if items and size > bytes_max:
                break
            self._turns.popleft()
            items.append(line.items.popleft())
            if not line.items:
                del self._lines[owner]
            if isinstance(owner, int):
                continue
            owners[owner] = owners.get(owner, 0) + 1
            under_way = self._under_way[owner] = self._under_way.get(owner, 0) + 1
            if not line.items or under_way >= self._share_under_way:
                continue
            line.since = now
            (sated if owners[owner] >= self._share_of_entry else self._turns).append(owner)
        self._turns.extend(sated)
        self._count -= len(items)
        return Taken(items, owners)

    def give_back(self, owners: Mapping[Owner, int], now: float) -> None:
        """What was taken together is under way no longer."""
        for owner, number in owners.items():
            before = self._under_way[owner]
            if before > number:
                self._under_way[owner] = before - number
            else:
                del self._under_way[owner]
            line = self._lines.get(owner) if before >= self._share_under_way else None
            if line is not None:
                line.since = now
                self._turns.append(owner)

    def clear(self) -> list[T]:
        """Nothing waits any more; answers what did. What is under way stays so."""
        items = [item for line in self._lines.values() for item in line.items]
        self._lines.clear()
        self._turns.clear()
        self._count = 0
        return items
