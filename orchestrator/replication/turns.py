"""What waits for its log entry: executions take turns, each with its own commands in their order.

One with thousands of tasks sends thousands of results, and whoever came after them would wait for all. So one command
is taken of each execution in turn, and none has more than its share under way: appended and not yet applied. The share
is larger while an execution has the log for itself, as large entries cost less. A command that concerns no execution
has a turn to itself.
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


class Shares(NamedTuple):
    """How many commands of one execution may be under way, and so in one entry."""

    alone: int  # after so many entries in which there was no other
    usual: int
    beside: int  # in an entry with all that somebody else wanted
    alone_after: int


class Taken(NamedTuple, Generic[T]):
    items: list[T]
    owners: dict[Owner, int]  # how many of each execution
    is_large: bool  # one of them has its full share
    since: float  # when the first of them began to wait for its turn


class _Line(Generic[T]):
    """What waits of one execution."""

    __slots__ = ("items", "since")

    def __init__(self, item: T, since: float) -> None:
        self.items = deque((item,))
        self.since = since  # waits for its turn


class Turns(Generic[T]):
    """The order in which what waits is taken."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._share = shares.usual
        self._lines: dict[Owner, _Line[T]] = {}
        self._turns: deque[Owner] = deque()  # of those that may be taken
        self._resting: set[Owner] = set()  # those that wait and have their share under way
        self._under_way: dict[Owner, int] = {}
        self._alone: Owner | None = None  # the only execution of the last entries
        self._entries_alone = 0
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
        self._queue_up(owner)

    def take(self, count_max: int, bytes_max: int, now: float) -> Taken[T]:
        """What goes into the next entry: under way until it is given back. The first may be of any size."""
        items: list[T] = []
        owners: dict[Owner, int] = {}
        sated: list[Owner] = []
        most, size, since = self._share, 0, now
        while self._turns and len(items) < count_max:
            owner = self._turns[0]
            line = self._lines[owner]
            size += len(line.items[0].data)
            if items and size > bytes_max:
                break
            self._turns.popleft()
            since = min(since, line.since)
            items.append(line.items.popleft())
            taken = owners.get(owner, 0) + 1
            if not line.items:
                del self._lines[owner]
                if taken == 1:
                    most = self._shares.beside
            if isinstance(owner, int):
                continue
            owners[owner] = taken
            self._under_way[owner] = self._under_way.get(owner, 0) + 1
            if not line.items:
                continue
            line.since = now
            if taken >= most:
                sated.append(owner)
            else:
                self._queue_up(owner)
        for owner in sated:
            self._queue_up(owner)
        self._count -= len(items)
        self._note_company(owners)
        return Taken(items, owners, max(owners.values(), default=0) >= self._shares.usual, since)

    def give_back(self, owners: Mapping[Owner, int], now: float) -> None:
        """What was taken together is under way no longer."""
        for owner, number in owners.items():
            left = self._under_way[owner] - number
            if left:
                self._under_way[owner] = left
            else:
                del self._under_way[owner]
            if owner in self._resting and left < self._share:
                self._resting.remove(owner)
                self._lines[owner].since = now
                self._turns.append(owner)

    def clear(self) -> list[T]:
        """Nothing waits any more; answers what did. What is under way stays so."""
        items = [item for line in self._lines.values() for item in line.items]
        self._lines.clear()
        self._turns.clear()
        self._resting.clear()
        self._count = 0
        return items

    def _queue_up(self, owner: Owner) -> None:
        if self._under_way.get(owner, 0) < self._share:
            self._turns.append(owner)
        else:
            self._resting.add(owner)

    def _note_company(self, owners: Mapping[Owner, int]) -> None:
        """Who has had the log for itself for a while has a larger share, until somebody else comes."""
        if not owners:
            return
        owner = next(iter(owners))
        is_alone = len(owners) == 1 and owner == self._alone
        self._entries_alone = self._entries_alone + 1 if is_alone else 0
        self._alone = owner
        self._share = self._shares.alone if self._entries_alone >= self._shares.alone_after else self._shares.usual
