"""What the services ask of the node: submit a command, read at a point in the log, wait for a change.

The composition root makes one `Backend`; tests may make another.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, overload

import grpc

from orchestrator.engine.commands import AnyCommand, RequestIdentity
from orchestrator.engine.effects import Cancel
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import (
    Execution,
    Expansion,
    PayloadRow,
    Row,
    RowKey,
    SagaRecord,
    Signal,
    Table,
    TaskAttempt,
    TaskLog,
)
from orchestrator.engine.resident import Lease
from orchestrator.engine.results import AnyResult, Rejected
from orchestrator.engine.state import State
from orchestrator.file_watch import OffLoop
from orchestrator.replication.configuration import Member
from orchestrator.replication.errors import NotLeader, Overloaded
from orchestrator.replication.release import THIS_RELEASE, Release
from orchestrator.rpc.blob_access import BlobAccess
from orchestrator.rpc.errors import Addresses, RpcFailure, invalid, rejected
from orchestrator.rpc.handing_out import HandOut
from orchestrator.rpc.large_payloads import LargePayloads
from orchestrator.rpc.runtime_metadata import Source
from orchestrator.rpc.scripts import CheckSource, Evaluate, unchecked, unevaluated
from orchestrator.sealing.secret_values import SecretValues, without_keys
from orchestrator.storage.backups import OpenBackup
from orchestrator.storage.search import ExecutionFilter, Page
from orchestrator.storage.task_search import TaskFilter, TaskPage
from orchestrator_api.v1 import common_pb2

R = TypeVar("R", bound=AnyResult)

DEFAULT_NAMESPACE = "default"


class Stream(Protocol):
    def deliver(self, lease: Lease) -> None: ...

    def cancel(self, effect: Cancel) -> None: ...

    def go_away(self, reason: str) -> None: ...


class Dispatch(Protocol):
    """The leader's dispatcher."""

    def next_generation(self) -> int: ...

    def attach(self, session_id: str, stream: Stream, held: set[int]) -> None: ...

    def detach(self, session_id: str, stream: Stream) -> None: ...


class Signs(Protocol):
    """Where signs of life go."""

    def session_seen(self, session_id: str) -> None: ...

    def attempt_seen(self, token: int) -> None: ...

    def attempts_seen(self, session_id: str) -> None: ...


class Watcher(Protocol):
    """What is set after changes: an event, or what else is to be told."""

    def set(self) -> None: ...


class Changes(Protocol):
    """Sets events and other watchers after changes."""

    def execution(
        self, namespace: str, workflow_id: str, event: asyncio.Event | None = None
    ) -> AbstractAsyncContextManager[asyncio.Event]: ...

    def queues(self, keys: list[tuple[str, str, str]]) -> AbstractAsyncContextManager[asyncio.Event]: ...

    def watch_execution(self, namespace: str, workflow_id: str, watcher: Watcher) -> None: ...

    def unwatch_execution(self, namespace: str, workflow_id: str, watcher: Watcher) -> None: ...

    def watch_leadership(self, watcher: Watcher) -> None: ...

    def unwatch_leadership(self, watcher: Watcher) -> None: ...


class Log(Protocol):
    """The part of the replicated log that reads, and changes of the members, need."""

    @property
    def term(self) -> int: ...

    @property
    def leader(self) -> str | None: ...

    async def barrier(self) -> int: ...

    async def wait_leader(self, timeout_s: float) -> str | None: ...

    def status(self) -> Any: ...

    def candidates(self) -> dict[str, Member]: ...

    async def add_member(self, name: str, incarnation: str, address: str) -> None: ...

    async def remove_member(self, name: str) -> None: ...

    async def replace_member(self, name: str, incarnation: str, address: str | None = None) -> None: ...

    async def transfer_leadership(self, among: Container[str] | None = None) -> bool: ...


class Search(Protocol):
    """One page of everything acknowledged."""

    @overload
    async def __call__(self, wanted: ExecutionFilter, *, page_size: int, page_token: str) -> Page: ...

    @overload
    async def __call__(self, wanted: TaskFilter, *, page_size: int, page_token: str) -> TaskPage: ...


class InService(Protocol):
    """Whether this node takes part in more than votes and acknowledgements."""

    @property
    def is_drained(self) -> bool: ...

    async def drain(self) -> None: ...

    async def undrain(self) -> None: ...


class BackupSource(Protocol):
    """The node's database, for whoever keeps copies of it."""

    def open(self) -> AbstractAsyncContextManager[OpenBackup]: ...


