"""Which values outside the log an execution uses: those that its payloads refer to, until it goes away.

A use is noted where a payload is kept (`payloads.store`), and does not end before the execution does, whatever becomes
of the payload: so restarts, reruns, retries and migrations change nothing about it. What is on its way between two
executions was sent by one that used it; `BlobRow.behind` keeps it until whoever gets it does.
"""

from __future__ import annotations

from bisect import insort
from typing import Final, cast

from msgspec.structs import replace

from orchestrator.engine import behaviour, crossing, limits
from orchestrator.engine.blob_rows import BlobRow, BlobState
from orchestrator.engine.blobs import KEY, BlobRef, has_forged_marker, has_reserved_key, marked, references_in
from orchestrator.engine.errors import LimitExceeded, refuse
from orchestrator.engine.model import Table
from orchestrator.engine.results import Code
from orchestrator.engine.state import State
from orchestrator.engine.step import Step

_MARK: Final = b'"$blob"'
WHOLE = "a value that is kept outside the log can only be passed on whole, in a field"
RESERVED = f"the key {KEY!r} is reserved"


def row_of(state: State, number: int) -> BlobRow | None:
    return cast(BlobRow | None, state.resident[Table.BLOB].get((number,)))


def put(step: Step, row: BlobRow) -> None:
    step.write(Table.BLOB, (row.number,), row)


def live_row(state: State, ref: BlobRef) -> BlobRow | None:
    """None if nothing may refer to it."""
    number = state.blobs.number_of(ref.store, ref.sha256)
    row = row_of(state, number) if number else None
    return row if row is not None and row.state is BlobState.LIVE and row.size == ref.size else None


def require(step: Step, field: str, payload: bytes) -> None:
    """Refuses what a caller says if it refers to what is being deleted, or was: it is to be put and said again."""
    if step.level < behaviour.STREAMS or _MARK not in payload:
        return
    if has_forged_marker(payload):
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", f"{field}: {RESERVED}", field=field)
    for ref in references_in(payload):
        if live_row(step.state, ref) is None:
            message = f"{field}: the value {ref.sha256} has just been deleted from the store {ref.store!r}: try again"
            refuse(Code.RESOURCE_EXHAUSTED, "BLOB_BEING_DELETED", message, field=field)


def obstacle(step: Step, text: bytes, used: tuple[int, ...] = (), *, is_brought: bool = True) -> str:
    """Why an execution that uses these values can't keep the payload; "": it can.

    `is_brought`: by somebody who may refer to others, too. What an execution makes itself refers to what it uses:
    anything else has been put together from data to look like it.
    """
    if step.level < behaviour.STREAMS or _MARK not in text:
        return ""
    if marked(text) is not None or has_forged_marker(text):
        return WHOLE
    rows = [live_row(step.state, ref) for ref in references_in(text)]
    if None in rows:
        return RESERVED
    if not is_brought and any(row is not None and row.number not in used for row in rows):
        return RESERVED
    if len(used) + sum(row is not None and row.number not in used for row in rows) > limits.EXECUTION_BLOBS:
        return f"an execution refers to at most {limits.EXECUTION_BLOBS} values outside the log"
    return ""


def literal(step: Step, *texts: bytes) -> str:
    """Why nothing may begin with these JSON texts, which may be older than the reserved key; "": it may."""
    return RESERVED if step.level >= behaviour.STREAMS and any(map(has_reserved_key, texts)) else ""


def check(step: Step, text: bytes) -> None:
    """Raises LimitExceeded if the step's execution can't keep the payload."""
    why_not = obstacle(step, text, step.x.blobs)
    if why_not:
        raise LimitExceeded(why_not)


def note(step: Step, text: bytes) -> None:
    """The step's execution keeps a payload that was brought to it. Raises LimitExceeded."""
    if step.level < behaviour.STREAMS or _MARK not in text:
        return
    check(step, text)
    used = list(step.x.blobs)
    for ref in references_in(text):
        row = live_row(step.state, ref)
        if row is not None and row.number not in used:
            insort(used, row.number)
            put(step, replace(row, uses=row.uses + 1, behind=0))
    if len(used) > len(step.x.blobs):
        step.change(blobs=tuple(used))


def end(step: Step) -> None:
    """The step's execution goes away."""
    for number in step.x.blobs:
        row = row_of(step.state, number)
        assert row is not None
        if row.uses > 1:
            put(step, replace(row, uses=row.uses - 1))
        else:
            put(step, replace(row, uses=0, changed_ms=step.now, behind=step.meta.next_message))


def check_own(step: Step, text: bytes) -> None:
    """Raises LimitExceeded if the step's execution can't keep the payload, which it has made itself."""
    why_not = obstacle(step, text, step.x.blobs, is_brought=False)
    if why_not:
        raise LimitExceeded(why_not)


# --- what has to be known here


def is_outside(step: Step, value: bytes) -> bool:
    """Whether any of the value, which is of the step's execution, is kept outside the log."""
    return bool(step.x.blobs) and crossing.is_outside(value)


def require_inside(step: Step, name: str, value: bytes) -> None:
    """Raises LimitExceeded unless all of the value is known here."""
    if is_outside(step, value):
        raise crossing.crossed(name)


def require_known(step: Step, name: str, value: bytes | None) -> None:
    """Raises LimitExceeded if the value itself is kept outside the log; parts of it may be."""
    if value is not None and step.x.blobs and marked(value) is not None:
        raise crossing.crossed(name)
