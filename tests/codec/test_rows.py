"""Rows: what was encoded is decoded, equal rows are equal bytes, and what is not understood is refused."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.codec import rows
from orchestrator.codec.errors import RowCorrupt, RowVersionUnsupported
from orchestrator.codec.rows import decode_key, decode_row, encode_key, encode_row, row_hash
from orchestrator.engine import blob_rows, messages, model, resident
from orchestrator.engine.encoding import encode_struct
from orchestrator.engine.model import Execution, Table, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.triggers import rows as trigger_rows

EXECUTION = Execution("default", "w1", "order", 3, b"d", WorkflowStatus.RUNNING, 1, 2, input=7, owed=(1, 2))
ATTEMPT = TaskAttempt(1, "t1", "charge", "charge", "SIMPLE", TaskStatus.IN_PROGRESS, 1, 1, bindings=(("a", 1),))

SAMPLES = [
    (Table.META, model.Meta(log_time_ms=5)),
    (Table.EXECUTION, EXECUTION),
    (Table.TASK, ATTEMPT),
    (Table.RECORD, model.SagaRecord(1, "r", "n", 0, model.StepOutcome.UNKNOWN, 2, "k", b"{}", 3, 4)),
    (Table.SIGNAL, model.Signal(1, "paid", b"{}", 4)),
    (Table.PAYLOAD, model.PayloadRow(b"\x00\xff" * 5000)),
    (Table.TASK_LOG, model.TaskLog(1, 2, ((3, "é"), (4, "")), 2)),
    (Table.RETENTION, resident.Retention(1, 2, 3)),
    (Table.BLOB, blob_rows.BlobRow(3, "shared", "0" * 64, 5, blob_rows.BlobState.DELETING, 1, 7, 9)),
    (Table.TIMER, resident.Timer(1, 2, model.TimerKind.WAIT, "default", "w1")),
    (Table.CLIENT_SESSION, resident.ClientSession("s", "default", 1, 2, 3, ((4, b"r"),), 5)),
    (Table.REQUEST, resident.Request("é", 1, b"")),
    (Table.TASK_RATE, resident.TaskRate("default", "charge", ((5, 1), (9, 2)), 3)),
    (Table.IDEMPOTENCY, resident.IdempotencyKey("w1", True)),
    (Table.WORKFLOW_GROUP, resident.WorkflowGroup("default", "order", "eu", 2)),
    (Table.WAITING, resident.WaitingExecution(7, b"g", "default", "w1", 2)),
    (Table.POLLER, resident.Poller("default", "eu", "charge", 5, 6)),
    (Table.SCHEDULE, trigger_rows.ScheduleRow("default", "s", b"{}", 1, 2, due=((3, 0), (4, 1)), timer=5)),
    (Table.STREAM, trigger_rows.StreamRow("default", "redis:orders", "1-0", 2, 3, 4)),
    (Table.AWAITING, trigger_rows.AwaitingTask(1, "default", "paid", "k", "w1", 2, 3)),
    (Table.KEPT_EVENT, trigger_rows.KeptEvent(1, "default", "paid", "k", b"{}", 3)),
    (Table.MESSAGE, messages.TaskLeased("default", "w1", 1, 2)),
    (Table.MESSAGE, messages.ContinueExecution("default", "w1")),
]

ORIGIN = messages.Origin(messages.OriginKind.EVENT, "h", 4, 1)
MESSAGES = [
    messages.TaskLeased("default", "w1", 1, 2),
    messages.TimerFired("default", "w1", model.TimerKind.WAIT, 1, 2),
    messages.LetIn("default", "w1", 7),
    messages.WorkerLost("default", "w1", 1, 2),
    messages.DeadlinePassed("default", "w1", 1, 2, 3),
    messages.ContinueExecution("default", "w1"),
    messages.CancelChild("default", "w1", "r", True),
    messages.ChildEnded("default", "w1", 1, "c", model.WorkflowStatus.FAILED, "r", b"{}"),
    messages.UndoChild("default", "w1", "p", 1),
    messages.StartAnswered("default", "w1", 1, "c"),
    messages.JoinExecution("default", "w1", "p", 1, ("p", "r")),
    messages.RemoveChild("default", "w1"),
    messages.ChildReopened("default", "w1", 1, "c"),
    messages.GoOnAfterEnd("default", "w1"),
    messages.RetryChild("default", "w1", "p", 1),
    messages.ClearExecution("default", "w1", 4, 1, given=7, reference="a", iterations=(1, 2)),
    messages.RemoveRows("default", "w1"),
    messages.PurgeExecution("default", "w1", 1, 2, 3),
    messages.StartExecution("default", "w1", "order", 0, b"{}", origin=ORIGIN),
    messages.FinishTask("default", "w1", "", "a", TaskStatus.FAILED, b"{}", "r", ORIGIN),
    messages.TerminateExecution("default", "w1", "r", ORIGIN),
    messages.UpdateVariables("default", "w1", b"{}", True, ORIGIN),
    messages.SignalExecution("default", "w1", "s", b"{}", ORIGIN),
    messages.GiveEvent("default", "w1", 1, 2, "paid", "k", 3, b"{}", 4, ORIGIN),
    messages.HandleEvent("default", "", ORIGIN),
    messages.ScheduleDue("default", "", "s", 4),
]


@pytest.mark.parametrize(("table", "row"), SAMPLES)
def test_what_was_encoded_is_decoded(table: Table, row: model.Row) -> None:
    assert decode_row(table, encode_row(row)) == row


def test_every_table_can_be_encoded_and_decoded() -> None:
    """A kind of row that has no table would only show when it is flushed."""
    assert set(rows.ROW_TYPES) | {Table.MESSAGE} == set(rows._DECODERS) == set(Table)
    classes = [*vars(model).values(), *vars(resident).values(), *vars(blob_rows).values(), *vars(trigger_rows).values()]
    kinds = {kind for kind in classes if isinstance(kind, type) and issubclass(kind, model.Row)}
    assert kinds - {model.Row} == set(rows.ROW_TYPES.values())
    decoded = {type(row) for row in map(_again, MESSAGES)}
    assert decoded == set(messages.Message.__subclasses__())


def _again(message: messages.Message) -> object:
    return decode_row(Table.MESSAGE, encode_row(message))


def test_equal_rows_give_equal_bytes_whatever_they_were_made_from() -> None:
    again = decode_row(Table.EXECUTION, encode_row(EXECUTION))
    assert encode_row(again) == encode_row(EXECUTION)
    by_number = msgspec.structs.replace(EXECUTION, status=1)
    assert by_number == EXECUTION
    assert encode_row(by_number) == encode_row(EXECUTION)


def test_a_field_added_at_the_end_changes_no_bytes_until_it_is_used() -> None:
    class Signal(model.Row, frozen=True):
        number: int
        name: str
        payload: bytes
        received_ms: int
        sender: str = ""

    old = model.Signal(1, "paid", b"", 4)
    assert b"\x01" + encode_struct(Signal(1, "paid", b"", 4)) == encode_row(old)
    assert decode_row(Table.SIGNAL, b"\x01" + encode_struct(Signal(1, "paid", b"", 4))) == old
    with pytest.raises(RowVersionUnsupported, match="upgrade this node"):
        decode_row(Table.SIGNAL, b"\x01" + encode_struct(Signal(1, "paid", b"", 4, "bank")))


def test_a_newer_format_is_refused_with_the_way_out() -> None:
    with pytest.raises(RowVersionUnsupported, match="upgrade this node"):
        decode_row(Table.TASK, b"\x02" + encode_row(ATTEMPT)[1:])


@pytest.mark.parametrize("data", [encode_row(ATTEMPT)[:-1], b"\x01\xc0", encode_row(EXECUTION), b"\x01"])
def test_what_is_no_row_of_the_table_is_refused(data: bytes) -> None:
    with pytest.raises(RowCorrupt):
        decode_row(Table.TASK, data)


def test_keys_come_back() -> None:
    for key in [(), ("default", "w1"), ("default", "w1", 70000), (b"digest",)]:
        assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize("data", [b"", b"\xc0", encode_key(("default", "w1"))[:-1], b"\x91\xa2\xff\xff"])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(RowCorrupt):
        decode_key(data)


def test_the_hash_depends_on_table_key_and_row() -> None:
    data = encode_row(ATTEMPT)
    hashes = {
        row_hash(Table.TASK, ("default", "w1", 1), data),
        row_hash(Table.RECORD, ("default", "w1", 1), data),
        row_hash(Table.TASK, ("default", "w1", 2), data),
        row_hash(Table.TASK, ("default", "w1", 1), data[:-1]),
    }
    assert len(hashes) == 4
    assert all(0 <= value < 1 << 128 for value in hashes)


def test_the_hash_of_a_row_is_pinned() -> None:
    """Nodes of different versions compare it: a change of this number is a change of format."""
    assert row_hash(Table.TIMER, (1,), b"\x01\x90") == 0x6c83034156ad770ba8f085c08e91b80d