class StreamsKnown(Protocol):
    """What a node that was told where Redis is knows of its streams; of each of them, only while it leads."""

    @property
    def connected(self) -> bool: ...

    @property
    def last_error(self) -> str:
        """Why it is not connected; "" if it is."""

    def group_of(self, namespace: str) -> str:
        """The consumer group by which the streams are read that the namespace handles."""

    def error_out(self, stream: str) -> str:
        """Why the stream takes no events at the moment; "" if it does, as far as is known."""

    def error_in(self, namespace: str, event: str) -> str:
        """Why nothing of the stream is read or taken up at the moment; "" if all is well, as far as is known."""

    def lag(self, namespace: str, event: str) -> int | None:
        """How many entries of the stream were not read yet, if that is known."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The node, as the services see it."""

    node: str
    cluster_id: str
    members: Mapping[str, str]  # peer addresses by node name, as this node was initialised
    log: Log
    addresses: Addresses
    dispatch: Dispatch
    signs: Signs
    changes: Changes
    state: Callable[[], State]
    leading: Callable[[], bool]  # this node leads and has applied everything before its term
    submit_any: Callable[[AnyCommand, RequestIdentity | None], Awaitable[AnyResult]]
    applied_index: Callable[[], int]
    wait_applied: Callable[[int], Awaitable[None]]
    load: Callable[[str, str], Awaitable[Sequence[tuple[Table, RowKey, Row]]]]
    search: Search
    peers: Callable[[], dict[str, dict[str, Any]]]  # what the other nodes last said of themselves
    log_time_ms: Callable[[], int]  # now; the last entry may be of long ago
    refusal: Callable[[], Overloaded | None] = lambda: None  # of a start that comes now: before anything is done for it
    service: InService | None = None  # without one it can't be drained
    backups: BackupSource | None = None  # of this node's database; without one there are none
    check_source: CheckSource = unchecked  # of scripts that are registered
    evaluate: Evaluate = unevaluated  # scripts and queries, outside of this process
    secrets: SecretValues = field(default_factory=without_keys)  # sealed and opened with this node's keys
    release: Release = THIS_RELEASE  # what this node runs
    has_failed: Callable[[], bool] = lambda: False  # this node stops itself
    free_disk_bytes: Callable[[], int] = int  # on the disk of this node's data
    clock_skews_ms: Callable[[], Mapping[str, int]] = dict  # by node, as far as they are known
    streams: StreamsKnown | None = None  # of a node without Redis: None
    blobs: BlobAccess | None = None  # where large values are; without one they are refused
    off_loop: OffLoop = asyncio.to_thread  # runs what takes long
    others: tuple[Source, ...] = ()  # where values of runtimeMetadata are that are no secrets
    hand_out: HandOut = field(init=False)  # what goes out with attempts, and must not come back
    large: LargePayloads = field(init=False)  # through which all commands go

    def __post_init__(self) -> None:
        object.__setattr__(self, "hand_out", HandOut(self.state, self.secrets, *self.others))
        large = LargePayloads(self.blobs, self.submit_any, self.state, self.off_loop)
        object.__setattr__(self, "large", large)
        object.__setattr__(self, "submit_any", large.submit)

    async def submit(
        self, command: AnyCommand, expected: type[R], identity: RequestIdentity | None = None
    ) -> R:
        """The command's result. Raises RpcFailure if it is rejected, and what the sequencer raises."""
        result = await self.submit_any(command, identity)
        if isinstance(result, Rejected):
            raise rejected(result)
        if not isinstance(result, expected):
            raise TypeError(f"{type(command).__name__} answered {type(result).__name__}")
        return result

    async def read_point(self, options: common_pb2.ReadOptions) -> None:
        """Returns once this node's state is as fresh as the options demand. Raises NotLeader, LostLeadership."""
        self.require_sound()
        if options.consistency_token:
            await self.wait_applied(_index_of(options.consistency_token))
        if not options.stale_ok:
            await self.wait_applied(await self.log.barrier())

    async def execution(self, namespace: str, workflow_id: str) -> ExecutionState | None:
        """The execution as this node has applied it, from memory or from the database."""
        key = (namespace, workflow_id)
        rows: Sequence[tuple[Table, RowKey, Row]] = ()
        if not self.state().is_known(key):
            rows = await self.load(namespace, workflow_id)
        # It may have become hot, and moved on, or have been deleted, while it was being read.
        held = self.state().execution(key)
        if held is None and rows and not self.state().is_known(key):
            held = assembled(rows)
        return None if held is None or held.execution.deleted else held

    def require_leading(self) -> None:
        """Raises NotLeader unless this node leads."""
        if not self.leading():
            raise NotLeader(self.log.leader)

    def require_sound(self) -> None:
        """Raises RpcFailure when this node has stopped itself: what it would say may be wrong."""
        if self.has_failed():
            message = "this node has stopped itself; its log says why"
            raise RpcFailure(grpc.StatusCode.UNAVAILABLE, "NODE_STOPPED", message, self.addresses.hint())

    def token(self) -> str:
        """Demands, in a later read, at least what this node has applied now."""
        return base64.urlsafe_b64encode(b"1" + self.applied_index().to_bytes(8, "big")).decode()


def assembled(rows: Sequence[tuple[Table, RowKey, Row]]) -> ExecutionState:
    """The rows of a cold execution, header first, as a state to read."""
    header = rows[0][2]
    if not isinstance(header, Execution):
        raise TypeError(f"the first row of an execution is a {type(header).__name__}")
    held = ExecutionState(header)
    for _, key, row in rows[1:]:
        number = key[2]
        match row:
            case TaskAttempt():
                held.put_task(row.sequence, row)
            case SagaRecord():
                held.records[row.number] = row
            case Signal():
                held.signals[row.number] = row
            case PayloadRow() if isinstance(number, int):
                held.payloads[number] = row
            case TaskLog():
                held.logs[row.number] = row
            case Expansion():
                held.expansions[row.number] = row
            case _:
                raise TypeError(f"{type(row).__name__} is no row of an execution")
    return held


def _index_of(token: str) -> int:
    try:
        raw = base64.urlsafe_b64decode(token.encode())
    except ValueError:
        raw = b""
    if len(raw) != 9 or raw[:1] != b"1":
        raise invalid("read.consistency_token", "not a token of this cluster")
    return int.from_bytes(raw[1:], "big")
