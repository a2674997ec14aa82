"""Secrets as rows: versions, limits, and sealing anew; their values are nobody's business here."""

from __future__ import annotations

import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.model import Table
from orchestrator.engine.resident import SecretRow
from orchestrator.engine.results import Code, Done, Rejected, SecretStored
from orchestrator.engine.secret_commands import DeleteSecret, PutSecret, ResealSecret
from tests.engine.driver import START_MS, Driver


def put(name: str = "KEY", version: int = 1, sealed: bytes = b"sealed", namespace: str = "default") -> PutSecret:
    return PutSecret(namespace, name, version, "k1", sealed)


def refused(result: object) -> tuple[Code, str]:
    assert isinstance(result, Rejected)
    return result.code, result.reason


def test_a_secret_has_versions_and_times() -> None:
    driver = Driver()
    assert driver.do(put()) == SecretStored(1)
    driver.wait(1_000)
    assert driver.do(put(version=2, sealed=b"another")) == SecretStored(2)
    row = SecretRow("default", "KEY", 2, "k1", b"another", START_MS, driver.now_ms)
    assert queries.secret(driver.state, "default", "KEY") == row
    assert queries.secret(driver.restart().state, "default", "KEY") == row


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_value_that_is_sealed_for_another_version_is_refused(version: int) -> None:
    driver = Driver()
    driver.ok(put())
    before = driver.rows()
    assert refused(driver.do(put(version=version))) == (Code.FAILED_PRECONDITION, "SECRET_CHANGED")
    assert driver.rows() == before


def test_the_same_again_under_another_key_keeps_version_and_times() -> None:
    driver = Driver()
    driver.ok(put())
    driver.wait(1_000)
    assert driver.do(ResealSecret("default", "KEY", 1, "k2", b"anew")) == Done()
    row = SecretRow("default", "KEY", 1, "k2", b"anew", START_MS, START_MS)
    assert queries.every_secret(driver.state) == [row]


@pytest.mark.parametrize(
    "command", [ResealSecret("default", "KEY", 2, "k2", b"x"), ResealSecret("default", "OTHER", 1, "k2", b"x")]
)
def test_what_was_replaced_or_deleted_meanwhile_is_not_sealed_anew(command: ResealSecret) -> None:
    driver = Driver()
    driver.ok(put())
    before = queries.every_secret(driver.state)
    assert driver.do(command) == Done()
    assert queries.every_secret(driver.state) == before


def test_a_secret_is_deleted_once() -> None:
    driver = Driver()
    driver.ok(put())
    driver.ok(put(namespace="other"))
    assert driver.do(DeleteSecret("default", "KEY")) == Done()
    assert refused(driver.do(DeleteSecret("default", "KEY"))) == (Code.NOT_FOUND, "SECRET_NOT_FOUND")
    assert [row.namespace for row in queries.every_secret(driver.state)] == ["other"]
    assert queries.secrets_of(driver.state, "default") == []


@pytest.mark.parametrize("name", ["", "a b", "1a", "a.b", "é", "x" * 101, "a}", "$a"])
def test_a_name_is_what_an_expression_can_name(name: str) -> None:
    assert refused(Driver().do(put(name))) == (Code.INVALID_ARGUMENT, "SECRET_INVALID")


def test_a_value_has_a_limit() -> None:
    driver = Driver()
    driver.ok(put(sealed=b"x" * limits.SEALED_BYTES))
    too_long = b"x" * (limits.SEALED_BYTES + 1)
    assert refused(driver.do(put("B", sealed=too_long))) == (Code.INVALID_ARGUMENT, "SECRET_INVALID")


def test_a_namespace_and_the_cluster_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECRETS", 2)
    monkeypatch.setattr(limits, "SECRETS_IN_ALL", 3)
    driver = Driver()
    driver.ok(put("A"))
    driver.ok(put("B"))
    assert refused(driver.do(put("C"))) == (Code.RESOURCE_EXHAUSTED, "SECRETS_FULL")
    driver.ok(put("B", 2))
    driver.ok(put("A", namespace="other"))
    assert refused(driver.do(put("A", namespace="third"))) == (Code.RESOURCE_EXHAUSTED, "SECRETS_FULL")
    assert len(driver.state.resident[Table.SECRET]) == 3
