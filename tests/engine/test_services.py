"""The service registry: a record keeps its rules, replaces the one before, and is the same on every replica."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.commands import DeleteService, RegisterService
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.model import Table
from orchestrator.engine.results import Code, Done, Rejected
from orchestrator.engine.services import CircuitBreaker, Protocol, ServiceRecord, Tls, validate_service
from tests.engine.driver import Driver

HTTP = {"name": "payments", "endpoints": ["https://a:8443/v1", "https://b"]}
GRPC = {"name": "stock", "protocol": "GRPC", "endpoints": ["stock:50051", "[::1]:50051"]}


def text(record: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(record | fields).encode()


def read(record: dict[str, Any], **fields: Any) -> ServiceRecord:
    return validate_service(text(record, **fields))


def register(record: dict[str, Any], namespace: str = "default", **fields: Any) -> RegisterService:
    return RegisterService(namespace, text(record, **fields))


def test_what_a_record_does_not_say_has_a_default() -> None:
    record = read(HTTP)
    assert (record.protocol, record.endpoints) == (Protocol.HTTP, ("https://a:8443/v1", "https://b"))
    assert (record.connect_ms, record.read_ms, record.total_ms) == (3_000, 3_000, 0)
    assert (record.attempts, record.retry_delay_ms) == (2, 100), "each endpoint is tried once"
    assert (record.tls, record.headers, record.descriptor_set, record.breaker) == (None, (), "", None)


def test_every_field_of_a_record_is_read() -> None:
    record = read(
        GRPC,
        timeouts={"connectMs": 100, "totalMs": 9_000},
        retry={"attempts": 5, "delayMs": 0},
        tls={"ca": "/ca.pem", "cert": "/c.pem", "key": "/k.pem", "serverName": "stock.internal"},
        metadata={"tenant": "a", "trace-bin": "AAE="},
        descriptorSet="AAECAw==",
        circuitBreaker={"failureThreshold": 3, "windowSeconds": 0.5, "openSeconds": 2, "halfOpenCalls": 4},
        description="what is in stock",
        ownerEmail="stock@example.com",
    )
    assert (record.connect_ms, record.total_ms, record.attempts, record.retry_delay_ms) == (100, 9_000, 5, 0)
    assert record.tls == Tls("/ca.pem", "/c.pem", "/k.pem", "stock.internal")
    assert record.headers == (("tenant", "a"), ("trace-bin", "AAE="))
    assert record.descriptor_set == "AAECAw=="
    assert record.breaker == CircuitBreaker(3, 500, 2_000, 4)
    assert read(HTTP, headers={"X-Tenant": "a"}, timeouts={"readMs": 7}).headers == (("X-Tenant", "a"),)
    assert read(GRPC, tls=True).tls == Tls()
    assert read(GRPC, tls=False).tls is None
    assert read(GRPC, circuitBreaker={}).breaker == CircuitBreaker(5, 10_000, 30_000, 1)


@pytest.mark.parametrize(
    ("record", "fields", "path"),
    [
        (HTTP, {"name": ""}, "name"),
        (HTTP, {"name": "a\nb"}, "name"),
        (HTTP, {"protocol": "SMTP"}, "protocol"),
        (HTTP, {"endpoints": []}, "endpoints"),
        (HTTP, {"endpoints": [f"http://a{number}" for number in range(65)]}, "endpoints"),
        (HTTP, {"endpoints": "http://a"}, "endpoints"),
        (HTTP, {"endpoints": ["http://a", 1]}, "endpoints[1]"),
        (HTTP, {"endpoints": ["http://a", "http://a"]}, "endpoints[1]"),
        (HTTP, {"endpoints": ["ftp://a"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://user:word@a"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://a:0"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://[::1]:65536/x"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://a/x?y=1"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://a/x#y"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["http://a/x y"]}, "endpoints[0]"),
        (HTTP, {"endpoints": ["a:80"]}, "endpoints[0]"),
        (GRPC, {"endpoints": ["a"]}, "endpoints[0]"),
        (GRPC, {"endpoints": ["dns:///a:1"]}, "endpoints[0]"),
        (GRPC, {"endpoints": ["a:70000"]}, "endpoints[0]"),
        (HTTP, {"timeouts": {"connectMs": 0}}, "timeouts.connectMs"),
        (HTTP, {"timeouts": {"readMs": 1.5}}, "timeouts.readMs"),
        (HTTP, {"timeouts": {"writeMs": 1}}, "timeouts.writeMs"),
        (GRPC, {"timeouts": {"readMs": 1}}, "timeouts.readMs"),
        (HTTP, {"retry": {"attempts": 0}}, "retry.attempts"),
        (HTTP, {"retry": 3}, "retry"),
        (HTTP, {"tls": 1}, "tls"),
        (HTTP, {"tls": {"cert": "/c.pem"}}, "tls.key"),
        (HTTP, {"tls": {"key": "/k.pem"}}, "tls.cert"),
        (HTTP, {"tls": {"ca": "x" * 1_001}}, "tls.ca"),
        (HTTP, {"endpoints": ["http://a"], "tls": True}, "tls"),
        (HTTP, {"headers": {"a b": "x"}}, "headers.a b"),
        (HTTP, {"headers": {"a": 1}}, "headers.a"),
        (HTTP, {"headers": {"a": "x\r\nb: y"}}, "headers.a"),
        (HTTP, {"headers": {"Idempotency-Key": "x"}}, "headers.Idempotency-Key"),
        (HTTP, {"headers": {"Content-Length": "1"}}, "headers.Content-Length"),
        (HTTP, {"headers": {f"a{number}": "x" for number in range(65)}}, "headers"),
        (HTTP, {"metadata": {"a": "x"}}, "metadata"),
        (HTTP, {"descriptorSet": "AAAA"}, "descriptorSet"),
        (GRPC, {"headers": {"a": "x"}}, "headers"),
        (GRPC, {"metadata": {"A": "x"}}, "metadata.A"),
        (GRPC, {"metadata": {"grpc-timeout": "x"}}, "metadata.grpc-timeout"),
        (GRPC, {"metadata": {"fencing-token": "1"}}, "metadata.fencing-token"),
        (GRPC, {"metadata": {"a-bin": "?"}}, "metadata.a-bin"),
        (GRPC, {"metadata": {"a": "é"}}, "metadata.a"),
        (GRPC, {"descriptorSet": "AAA"}, "descriptorSet"),
        (GRPC, {"descriptorSet": base64.b64encode(bytes(limits.DESCRIPTOR_SET_BYTES + 1)).decode()}, "descriptorSet"),
        (GRPC, {"circuitBreaker": {"failureThreshold": 0}}, "circuitBreaker.failureThreshold"),
        (GRPC, {"circuitBreaker": {"windowSeconds": 0}}, "circuitBreaker.windowSeconds"),
        (GRPC, {"circuitBreaker": {"openSeconds": 3_601}}, "circuitBreaker.openSeconds"),
        (GRPC, {"circuitBreaker": {"halfOpenCalls": 0}}, "circuitBreaker.halfOpenCalls"),
        (GRPC, {"color": "red"}, "color"),
    ],
)
def test_a_broken_rule_is_refused_at_its_path(record: dict[str, Any], fields: dict[str, Any], path: str) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        read(record, **fields)
    assert refused.value.path == path
    rejected = Driver().do(register(record, **fields))
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.reason) == (Code.INVALID_ARGUMENT, "SERVICE_INVALID")
    assert dict(rejected.metadata) == {"path": path}


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b'{"name":"\xff"}', b'{"a":' * 65 + b"1" + b"}" * 65])
def test_what_is_no_object_is_refused_as_a_whole(document: bytes) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_service(document)
    assert refused.value.path == ""


def test_the_largest_descriptor_set_fits_into_a_record() -> None:
    whole = base64.b64encode(bytes(limits.DESCRIPTOR_SET_BYTES)).decode()
    assert read(GRPC, descriptorSet=whole).descriptor_set == whole
    with pytest.raises(DefinitionInvalid, match=str(limits.SERVICE_BYTES)):
        read(GRPC, description="x" * limits.SERVICE_BYTES)


def test_a_record_replaces_the_one_before() -> None:
    driver = Driver()
    driver.ok(register(HTTP))
    first = queries.service(driver.state, "default", "payments")
    assert first is not None and first.document == json.dumps(HTTP, separators=(",", ":")).encode()
    driver.now_ms += 1_000
    driver.ok(register(HTTP))
    assert queries.service(driver.state, "default", "payments") == first, "the same content changes nothing"
    driver.ok(register(HTTP, endpoints=["https://c"]))
    second = queries.service(driver.state, "default", "payments")
    assert second is not None and b"https://c" in second.document
    assert second.registered_ms == first.registered_ms + 1_000


def test_services_are_by_namespace_and_listed_by_name() -> None:
    driver = Driver()
    for record in (GRPC, HTTP):
        driver.ok(register(record))
    driver.ok(register(HTTP, "other"))
    assert [row.name for row in queries.services(driver.state, "default")] == ["payments", "stock"]
    assert [row.name for row in queries.services(driver.state, "other")] == ["payments"]
    assert queries.service(driver.state, "other", "stock") is None


def test_a_service_is_removed_once() -> None:
    driver = Driver()
    driver.ok(register(HTTP))
    assert driver.do(DeleteService("other", "payments")).reason == "SERVICE_NOT_FOUND"
    assert driver.do(DeleteService("default", "payments")) == Done()
    refused = driver.do(DeleteService("default", "payments"))
    assert isinstance(refused, Rejected)
    assert (refused.code, dict(refused.metadata)) == (Code.NOT_FOUND, {"service": "payments"})
    assert not driver.state.resident[Table.SERVICE]


def test_there_is_a_limit_of_services_and_of_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(limits, "SERVICES", 2)
    driver.ok(register(HTTP))
    driver.ok(register(GRPC))
    assert driver.do(register(HTTP, name="third")).reason == "SERVICES_FULL"
    driver.ok(register(HTTP, description="a change of one that is there needs no place"))
    monkeypatch.setattr(limits, "SERVICES", 3)
    held = sum(len(row.document) for row in queries.services(driver.state, "default"))
    third = text(HTTP, name="third").replace(b" ", b"")
    monkeypatch.setattr(limits, "SERVICES_BYTES", held + len(third))
    driver.ok(RegisterService("default", third))
    before = driver.rows()
    refused = driver.do(register(HTTP, name="third", description="x"))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "SERVICES_FULL")
    assert driver.rows() == before


def test_a_replica_restored_in_between_has_the_same_registry_and_chain() -> None:
    log = [
        register(HTTP),
        register(GRPC),
        register(HTTP, endpoints=["https://moved"]),
        DeleteService("default", "stock"),
        register(GRPC, "other", metadata={"b": "1", "a": "2"}),
        register(HTTP, name=""),
        DeleteService("default", "nobody"),
    ]
    plain, restored = Driver(), Driver()
    for command in log:
        answers = plain.do(command), restored.do(command)
        assert answers[0] == answers[1]
        restored = restored.restart()
        assert restored.machine.chain == plain.machine.chain
    assert restored.rows() == plain.rows()
    assert {key for table, key in plain.rows() if table is Table.SERVICE} == {
        ("default", "payments"), ("other", "stock")
    }
