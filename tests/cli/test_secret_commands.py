"""`orchestrator secret`: values come from files, stdin or a prompt, and are never printed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli
from orchestrator.cli.session import Session
from orchestrator.sealing.keys import parse_key_file
from orchestrator_client.secrets import Rotation, SecretInfo
from tests.cli.fakes import FakeClient

VALUE = "hunter2-of-the-bank"
THEN = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
SHOWN = f"{THEN.astimezone():%Y-%m-%d %H:%M:%S}".split()


class Secrets:
    def __init__(self, fake: FakeClient) -> None:
        self._fake = fake

    async def put(self, name: str, value: str) -> int:
        self._fake._called("put", name, value)
        return 3

    async def list(self) -> AsyncIterator[SecretInfo]:
        yield SecretInfo("BANK", 3, "0123456789abcdef", THEN, THEN, readable=True)
        yield SecretInfo("POST", 1, "fedcba9876543210", THEN, THEN, readable=False)

    async def get(self, name: str) -> SecretInfo:
        return SecretInfo(name, 3, "0123456789abcdef", THEN, THEN, readable=True)

    async def delete(self, name: str) -> None:
        self._fake._called("delete", name)

    async def rotate(self) -> Rotation:
        return Rotation(2, 5, "0123456789abcdef")


@pytest.fixture
def fake() -> FakeClient:
    fake = FakeClient()
    fake.secrets = Secrets(fake)  # type: ignore[attr-defined]
    return fake


def run(fake: FakeClient, *arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["secret", *arguments], obj=Session(connect=fake), input=given)


def said(fake: FakeClient) -> list[tuple[Any, ...]]:
    return [call for call in fake.calls if call[0] != "connect"]


@pytest.mark.parametrize(
    ("given", "value"),
    [(VALUE, VALUE), (VALUE + "\n", VALUE), (VALUE + "\r\n", VALUE), ("a\nb\n\n", "a\nb\n"), (" a ", " a ")],
)
def test_a_value_comes_from_stdin_without_its_last_end_of_line(fake: FakeClient, given: str, value: str) -> None:
    result = run(fake, "put", "BANK", given=given.encode())
    assert (result.exit_code, said(fake)) == (0, [("put", "BANK", value)])
    assert "put BANK, version 3" in result.stdout and VALUE not in result.output


def test_a_value_comes_from_a_file(fake: FakeClient, tmp_path: Path) -> None:
    (tmp_path / "bank").write_text(VALUE + "\n")
    result = run(fake, "put", "BANK", "--from-file", str(tmp_path / "bank"), "--json")
    assert json.loads(result.stdout) == {"put": "BANK", "version": 3}
    assert said(fake) == [("put", "BANK", VALUE)]


def test_a_value_is_no_argument(fake: FakeClient) -> None:
    result = run(fake, "put", "BANK", VALUE)
    assert result.exit_code == 2
    assert said(fake) == []


def test_what_is_no_text_is_refused(fake: FakeClient) -> None:
    result = run(fake, "put", "BANK", given=b"\xff\xfe")
    assert result.exit_code == 2 and "not text in UTF-8" in result.output
    assert said(fake) == []


def test_secrets_are_listed_without_values(fake: FakeClient) -> None:
    lines = [line.split() for line in run(fake, "list").stdout.splitlines()]
    assert lines == [
        ["SECRET", "VERSION", "KEY", "READABLE", "UPDATED"],
        ["BANK", "3", "0123456789abcdef", "yes", *SHOWN],
        ["POST", "1", "fedcba9876543210", "no", *SHOWN],
    ]
    assert [one["name"] for one in json.loads(run(fake, "list", "--json").stdout)] == ["BANK", "POST"]


def test_one_secret_is_shown_without_its_value(fake: FakeClient) -> None:
    lines = run(fake, "get", "BANK").stdout.splitlines()
    assert lines[1].split() == ["BANK", "3", "0123456789abcdef", "yes", *SHOWN]


def test_a_secret_is_deleted(fake: FakeClient) -> None:
    assert "deleted BANK" in run(fake, "delete", "BANK").stdout
    assert said(fake) == [("delete", "BANK")]


def test_secrets_are_sealed_anew(fake: FakeClient) -> None:
    assert "sealed 2 of 5 secrets with the key 0123456789abcdef" in run(fake, "rotate").stdout


def test_a_key_is_made_and_its_id_told(fake: FakeClient, tmp_path: Path) -> None:
    made = run(fake, "key").stdout
    assert made != run(fake, "key").stdout
    (tmp_path / "secret.keys").write_text("# of May\n" + made + run(fake, "key").stdout)
    ids = parse_key_file((tmp_path / "secret.keys").read_bytes(), "f").ids
    assert run(fake, "key", "--ids", str(tmp_path / "secret.keys")).stdout.split() == ["KEY", *ids]
    assert json.loads(run(fake, "key", "--ids", str(tmp_path / "secret.keys"), "--json").stdout) == [*ids]
    assert fake.calls == []


def test_a_file_without_keys_is_said_to_be_wrong(fake: FakeClient, tmp_path: Path) -> None:
    (tmp_path / "secret.keys").write_text("no key\n")
    result = run(fake, "key", "--ids", str(tmp_path / "secret.keys"))
    assert result.exit_code == 2 and "line 1: not a key" in result.output
