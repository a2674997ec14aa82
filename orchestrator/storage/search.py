"""Search over executions: newest start first, page by page, within limits of time and of results.

It sees what is committed: whoever needs it to see everything acknowledged flushes first. Pages follow the start time
and the workflow id, which are the same on every node; so a token taken from one node is good on another.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

import apsw
import msgspec

from orchestrator.engine.model import CompensationState, Execution, Table, WorkflowStatus
from orchestrator.storage.database import Database
from orchestrator.storage.errors import InvalidPageToken, SearchTimeout
from orchestrator.storage.reading import verified_row
from orchestrator.storage.schema import corruption_named

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
SEARCH_SECONDS_MAX = 5.0

_TOKEN_VERSION = 1
_INSTRUCTIONS_PER_CLOCK_READ = 20_000


class ExecutionFilter(NamedTuple):
    """Which executions; None and empty filter nothing. Times are milliseconds; `from` includes, `before` does not."""

    namespace: str
    name: str = ""
    statuses: tuple[WorkflowStatus, ...] = ()
    correlation_id: str = ""
    started_from_ms: int | None = None
    started_before_ms: int | None = None
    ended_from_ms: int | None = None
    ended_before_ms: int | None = None
    compensation_states: tuple[CompensationState, ...] = ()


class Page(NamedTuple):
    executions: list[Execution]
    next_token: str  # "" after the last page


class _Token(msgspec.Struct, array_like=True, frozen=True):
    version: int
    filter_digest: bytes
    started_ms: int
    workflow_id: str


_token_encoder = msgspec.msgpack.Encoder()
_token_decoder = msgspec.msgpack.Decoder(_Token)


async def search_executions(
    database: Database,
    wanted: ExecutionFilter,
    *,
    page_size: int = PAGE_SIZE_DEFAULT,
    page_token: str = "",
    seconds_max: float = SEARCH_SECONDS_MAX,
) -> Page:
    """One page; the token is opaque, and good only for the same filter."""
    size = max(1, min(page_size, PAGE_SIZE_MAX))
    after = _parse_token(page_token, wanted) if page_token else None
    query, bindings = _statement(wanted, after, size + 1)
    clock = asyncio.get_running_loop().time

    def run(connection: apsw.Connection) -> list[Execution]:
        return _run(connection, query, bindings, seconds_max, clock)

    found = await database.search(run)
    if len(found) <= size:
        return Page(found, "")
    found.pop()
    return Page(found, _make_token(found[-1], wanted))


def _run(
    connection: apsw.Connection, query: str, bindings: list[Any], seconds_max: float, clock: Callable[[], float]
) -> list[Execution]:
    deadline = clock() + seconds_max
    connection.set_progress_handler(lambda: clock() > deadline, _INSTRUCTIONS_PER_CLOCK_READ)
    try:
        with corruption_named():
            rows: list[Any] = connection.execute(query, bindings).fetchall()
    except apsw.InterruptError as error:
        raise SearchTimeout(f"the search took over {seconds_max:g} s: narrow it by name, status or time") from error
    finally:
        connection.set_progress_handler(None)
    return [verified_row(Table.EXECUTION, (space, id_), digest, body) for space, id_, digest, body in rows]


def _statement(wanted: ExecutionFilter, after: _Token | None, limit: int) -> tuple[str, list[Any]]:
    conditions: list[str] = ["namespace = ?"]
    bindings: list[Any] = [wanted.namespace]

    def where(condition: str, *values: Any) -> None:
        conditions.append(condition)
        bindings.extend(values)

    if wanted.name:
        where("name = ?", wanted.name)
    if wanted.correlation_id:
        where("correlation_id = ? AND correlation_id <> ''", wanted.correlation_id)
    if not wanted.statuses:
        # One that is being deleted has none.
        where("status > 0")
    else:
        where(f"status IN ({_marks(wanted.statuses)})", *map(int, wanted.statuses))
    if wanted.compensation_states:
        where(f"compensation IN ({_marks(wanted.compensation_states)})", *map(int, wanted.compensation_states))
        if CompensationState.NONE not in wanted.compensation_states:
            where("compensation > 1")
    if wanted.started_from_ms is not None:
        where("started_ms >= ?", wanted.started_from_ms)
    if wanted.started_before_ms is not None:
        where("started_ms < ?", wanted.started_before_ms)
    if wanted.ended_from_ms is not None or wanted.ended_before_ms is not None:
        where("ended_ms > 0")
    if wanted.ended_from_ms is not None:
        where("ended_ms >= ?", wanted.ended_from_ms)
    if wanted.ended_before_ms is not None:
        where("ended_ms < ?", wanted.ended_before_ms)
    if after is not None:
        # The first condition is implied by the second, and the index can use it.
        where("started_ms <= ? AND (started_ms, workflow_id) < (?, ?)", *[after.started_ms] * 2, after.workflow_id)
    query = (
        f"SELECT namespace, workflow_id, hash, body FROM execution INDEXED BY {_index(wanted)} "
        f"WHERE {' AND '.join(conditions)} ORDER BY started_ms DESC, workflow_id DESC LIMIT {limit}"
    )
    return query, bindings


def _index(wanted: ExecutionFilter) -> str:
    """The narrowest index: SQLite has no statistics to choose by."""
    if wanted.correlation_id:
        return "execution_correlation"
    if wanted.compensation_states and CompensationState.NONE not in wanted.compensation_states:
        return "execution_compensation"
    if len(wanted.statuses) == 1 and wanted.statuses[0] is not WorkflowStatus.COMPLETED:
        return "execution_status"
    if wanted.name:
        return "execution_name"
    if wanted.ended_from_ms is not None:
        return "execution_end"
    if len(wanted.statuses) == 1 or (wanted.statuses and WorkflowStatus.COMPLETED not in wanted.statuses):
        return "execution_status"
    return "execution_start"


def _marks(values: tuple[Any, ...]) -> str:
    return ",".join("?" * len(values))


def _digest(wanted: ExecutionFilter) -> bytes:
    return blake2b(_token_encoder.encode(tuple(wanted)), digest_size=8).digest()


def _make_token(last: Execution, wanted: ExecutionFilter) -> str:
    token = _Token(_TOKEN_VERSION, _digest(wanted), last.created_ms, last.workflow_id)
    return base64.urlsafe_b64encode(_token_encoder.encode(token)).decode().rstrip("=")


def _parse_token(text: str, wanted: ExecutionFilter) -> _Token:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        token = _token_decoder.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidPageToken("the page token is damaged") from error
    if token.version != _TOKEN_VERSION or token.filter_digest != _digest(wanted):
        raise InvalidPageToken("the page token belongs to another search")
    if not -(1 << 63) <= token.started_ms < 1 << 63:
        raise InvalidPageToken("the page token is damaged")
    return token
