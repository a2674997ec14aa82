"""The replicated state in memory: all resident rows, and the rows of hot executions.

Rows are the state; everything else here (indexes, what is unflushed, who was touched when) is derived and rebuilt from
rows, so a node that restored its rows goes on exactly as one that computed them. Which executions are hot, and when
rows are taken for flushing, is each node's own business and never changes a result.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import Any, Final, cast

from orchestrator.engine.blob_index import Blobs
from orchestrator.engine.definitions.model import TaskLimits
from orchestrator.engine.deliveries import Deliveries
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.messages import Message
from orchestrator.engine.model import (
    EXECUTION_TABLES,
    Execution,
    ExecutionKey,
    Meta,
    Row,
    RowKey,
    Table,
)
from orchestrator.engine.queues import Queues
from orchestrator.engine.resident import (
    Lease,
    Ready,
    Request,
    Session,
    TaskDefinitionRow,
    TaskRate,
    Timer,
    WaitingExecution,
    WorkflowDefinitionRow,
)
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.engine.triggers.index import Triggers

RESIDENT_TABLES = tuple(table for table in Table if table is not Table.META and table not in EXECUTION_TABLES)

_ROW_BYTES: Final = 700  # a small row in memory, for the estimate
_STALE_SLACK = 1024


Changed = dict[Table, dict[RowKey, bool]]
"""Each row that changed, with whether it was there before."""


def marks_in(changed: Changed, table: Table) -> dict[RowKey, bool]:
    """Those of one table, to add to."""
    found = changed.get(table)
    if found is None:
        found = changed[table] = {}
    return found


Change = tuple[Table, RowKey, Row | None, bool]
"""The row as it is now, None if it was deleted; and whether it existed when changes were last taken."""


class State:
    """All replicated state of one partition, as far as it is in memory."""

    def __init__(self, cluster_id: str, recovery_epoch: int) -> None:
        self.cluster_id = cluster_id
        self.recovery_epoch = recovery_epoch
        self.meta = Meta()
        self.resident: dict[Table, dict[RowKey, Any]] = {table: {} for table in RESIDENT_TABLES}
        self.leases = cast(dict[RowKey, Lease], self.resident[Table.LEASE])
        self.ready = cast(dict[RowKey, Ready], self.resident[Table.READY])
        self.sessions = cast(dict[RowKey, Session], self.resident[Table.SESSION])
        self.timers = cast(dict[RowKey, Timer], self.resident[Table.TIMER])
        self.messages = cast(dict[RowKey, Message], self.resident[Table.MESSAGE])
        self.waiting = cast(dict[RowKey, WaitingExecution], self.resident[Table.WAITING])
        self.task_rates = cast(dict[RowKey, TaskRate], self.resident[Table.TASK_RATE])
        self.deliveries = Deliveries(self.messages)
        self.queues = Queues(self.ready)
        self.triggers = Triggers(self.resident)
        self.blobs = Blobs()
        self.leases_of: dict[str, dict[int, None]] = {}  # session id -> tokens
        self.leased: dict[tuple[str, str], int] = {}  # (namespace, task name) -> leases
        self.task_limits: dict[tuple[str, str], TaskLimits] = {}  # of registered definitions, once asked for
        self.highest_version: dict[tuple[str, str], list[int]] = {}  # (namespace, name) -> versions
        self.plans: dict[bytes, Any] = {}  # digest of a bundle -> what it compiles to
        self.bundles_made: dict[Any, tuple[bytes, bytes]] = {}  # definition -> (digest, document) at this moment
        self._waiting_of: dict[bytes, list[int]] = {}  # group -> numbers, as a heap
        self._due: list[tuple[int, int]] = []
        self._requests: list[tuple[int, str]] = []
        self._live: OrderedDict[ExecutionKey, ExecutionState] = OrderedDict()
        self._ended: OrderedDict[ExecutionKey, ExecutionState] = OrderedDict()
        # What has changed, and whether the database has it: rows of executions by table and number, and all others.
        self._unflushed_of: dict[ExecutionKey, dict[tuple[Table, int], bool]] = {}
        self.unflushed: Changed = {}
        self._gone: dict[ExecutionKey, None] = {}  # deleted, and the database may not know it yet
        self.hot_bytes = 0

    # --- restoring and the hot set

    def restore(self, table: Table, key: RowKey, row: Row) -> None:
        """At start: each resident row, in any order; then `restore_done`."""
        self.write(table, key, row)

    def restore_done(self) -> None:
        for versions in self.highest_version.values():
            versions.sort()
        self._unflushed_of.clear()
        self.unflushed.clear()

    def take_definitions(self, other: State) -> None:
        """What is registered there is registered here, too, as it is now, and means the same; not to be flushed."""
        self.meta.behaviour_level = other.meta.behaviour_level
        for table in (Table.WORKFLOW_DEFINITION, Table.TASK_DEFINITION, Table.SCHEMA):
            self.resident[table] = dict(other.resident[table])
        self.highest_version = {key: list(versions) for key, versions in other.highest_version.items()}
        self.bundles_made.clear()
        self.task_limits.clear()

    def admit(self, key: ExecutionKey, rows: Iterable[tuple[Table, RowKey, Row]]) -> None:
        """A cold execution becomes hot: all its rows, in any order."""
        if self.is_known(key):
            return
        ordered = sorted(rows, key=lambda item: (item[0], item[1]))
        for table, row_key, row in ordered:
            self.write(table, row_key, row)
        self.touch(key)

    def is_hot(self, key: ExecutionKey) -> bool:
        return key in self._live or key in self._ended

    def is_known(self, key: ExecutionKey) -> bool:
        """Whether nothing is to be read of it: it is hot, or was deleted since changes were last taken."""
        return key in self._live or key in self._ended or key in self._gone

    def execution(self, key: ExecutionKey) -> ExecutionState | None:
        """The rows of a hot execution; None for one that is cold or does not exist."""
        hot = self._live.get(key)
        return self._ended.get(key) if hot is None else hot

    def evict(self, key: ExecutionKey) -> bool:
        """Lets a hot execution go cold; False while it has changes that were not taken."""
        hot = self.execution(key)
        if hot is None:
            return True
        if hot.dirty:
            return False
        self._live.pop(key, None)
        self._ended.pop(key, None)
        self.hot_bytes -= hot.size
        return True

    def eviction_candidates(self, limit: int) -> list[ExecutionKey]:
        """Ended executions first, each kind from the least recently touched on; only such as can be evicted."""
        found: list[ExecutionKey] = []
        for group in (self._ended, self._live):
            for key, hot in group.items():
                if len(found) >= limit:
                    return found
                if not hot.dirty:
                    found.append(key)
        return found

    @property
    def hot_count(self) -> int:
        return len(self._live) + len(self._ended)

    def hot_keys(self) -> list[ExecutionKey]:
        """The keys of all hot executions, sorted."""
        return sorted((*self._live, *self._ended))

    def hot_executions(self) -> list[tuple[ExecutionKey, ExecutionState]]:
        """All hot executions, by key."""
        return sorted((*self._live.items(), *self._ended.items()), key=itemgetter(0))

    def touch(self, key: ExecutionKey) -> None:
        """Notes that the execution was used, and corrects the estimate of its size."""
        group = self._live
        hot = group.get(key)
        if hot is None:
            group = self._ended
            hot = group.get(key)
            if hot is None:
                return
        x = hot.execution
        wanted = self._ended if x.status in WORKFLOW_TERMINAL else self._live
        if wanted is group:
            group.move_to_end(key)
        else:
            del group[key]
            wanted[key] = hot
        rows = 2 + len(hot.tasks) + len(hot.records) + len(hot.signals) + len(hot.payloads) + len(hot.logs)
        rows += len(hot.expansions)
        size = rows * _ROW_BYTES + x.payload_bytes + x.log_bytes
        self.hot_bytes += size - hot.size
        hot.size = size

    # --- writing

    def write(self, table: Table, key: RowKey, row: Any) -> Any:
        """Puts or deletes one row, corrects the indexes, and answers what was there before."""
        rows = self.resident.get(table)
        if rows is None:
            return self._write_hot(table, key, row)
        old = rows.get(key)
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
        # Those that nearly every step writes first.
        if table is Table.LEASE:
            self._lease_changed(old, row)
        elif table is Table.SESSION:
            self.queues.session_changed(old, row)
        elif table is Table.READY:
            self.queues.ready_changed(old, row)
        elif table is Table.MESSAGE:
            self.deliveries.changed(cast(int, key[0]), old, row)
        elif table in _INDEXES:
            _INDEXES[table](self, old, row)
        return old

    def _write_hot(self, table: Table, key: RowKey, row: Any) -> Any:
        if table is Table.META:
            before, self.meta = self.meta, row
            return before
        execution_key = cast(ExecutionKey, key[:2])
        hot = self.execution(execution_key)
        if table is Table.EXECUTION:
            return self._write_execution(execution_key, hot, row)
        assert hot is not None
        if table is Table.TASK:
            return hot.put_task(cast(int, key[2]), row)
        rows = hot.rows(table)
        old = rows.get(key[2])
        if row is None:
            rows.pop(key[2], None)
        else:
            rows[key[2]] = row
        return old

    def _write_execution(
        self, key: ExecutionKey, hot: ExecutionState | None, row: Execution | None
    ) -> Execution | None:
        if hot is None:
            if row is not None:
                self._live[key] = ExecutionState(row)
                self._gone.pop(key, None)
            return None
        before = hot.execution
        if row is None:
            self._live.pop(key, None)
            self._ended.pop(key, None)
            self._gone[key] = None
            self.hot_bytes -= hot.size
        else:
            hot.execution = row
        return before

    def put_back(self, key: ExecutionKey, before: ExecutionState) -> None:
        """An execution that was deleted is there again, its rows written; it is as hot as it was."""
        hot = self.execution(key)
        assert hot is not None
        hot.dirty = before.dirty
        self.touch(key)

    # --- what the database does not have yet

    def mark_row(self, table: Table, key: RowKey, existed: bool) -> None:
        """A committed step has changed the row, which is one of an execution's."""
        number = 0 if table is Table.EXECUTION else cast(int, key[2])
        self.marks_of(cast(ExecutionKey, key[:2])).setdefault((table, number), existed)

    def marks_of(self, key: ExecutionKey) -> dict[tuple[Table, int], bool]:
        """The marks of an execution's rows, to which a committed step adds what it has changed."""
        marks = self._unflushed_of.get(key)
        if marks is None:
            marks = self._unflushed_of[key] = {}
            hot = self.execution(key)
            if hot is not None:
                hot.dirty = True
        return marks

    def read(self, table: Table, key: RowKey) -> Any:
        """The row as it is; None if it does not exist or its execution is cold."""
        rows = self.resident.get(table)
        if rows is not None:
            return rows.get(key)
        if table is Table.META:
            return self.meta
        hot = self.execution(cast(ExecutionKey, key[:2]))
        if hot is None:
            return None
        if table is Table.EXECUTION:
            return hot.execution
        return hot.rows(table).get(cast(int, key[2]))

    @property
    def unflushed_residents(self) -> int:
        """How many rows of no execution have changed since changes were last taken."""
        return sum(len(of_table) for of_table in self.unflushed.values())

    def take_changes(self) -> list[Change]:
        """Each row that changed since the last call, once: execution by execution, then all others.

        Until what was taken is in the database, its executions must not be evicted: the caller sees to that.
        """
        changes: list[Change] = []
        for key, marks in self._unflushed_of.items():
            hot = self.execution(key)
            if hot is not None:
                hot.dirty = False
            for (table, number), existed in marks.items():
                row = None if hot is None else hot.row(table, number)
                if row is not None or existed:
                    changes.append((table, key if table is Table.EXECUTION else (*key, number), row, existed))
        for table, of_table in self.unflushed.items():
            for row_key, existed in of_table.items():
                row = self.read(table, row_key)
                if row is not None or existed:
                    changes.append((table, row_key, row, existed))
        self._unflushed_of.clear()
        self.unflushed.clear()
        self._gone.clear()
        return changes

    # --- derived orders

    def next_message(self) -> int | None:
        """The number of the message that is taken up next."""
        return self.deliveries.next()

    def next_timer(self) -> Timer | None:
        """The timer that is due first."""
        while self._due:
            fire_ms, number = self._due[0]
            timer = self.timers.get((number,))
            if timer is not None and timer.fire_ms == fire_ms:
                return timer
            heappop(self._due)
        return None

    def next_waiting(self, group: bytes) -> WaitingExecution | None:
        """The execution of the group that has waited for the longest time."""
        numbers = self._waiting_of.get(group)
        while numbers:
            row = self.waiting.get((numbers[0],))
            if row is not None and row.group == group:
                return row
            heappop(numbers)
        self._waiting_of.pop(group, None)
        return None

    def oldest_request(self) -> Request | None:
        requests = self.resident[Table.REQUEST]
        while self._requests:
            row = requests.get((self._requests[0][1],))
            if row is not None and row.time_ms == self._requests[0][0]:
                return cast(Request, row)
            heappop(self._requests)
        return None

    def _lease_changed(self, old: Lease | None, new: Lease | None) -> None:
        if old is not None and new is None:
            self._count_lease(old, -1)
            tokens = self.leases_of[old.session_id]
            del tokens[old.token]
            if not tokens:
                del self.leases_of[old.session_id]
        elif old is None and new is not None:
            self._count_lease(new, 1)
            held = self.leases_of.get(new.session_id)
            if held is None:
                held = self.leases_of[new.session_id] = {}
            held[new.token] = None

    def _count_lease(self, lease: Lease, by: int) -> None:
        key = (lease.namespace, lease.name)
        count = self.leased[key] = self.leased.get(key, 0) + by
        if not count:
            del self.leased[key]

    def _timer_changed(self, old: Timer | None, new: Timer | None) -> None:
        if new is None:
            return
        heappush(self._due, (new.fire_ms, new.number))
        if len(self._due) > 2 * len(self.timers) + _STALE_SLACK:
            # Most timers never fire: they are disarmed when what they watch ends in time.
            self._due = [(timer.fire_ms, timer.number) for timer in self.timers.values()]
            heapify(self._due)

    def _request_changed(self, old: Request | None, new: Request | None) -> None:
        if new is not None:
            heappush(self._requests, (new.time_ms, new.id))

    def _definition_changed(self, old: WorkflowDefinitionRow | None, new: WorkflowDefinitionRow | None) -> None:
        self.bundles_made.clear()
        row = new or old
        assert row is not None
        versions = self.highest_version.setdefault((row.namespace, row.name), [])
        if new is None:
            versions.remove(row.version)
            if not versions:
                del self.highest_version[row.namespace, row.name]
        elif old is None:
            versions.append(row.version)
            versions.sort()

    def _task_definition_changed(self, old: TaskDefinitionRow | None, new: TaskDefinitionRow | None) -> None:
        self.bundles_made.clear()
        row = new or old
        assert row is not None
        self.task_limits.pop((row.namespace, row.name), None)

    def _schema_changed(self, old: Any, new: Any) -> None:
        self.bundles_made.clear()

    def _waiting_changed(self, old: WaitingExecution | None, new: WaitingExecution | None) -> None:
        if new is not None:
            heappush(self._waiting_of.setdefault(new.group, []), new.number)

    def _bundle_changed(self, old: Any, new: Any) -> None:
        if new is None and old is not None:
            self.plans.pop(old.digest, None)


