"""A service's book: every call it was asked for and what came of it, one JSON object a line.

A line is on the disk before the caller hears of it. A call takes effect once per idempotency key, however often it
is repeated; a call with a lower fencing token than one seen before, or for a step that was undone, is refused.
What the service knows is what its book says: it is read again whenever the service starts.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType


class Effect(StrEnum):
    """What came of a call."""

    APPLIED = "APPLIED"
    # The same key again: answered as the first time, and nothing else happened.
    REPEATED = "REPEATED"
    # From an attempt that the cluster has given up, or for a step that was undone.
    REFUSED_STALE = "REFUSED_STALE"
    # No stock, no money, no trucks.
    REFUSED_BUSINESS = "REFUSED_BUSINESS"


@dataclass(frozen=True)
class Request:
    """What a caller asks for, and as whom."""

    call: str
    order_id: str
    # The same for all attempts of one step.
    idempotency_key: str
    # Higher for each attempt.
    fencing_token: int
    # For a compensation: the key of the step that it undoes.
    undoes: str = ""
    # What the caller shows for it, such as the receipt that a parcel is shipped against.
    shown: str = ""


@dataclass(frozen=True)
class Moved:
    """How much a call moved. All zero for undoing what never happened."""

    sku: str = ""
    quantity: int = 0
    amount_cents: int = 0


NOTHING = Moved()


@dataclass(frozen=True)
class Entry:
    """One line of a book."""

    # By the clock that all processes of this machine share, and that never jumps: books can be compared.
    time: float
    call: str
    order_id: str
    idempotency_key: str
    fencing_token: int
    effect: Effect
    undoes: str = ""
    shown: str = ""
    sku: str = ""
    quantity: int = 0
    amount_cents: int = 0
    # A receipt or a tracking number, or why the call was refused.
    answer: str = ""

    @property
    def moved(self) -> Moved:
        return Moved(self.sku, self.quantity, self.amount_cents)


class Refused(Exception):
    """The business says no: asking again will not help."""


class Stale(Exception):
    """The caller was overtaken: a later attempt or the undoing of the step came first."""


class BookDamaged(Exception):
    """The book has a line, not its last, that is no entry."""


@dataclass
class _Step:
    """What is known under one idempotency key."""

    fencing_token: int = 0
    applied: Entry | None = None
    undone: bool = False


@dataclass
class Knowledge:
    """All that the entries of a book say together; live and after a restart it is made by the same method."""

    steps: dict[str, _Step] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        if entry.effect is Effect.REFUSED_STALE:
            return
        step = self.step(entry.idempotency_key)
        step.fencing_token = max(step.fencing_token, entry.fencing_token)
        if entry.effect is Effect.APPLIED:
            step.applied = entry
            if entry.undoes:
                self.step(entry.undoes).undone = True

    def step(self, key: str) -> _Step:
        return self.steps.setdefault(key, _Step())


class Book:
    """The file, open for one process alone. `took` is told of each entry, old ones first."""

    def __init__(self, path: Path, took: Callable[[Entry], None] = lambda entry: None) -> None:
        self._took = took
        self._known = Knowledge()
        self._file = path.open("a+b")
        # A predecessor that is still dying keeps its lock until it is gone: two writers would apply a call twice.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        for entry in self._read():
            self._take(entry)

    def __enter__(self) -> Book:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def do(self, request: Request, decide: Callable[[], Moved], answer: str) -> Entry:
        """Applies the request, unless it was before; `decide` says how much it moves, or raises Refused."""
        step = self._known.step(request.idempotency_key)
        if request.fencing_token < step.fencing_token or step.undone:
            self._write(request, Effect.REFUSED_STALE, NOTHING, "overtaken")
            raise Stale(f"{request.call} of order {request.order_id} was overtaken")
        if step.applied is not None:
            return self._write(request, Effect.REPEATED, NOTHING, step.applied.answer)
        try:
            moved = decide()
        except Refused as refused:
            self._write(request, Effect.REFUSED_BUSINESS, NOTHING, str(refused))
            raise
        return self._write(request, Effect.APPLIED, moved, answer)

    def undo(self, request: Request) -> Entry:
        """Undoes the step `request.undoes`: by as much as it moved, which is nothing if it never happened."""
        step = self._known.step(request.undoes)
        if step.undone and self._known.step(request.idempotency_key).applied is None:
            # Another key, but there is only one step to undo. The audit asks where the second key came from.
            return self._write(request, Effect.REPEATED, NOTHING, "undone")
        done = step.applied
        return self.do(request, lambda: done.moved if done else NOTHING, "undone" if done else "never happened")

    def _write(self, request: Request, effect: Effect, moved: Moved, answer: str) -> Entry:
        entry = Entry(time=time.monotonic(), **asdict(request), effect=effect, **asdict(moved), answer=answer)
        self._file.write(json.dumps(asdict(entry)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._take(entry)
        return entry

    def _take(self, entry: Entry) -> None:
        self._known.take(entry)
        self._took(entry)

    def _read(self) -> list[Entry]:
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            # The process died while it wrote: nobody has heard of this call.
            self._file.truncate(complete)
        return parse(content[:complete])


def parse(content: bytes) -> list[Entry]:
    """The entries of a book."""
    entries = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            fields = json.loads(line)
            entries.append(Entry(**{**fields, "effect": Effect(fields["effect"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise BookDamaged(f"line {number}: {error}") from error
    return entries


def read_book(path: Path) -> list[Entry]:
    """The entries of a book that may be in use; a line that is still being written is left out."""
    content = path.read_bytes() if path.exists() else b""
    return parse(content[: content.rfind(b"\n") + 1])
