"""What is always true of values outside the log: see ``invariants``."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.blob_index import Blobs
from orchestrator.engine.blob_rows import BlobState
from orchestrator.engine.blob_uses import live_row
from orchestrator.engine.blobs import references_in
from orchestrator.engine.encoding import encode_struct
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import EXECUTION_TABLES, Row, Table
from orchestrator.engine.state import State

_CHILDREN = tuple(table for table in EXECUTION_TABLES if table is not Table.EXECUTION)


def uses_are_counted(state: State) -> Iterator[str]:
    # Only where all are hot, as in tests.
    used: dict[int, int] = {}
    for key, hot in state.hot_executions():
        numbers = hot.execution.blobs
        if list(numbers) != sorted(set(numbers)):
            yield f"{key} uses {numbers}"
        for number in numbers:
            used[number] = used.get(number, 0) + 1
    for _, row in sorted(state.resident[Table.BLOB].items()):
        if row.uses != used.pop(row.number, 0):
            yield f"the value {row.number} counts {row.uses} uses, wrongly"
        if row.uses and row.state is not BlobState.LIVE:
            yield f"the value {row.number} is used and {row.state.name}"
    if used:
        yield f"values are used that nobody knows: {sorted(used)}"


def what_is_referred_to_is_there(state: State) -> Iterator[str]:
    """Nothing that an execution, or a message to one, refers to may be deleted."""
    if state.meta.behaviour_level < STREAMS:
        return
    for key, hot in state.hot_executions():
        for row in _rows(hot):
            for ref in references_in(encode_struct(row)):
                kept = live_row(state, ref)
                if kept is None or kept.number not in hot.execution.blobs:
                    yield f"{key} refers to {ref.sha256}, and does not use it"
    for number, message in sorted(state.messages.items()):
        for ref in references_in(encode_struct(message)):
            if live_row(state, ref) is None:
                yield f"the message {number} refers to {ref.sha256}, which is not kept"


def _rows(hot: ExecutionState) -> Iterator[Row]:
    yield hot.execution
    for table in _CHILDREN:
        yield from hot.rows(table).values()


def index_is_of_rows(state: State) -> Iterator[str]:
    made = Blobs()
    for _, row in sorted(state.resident[Table.BLOB].items()):
        made.changed(None, row)
    kept = state.blobs
    of_index = (kept.live, kept.bytes, kept.unused_numbers(), kept.doomed_numbers())
    if of_index != (made.live, made.bytes, made.unused_numbers(), made.doomed_numbers()):
        yield f"the index of values outside the log says {of_index}"


CHECKS = (uses_are_counted, what_is_referred_to_is_there, index_is_of_rows)
