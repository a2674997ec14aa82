"""Errors on the wire: the code, a stable reason and its details, readable as google.rpc and by our own messages."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from orchestrator.engine import commands
from orchestrator.engine.results import Code, Rejected
from orchestrator.replication.errors import (
    EntryTooLarge,
    LostLeadership,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Stopped,
)
from orchestrator.rpc import errors
from orchestrator.rpc.errors import Addresses, RpcFailure, failure_of
from orchestrator.storage.errors import DatabaseCorrupt, InvalidPageToken, SearchTimeout, StorageClosed
from orchestrator_api.v1 import errors_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.rpc.bench import Bench, Stubs, soon, until
from tests.rpc.statuses import details_of, info_of, retry_after_ms

HINT = {"leader": "n2", "leader_address": "127.0.0.1:7402"}
ADDRESSES = Addresses(lambda: "n2", {"n2": "127.0.0.1:7402"}.__getitem__)


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (NotLeader("n2"), "UNAVAILABLE", "NOT_LEADER", HINT),
        (Stopped("stopping"), "UNAVAILABLE", "NOT_LEADER", HINT),
        (LostLeadership("lost"), "UNAVAILABLE", "LEADERSHIP_LOST", HINT),
        (DatabaseCorrupt("a row is not what was written"), "UNAVAILABLE", "NODE_STOPPED", HINT),
        (StorageClosed("the database is closed"), "UNAVAILABLE", "NODE_STOPPED", HINT),
        (OutcomeUnknown(), "UNAVAILABLE", "OUTCOME_UNKNOWN", HINT),
        (Overloaded("full"), "RESOURCE_EXHAUSTED", "OVERLOADED", {}),
        (EntryTooLarge("9 MiB"), "INVALID_ARGUMENT", "REQUEST_TOO_LARGE", {}),
        (InvalidPageToken("no"), "INVALID_ARGUMENT", "INVALID_FIELD", {"field": "page.token"}),
        (SearchTimeout("slow"), "RESOURCE_EXHAUSTED", "SEARCH_TIMEOUT", {}),
        (errors.invalid("a.b", "is odd", "7"), "INVALID_ARGUMENT", "INVALID_FIELD", {"field": "a.b", "limit": "7"}),
        (errors.not_found("workflow", "w"), "NOT_FOUND", "WORKFLOW_NOT_FOUND", {"workflow": "w"}),
        (errors.unimplemented("a", "no"), "UNIMPLEMENTED", "UNIMPLEMENTED", {"field": "a"}),
        (KeyError("boom"), "INTERNAL", "INTERNAL", {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_one_table_says_what_each_error_is(error: Exception, code: str, reason: str, metadata: dict[str, str]) -> None:
    failure = failure_of(error, ADDRESSES)
    assert (failure.code.name, failure.reason, failure.metadata) == (code, reason, metadata)
    # Only what passes by itself asks to be tried again.
    assert (failure.retry_after_ms is not None) is (reason == "OVERLOADED")


@pytest.mark.parametrize("code", list(Code))
def test_every_code_of_the_state_machine_is_one_of_the_wire(code: Code) -> None:
    failure = errors.rejected(Rejected(code, "SOME_REASON", "why", (("limit", "3"),)))
    assert (failure.code.name, failure.code.value[0]) == (code.name, int(code))
    assert (failure.reason, failure.message, failure.metadata) == ("SOME_REASON", "why", {"limit": "3"})
    assert (failure.retry_after_ms is not None) is (code is Code.RESOURCE_EXHAUSTED)


def test_without_a_leader_there_is_no_hint() -> None:
    addresses = Addresses(lambda: None, {}.__getitem__)
    assert failure_of(NotLeader(None), addresses).metadata == {}


class Aborted(Exception):
    pass


class Context:
    """Takes down with what a call is ended."""

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any) -> NoReturn:
        self.code, self.details, self.metadata = code, details, dict(metadata)
        raise Aborted


async def status_bytes(failure: RpcFailure) -> tuple[Context, bytes]:
    context = Context()
    with pytest.raises(Aborted):
        await errors.abort(context, failure, ADDRESSES)
    return context, context.metadata["grpc-status-details-bin"]


async def test_the_details_are_google_rpc_byte_for_byte_whoever_reads_them() -> None:
    failure = RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "voll, später", {"limit": "x", "field": "ü"}, 1500
    )
    context, data = await status_bytes(failure)
    assert (context.code, context.details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "voll, später")
    theirs, ours = status_pb2.Status.FromString(data), errors_pb2.ErrorStatus.FromString(data)
    for status, info_type, retry_type in (
        (theirs, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo),
        (ours, errors_pb2.ErrorInfo, errors_pb2.RetryInfo),
    ):
        assert (status.code, status.message) == (8, "voll, später")
        assert [each.type_url for each in status.details] == [
            "type.googleapis.com/google.rpc.ErrorInfo", "type.googleapis.com/google.rpc.RetryInfo"
        ]
        info, retry = info_type.FromString(status.details[0].value), retry_type.FromString(status.details[1].value)
        assert (info.reason, info.domain) == ("OVERLOADED", "orchestrator")
        assert dict(info.metadata) == {"limit": "x", "field": "ü"}
        assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 500_000_000)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("character", ["x", "ü", "漢", "🎈"])
async def test_long_texts_are_shortened_whole_characters_at_a_time(character: str) -> None:
    failure = RpcFailure(grpc.StatusCode.NOT_FOUND, "R", character * 100_000, {"name": character * 100_000})
    context, data = await status_bytes(failure)
    assert len(context.details.encode()) <= errors.TEXT_BYTES_MAX + 3
    assert context.details == character * (errors.TEXT_BYTES_MAX // len(character.encode())) + "..."
    assert len(data) < 4 * errors.TEXT_BYTES_MAX


# Over a connection.


async def test_a_rejection_reaches_the_client_with_code_reason_and_metadata(bench: Bench, stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.workflows.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="nobody"))
    error = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert info_of(error).reason == "WORKFLOW_NOT_FOUND" and info_of(error).domain == "orchestrator"
    assert error_details_pb2.ErrorInfo.FromString(
        status_pb2.Status.FromString(details_of(error)).details[0].value
    ).reason == "WORKFLOW_NOT_FOUND"


async def test_a_message_too_long_for_headers_still_arrives(bench: Bench, stubs: Stubs) -> None:
    bench.refuse = lambda command: ValueError("🎈" * 50_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.workflows.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="w"))
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_an_overload_says_when_to_try_again(bench: Bench, stubs: Stubs) -> None:
    bench.refuse = lambda command: Overloaded("the queue is full")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.workflows.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="w"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert retry_after_ms(caught.value) == errors.RETRY_AFTER_MS


async def test_an_unexpected_error_is_internal_and_logged_with_its_traceback(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    bench.refuse = lambda command: ZeroDivisionError("boom")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.workflows.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="w"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "ZeroDivisionError: boom"
    (record,) = [record for record in caplog.records if record.name == "orchestrator.rpc.errors"]
    assert record.exc_info is not None


async def test_a_call_whose_client_gave_up_is_cancelled_and_not_an_error(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    bench.gate.clear()
    call = stubs.workflows.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="w"))
    await until("the command", lambda: bench.submitted_of(commands.PauseWorkflow))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon("the cancellation", call)
    bench.gate.set()
    # The fixture waits until no task of the call is left.
    assert [record for record in caplog.records if record.name.startswith("orchestrator")] == []