_INDEXES: Final[dict[Table, Any]] = {
    Table.TIMER: State._timer_changed,
    Table.REQUEST: State._request_changed,
    Table.WORKFLOW_DEFINITION: State._definition_changed,
    Table.TASK_DEFINITION: State._task_definition_changed,
    Table.BUNDLE: State._bundle_changed,
    Table.SCHEMA: State._schema_changed,
    Table.WAITING: State._waiting_changed,
    Table.SCHEDULED: lambda state, old, new: state.triggers.scheduled_changed(old, new),
    Table.SCHEDULE: lambda state, old, new: state.triggers.schedule_changed(old, new),
    Table.EVENT_HANDLER: lambda state, old, new: state.triggers.handler_changed(old, new),
    Table.EVENT: lambda state, old, new: state.triggers.event_changed(old, new),
    Table.EVENT_SEEN: lambda state, old, new: state.triggers.seen_changed(old, new),
    Table.STREAM: lambda state, old, new: state.triggers.stream_changed(old, new),
    Table.OUTBOX: lambda state, old, new: state.triggers.owed.changed(old, new),
    Table.AWAITING: lambda state, old, new: state.triggers.awaited.waiter_changed(old, new),
    Table.KEPT_EVENT: lambda state, old, new: state.triggers.awaited.kept_changed(old, new),
    Table.TRAIL: lambda state, old, new: state.triggers.trail.changed(old, new),
    Table.BLOB: lambda state, old, new: state.blobs.changed(old, new),
}
