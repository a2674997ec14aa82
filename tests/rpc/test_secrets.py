"""Secrets over the wire: sealed at the door, told of without their values, and sealed anew by another key."""

from __future__ import annotations

import base64
import logging
from typing import Any

import grpc
import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.secret_commands import PutSecret
from orchestrator.sealing.keys import KEY_BYTES, key_id
from orchestrator.sealing.secret_values import without_keys
from orchestrator_api.v1 import secrets_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, RequestIdentity
from tests.rpc.bench import Bench, Stubs, served
from tests.rpc.statuses import info_of

VALUE = "hunter2-of-the-bank"
FIRST, SECOND = b"k" * KEY_BYTES, b"l" * KEY_BYTES


def lines(*keys: bytes) -> bytes:
    return b"\n".join(base64.b64encode(key) for key in keys)


async def put(stubs: Stubs, name: str = "BANK", value: str = VALUE, **fields: Any) -> int:
    return (await stubs.secrets.PutSecret(pb.PutSecretRequest(name=name, value=value.encode(), **fields))).version


async def failure(call: Any) -> tuple[grpc.StatusCode, Any, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), info_of(caught.value), caught.value.details() or ""


async def test_a_value_is_sealed_before_it_is_a_command(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert [await put(stubs), await put(stubs, value=VALUE + "2")] == [1, 2]
    assert len(bench.submitted_of(PutSecret)) == 2
    bench.driver.flush()
    for written in (repr(bench.submitted), repr(bench.driver.database), caplog.text):
        assert VALUE not in written
    row = queries.secret(bench.driver.state, "default", "BANK")
    assert row is not None and bench.backend().secrets.open(row) == f"{VALUE}2".encode()


async def test_what_is_known_of_it_is_told_without_its_value(bench: Bench, stubs: Stubs) -> None:
    await put(stubs)
    bench.driver.wait(1_000)
    await put(stubs)
    told = (await stubs.secrets.GetSecret(pb.GetSecretRequest(name="BANK"))).secret
    assert (told.name, told.version, told.key_id, told.readable) == ("BANK", 2, key_id(FIRST), True)
    assert told.update_time.ToMilliseconds() - told.create_time.ToMilliseconds() == 1_000
    assert VALUE not in repr(told)
    assert {field.name for field in pb.Secret.DESCRIPTOR.fields}.isdisjoint({"value", "sealed"})


async def test_secrets_are_listed_by_name_in_pages(stubs: Stubs) -> None:
    for name in ("B", "A", "C"):
        await put(stubs, name)
    await put(stubs, "D", namespace="other")
    first = await stubs.secrets.ListSecrets(pb.ListSecretsRequest(page=PageRequest(size=2)))
    rest = await stubs.secrets.ListSecrets(pb.ListSecretsRequest(page=PageRequest(size=2, token=first.next_token)))
    assert [[one.name for one in page.secrets] for page in (first, rest)] == [["A", "B"], ["C"]]
    assert rest.next_token == ""


async def test_a_secret_is_deleted(stubs: Stubs) -> None:
    await put(stubs)
    await stubs.secrets.DeleteSecret(pb.DeleteSecretRequest(name="BANK"))
    for call in (
        stubs.secrets.GetSecret(pb.GetSecretRequest(name="BANK")),
        stubs.secrets.DeleteSecret(pb.DeleteSecretRequest(name="BANK")),
    ):
        code, info, _ = await failure(call)
        assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "SECRET_NOT_FOUND")


async def test_the_same_request_puts_once(stubs: Stubs, bench: Bench) -> None:
    fields = {"request": RequestIdentity(request_id=_ulid(bench.driver.now_ms))}
    assert [await put(stubs, **fields), await put(stubs, **fields)] == [1, 1]
    row = queries.secret(bench.driver.state, "default", "BANK")
    assert row is not None and row.version == 1


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("", b"v", "name"),
        ("a.b", b"v", "name"),
        ("a b", b"v", "name"),
        ("x" * 101, b"v", "name"),
        ("A", b"", "value"),
        ("A", b"\xff", "value"),
        ("A", b"x" * (limits.SECRET_BYTES + 1), "value"),
    ],
)
async def test_bad_input_is_refused_by_its_field_and_never_quoted(
    bench: Bench, stubs: Stubs, name: str, value: bytes, field: str
) -> None:
    code, info, message = await failure(stubs.secrets.PutSecret(pb.PutSecretRequest(name=name, value=value)))
    assert (code, info.reason, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field)
    assert "xxx" not in message
    assert bench.submitted == []


async def test_the_longest_value_fits(stubs: Stubs) -> None:
    assert await put(stubs, value="x" * limits.SECRET_BYTES) == 1


async def test_a_node_without_keys_says_so(bench: Bench) -> None:
    bench.secrets = without_keys()
    async with served(bench) as stubs:
        for call in (
            stubs.secrets.PutSecret(pb.PutSecretRequest(name="A", value=b"v")),
            stubs.secrets.RotateSecrets(pb.RotateSecretsRequest()),
        ):
            code, info, message = await failure(call)
            assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SECRET_KEYS_MISSING")
            assert info.metadata["node"] == "n1" and "secret_keys_file" in message
    assert bench.submitted == []


async def test_a_node_that_does_not_lead_seals_nothing(bench: Bench, stubs: Stubs) -> None:
    bench.is_leading = False
    code, info, _ = await failure(stubs.secrets.PutSecret(pb.PutSecretRequest(name="A", value=b"v")))
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")


async def test_secrets_are_sealed_anew_with_the_first_key(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, "A")
    await put(stubs, "B", namespace="other")
    await bench.change_keys(lines(SECOND, FIRST))
    await put(stubs, "C")
    done = await stubs.secrets.RotateSecrets(pb.RotateSecretsRequest())
    assert (done.sealed, done.total, done.key_id) == (2, 3, key_id(SECOND))
    await bench.change_keys(lines(SECOND))
    rows = queries.every_secret(bench.driver.state)
    assert [(row.name, row.version, bench.backend().secrets.open(row)) for row in rows] == [
        (name, 1, VALUE.encode()) for name in ("A", "C", "B")
    ]
    assert (await stubs.secrets.RotateSecrets(pb.RotateSecretsRequest())).sealed == 0


async def test_what_can_not_be_opened_is_not_sealed_anew_and_is_named(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, "A")
    await bench.change_keys(lines(SECOND))
    code, info, message = await failure(stubs.secrets.RotateSecrets(pb.RotateSecretsRequest()))
    assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SECRET_UNREADABLE")
    assert "'A'" in message and key_id(FIRST) in message
    assert not (await stubs.secrets.GetSecret(pb.GetSecretRequest(name="A"))).secret.readable


def _ulid(time_ms: int) -> str:
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    text = ""
    for _ in range(10):
        text = alphabet[time_ms % 32] + text
        time_ms //= 32
    return text + "0" * 16
