"""Pages of a search: one statement within a limit of time, in an order that is the same on every node."""

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

from orchestrator.storage.database import Database
from orchestrator.storage.errors import InvalidPageToken, SearchTimeout
from orchestrator.storage.query_language import Field, Kind
from orchestrator.storage.schema import corruption_named

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
SEARCH_SECONDS_MAX = 5.0
COUNT_MAX = 10_000
"""Hits are counted up to here."""
SKIP_MAX = 10_000

_TOKEN_VERSION = 2
_INSTRUCTIONS_PER_CLOCK_READ = 20_000


class Window(NamedTuple):
    """What is asked of the hits apart from which they are."""

    skip: int = 0  # of the first page
    count_total: bool = False


class Conditions:
    """All of them hold."""

    def __init__(self) -> None:
        self._sql: list[str] = []
        self.values: list[Any] = []

    def add(self, sql: str, *values: Any) -> None:
        self._sql.append(sql)
        self.values.extend(values)

    @property
    def sql(self) -> str:
        return " AND ".join(self._sql)


class Order(NamedTuple):
    """By a value, and by the id where it is the same; both the greatest first, or the least."""

    value: str
    id: str
    descending: bool
    is_text: bool

    @staticmethod
    def of(sort: tuple[Field, bool] | None, default: str, id_: str) -> Order:
        if sort is None:
            return Order(default, id_, descending=True, is_text=False)
        field, descending = sort
        return Order(field.sql, id_, descending, field.kind is Kind.TEXT)

    @property
    def sql(self) -> str:
        direction = "DESC" if self.descending else "ASC"
        return f"{self.value} {direction}, {self.id} {direction}"

    def after(self, conditions: Conditions, token: _Token) -> None:
        than = "<" if self.descending else ">"
        # The first condition is implied by the second, and an index can use it.
        conditions.add(
            f"{self.value} {than}= ? AND ({self.value}, {self.id}) {than} (?, ?)", token.value, token.value, token.id
        )


class Found(NamedTuple):
    rows: list[tuple[Any, ...]]  # without the value that is sorted by
    next_token: str
    total: int | None


class _Token(msgspec.Struct, array_like=True, frozen=True):
    version: int
    digest: bytes
    value: int | str
    id: str


_token_encoder = msgspec.msgpack.Encoder()
_token_decoder = msgspec.msgpack.Decoder(_Token)


async def paged(
    database: Database,
    *,
    select: str,
    source: str,
    conditions: Conditions,
    order: Order,
    window: Window,
    of: tuple[Any, ...],
    size: int,
    token: str,
    prepare: Callable[[apsw.Connection], None],
    seconds_max: float,
) -> Found:
    """`of`: what the token is good for. Raises InvalidPageToken, SearchTimeout."""
    digest = blake2b(_token_encoder.encode(of), digest_size=8).digest()
    parsed = _parse_token(token, digest, order) if token else None
    counted = f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {conditions.sql} LIMIT {COUNT_MAX})"
    count_values = list(conditions.values)
    if parsed is not None:
        order.after(conditions, parsed)
    skip = window.skip if parsed is None else 0
    query = (
        f"SELECT {order.value}, {order.id}, {select} FROM {source} "
        f"WHERE {conditions.sql} ORDER BY {order.sql} LIMIT {size + 1} OFFSET {skip}"
    )
    clock = asyncio.get_running_loop().time

    def run(connection: apsw.Connection) -> tuple[list[Any], int | None]:
        prepare(connection)
        with _deadline(connection, clock, seconds_max), corruption_named():
            rows = connection.execute(query, conditions.values).fetchall()
            total = connection.execute(counted, count_values).get if window.count_total else None
        return rows, total

    rows, total = await database.search(run)
    next_token = ""
    if len(rows) > size:
        rows.pop()
        last = _Token(_TOKEN_VERSION, digest, rows[-1][0], rows[-1][1])
        next_token = base64.urlsafe_b64encode(_token_encoder.encode(last)).decode().rstrip("=")
    return Found([row[2:] for row in rows], next_token, total)


class _deadline:
    def __init__(self, connection: apsw.Connection, clock: Callable[[], float], seconds_max: float) -> None:
        self._connection = connection
        self._seconds_max = seconds_max
        deadline = clock() + seconds_max
        connection.set_progress_handler(lambda: clock() > deadline, _INSTRUCTIONS_PER_CLOCK_READ)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._connection.set_progress_handler(None)
        if isinstance(error, apsw.InterruptError):
            message = f"the search took over {self._seconds_max:g} s: narrow it by name, status or time"
            raise SearchTimeout(message) from error


def _parse_token(text: str, digest: bytes, order: Order) -> _Token:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        token = _token_decoder.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidPageToken("the page token is damaged") from error
    if token.version != _TOKEN_VERSION or token.digest != digest:
        raise InvalidPageToken("the page token belongs to another search")
    if isinstance(token.value, str) != order.is_text or (
        isinstance(token.value, int) and not -(1 << 63) <= token.value < 1 << 63
    ):
        raise InvalidPageToken("the page token is damaged")
    return token
