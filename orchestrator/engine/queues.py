"""Who gets what next: ready attempts by queue and sessions by pool, as heaps over the resident rows.

Everything here is derived: rebuilt from READY and SESSION rows at start, corrected with each row that changes. Entries
of heaps are deleted lazily: one counts only while it says the same as the row. Answers depend on rows alone, never on
the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from orchestrator.engine import system
from orchestrator.engine.model import RowKey, SessionKind
from orchestrator.engine.resident import Ready, Session

QueueKey = tuple[str, str, str]
"""(namespace, domain, queue): called like its task, unless the task's definition adds an execution namespace or an
isolation group; for system work (NAMESPACE, "", queue), whatever namespace the execution is in"""

_PoolKey = tuple[str, str, tuple[str, ...]]
_STALE_SLACK: Final = 64
_FEW: Final = 4


class _Pool:
    """Sessions that serve the same task names in one domain: looked through while they are few, else as a heap."""

    __slots__ = ("domain", "heap", "is_heap", "members", "names", "namespace")

    def __init__(self, key: _PoolKey) -> None:
        self.namespace, self.domain, self.names = key
        self.heap: list[tuple[int, int, str]] = []
        self.is_heap = False  # whether the heap is kept
        self.members: dict[str, Session] = {}

    def is_of(self, session: Session) -> bool:
        """Whether the session belongs here. One that is changed mostly has the very same names."""
        names = session.task_names
        if names is not self.names and names != self.names:
            return False
        return session.namespace == self.namespace and session.domain == self.domain

    def put(self, session: Session) -> None:
        self.members[session.id] = session
        if len(self.members) <= _FEW:
            self.is_heap = False
        elif not self.is_heap or len(self.heap) > 4 * len(self.members) + _STALE_SLACK:
            self.heap = [_rank(member) for member in self.members.values() if _takes_leases(member)]
            heapify(self.heap)
            self.is_heap = True
        elif _takes_leases(session):
            heappush(self.heap, _rank(session))

    def best(self) -> tuple[int, int, str] | None:
        if not self.is_heap:
            return self._best_of_few()
        heap = self.heap
        while heap:
            session = self.members.get(heap[0][2])
            if session is not None and _takes_leases(session) and _rank(session) == heap[0]:
                return heap[0]
            heappop(heap)
        return None

    def _best_of_few(self) -> tuple[int, int, str] | None:
        best: tuple[int, int, str] | None = None
        for session in self.members.values():
            if _takes_leases(session):
                rank = _rank(session)
                if best is None or rank < best:
                    best = rank
        return best


def queue_of(row: Ready) -> QueueKey:
    """Where the attempt waits."""
    if system.is_queue(row.name):
        return (system.NAMESPACE, "", row.name)
    return (row.namespace, row.domain, row.queue or row.name)


def _rank(session: Session) -> tuple[int, int, str]:
    # Most free slots first; sessions with equally many take turns.
    return (session.used - session.slots, session.last_token, session.id)


def _takes_leases(session: Session) -> bool:
    return session.kind is SessionKind.STREAM and session.slots > session.used


class Queues:
    """The index over READY and SESSION rows."""

    def __init__(self, ready: dict[RowKey, Ready]) -> None:
        self._ready = ready
        self._queues: dict[QueueKey, list[tuple[int, int]]] = {}
        self._counts: dict[QueueKey, int] = {}
        self._domains: dict[tuple[str, str], dict[str, None]] = {}  # (namespace, queue) -> those with a ready attempt
        # (namespace, task name) -> queues of other names that have ready attempts of the task, and how many
        self._apart: dict[tuple[str, str], dict[QueueKey, int]] = {}
        self._pools: dict[_PoolKey, _Pool] = {}
        self._servers: dict[QueueKey, dict[_PoolKey, _Pool]] = {}
        self._pool_of: dict[str, _Pool] = {}  # session id -> its pool

    def ready_changed(self, old: Ready | None, new: Ready | None) -> None:
        row = new or old
        if row is None or (old is not None and new is not None):
            return
        queue = namespace, domain, name = queue_of(row)
        if row.queue:
            self._count_apart(queue, row.name, 1 if new is not None else -1)
        count = self._counts[queue] = self._counts.get(queue, 0) + (1 if new is not None else -1)
        if new is None:
            # Its entry is seen to be stale when it comes to the head.
            if not count:
                del self._counts[queue]
                domains = self._domains[namespace, name]
                del domains[domain]
                if not domains:
                    del self._domains[namespace, name]
            return
        if count == 1:
            self._domains.setdefault((namespace, name), {})[domain] = None
        heap = self._queues.setdefault(queue, [])
        heappush(heap, (-row.priority, row.number))
        if len(heap) > 2 * count + _STALE_SLACK:
            heap[:] = [entry for entry in heap if self._row_of(queue, entry) is not None]
            heapify(heap)

    def _count_apart(self, queue: QueueKey, task_name: str, by: int) -> None:
        queues = self._apart.setdefault((queue[0], task_name), {})
        queues[queue] = queues.get(queue, 0) + by
        if not queues[queue]:
            del queues[queue]
            if not queues:
                del self._apart[queue[0], task_name]

    def session_changed(self, old: Session | None, new: Session | None) -> None:
        if old is not None and new is not None:
            pool = self._pool_of[old.id]
            if pool.is_of(new):
                pool.put(new)
                return
        if old is not None:
            self._leave(old)
        if new is not None:
            self._enter(new)

    def _enter(self, session: Session) -> None:
        key = _pool_key(session)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(key)
            for name in session.task_names:
                self._servers.setdefault((session.namespace, session.domain, name), {})[key] = pool
        self._pool_of[session.id] = pool
        pool.put(session)

    def _leave(self, session: Session) -> None:
        key = _pool_key(session)
        pool = self._pool_of.pop(session.id)
        del pool.members[session.id]
        if pool.members:
            return
        del self._pools[key]
        for name in session.task_names:
            queue = (session.namespace, session.domain, name)
            del self._servers[queue][key]
            if not self._servers[queue]:
                del self._servers[queue]

    def head(self, queue: QueueKey) -> Ready | None:
        """The attempt that is leased next: the highest priority, then the one that waits longest."""
        heap = self._queues.get(queue)
        if heap is None:
            return None
        while heap:
            row = self._row_of(queue, heap[0])
            if row is not None:
                return row
            heappop(heap)
        del self._queues[queue]
        return None

    def _row_of(self, queue: QueueKey, entry: tuple[int, int]) -> Ready | None:
        """The row that the entry is of, if there is one: a step that was discarded leaves its numbers to the next."""
        priority, number = entry
        row = self._ready.get((number,))
        if row is None or queue_of(row) != queue or -row.priority != priority:
            return None
        return row

    def best_session(self, queue: QueueKey) -> str | None:
        """The session with the most free slots of those that serve the queue."""
        pools = self._servers.get(queue)
        if pools is None:
            return None
        # The least of ranks that all differ: the order of the pools does not matter.
        best: tuple[int, int, str] | None = None
        for pool in pools.values():
            rank = pool.best()
            if rank is not None and (best is None or rank < best):
                best = rank
        return None if best is None else best[2]

    def serves(self, queue: QueueKey) -> bool:
        return queue in self._servers

    def named(self, namespace: str, name: str) -> list[QueueKey]:
        """The queues that have a ready attempt of the task, in all domains, sorted."""
        domains = self._domains.get((namespace, name))
        queues = [(namespace, domain, name) for domain in sorted(domains)] if domains else []
        apart = self._apart.get((namespace, name))
        return queues if apart is None else sorted({*queues, *apart})

    def best_ready(
        self, namespace: str, domain: str, names: tuple[str, ...], has_room: Callable[[Ready], bool]
    ) -> Ready | None:
        """The attempt that a worker of these task names is to get next; `has_room`: no limit holds it back."""
        best: Ready | None = None
        if len(names) > len(self._queues):
            wanted = frozenset(names)
            queues = [key for key in self._queues if key[0] == namespace and key[1] == domain and key[2] in wanted]
        else:
            queues = [(namespace, domain, name) for name in names]
        for queue in queues:
            row = self.head(queue)
            if row is None or not has_room(row):
                continue
            if best is None or (-row.priority, row.number) < (-best.priority, best.number):
                best = row
        return best

    def counts(self) -> dict[QueueKey, float]:
        """How many ready attempts each queue has that has any."""
        return dict(self._counts)

    def waiting(self) -> list[QueueKey]:
        """The queues that have a ready attempt, sorted."""
        return [queue for queue in sorted(self._queues) if self.head(queue) is not None]


def _pool_key(session: Session) -> _PoolKey:
    return (session.namespace, session.domain, session.task_names)
