"""`orchestrator schema`: files in, records out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli
from orchestrator.cli.session import Session
from tests.cli.fakes import FakeClient

ORDER = {"name": "order", "version": 2, "type": "JSON", "data": {"type": "object"}}


class Schemas:
    def __init__(self, fake: FakeClient) -> None:
        self._fake = fake

    async def register_records(self, *records: Mapping[str, Any], overwrite: bool = False) -> None:
        self._fake._called("register", records, overwrite)

    async def get(self, name: str, version: int | None = None) -> dict[str, Any]:
        self._fake._called("get", name, version)
        return ORDER

    async def list(self) -> AsyncIterator[dict[str, Any]]:
        yield {"name": "order", "version": 2, "description": "of a shop"}
        yield {"name": "plain"}

    async def delete(self, name: str, version: int | None = None) -> None:
        self._fake._called("delete", name, version)


@pytest.fixture
def fake() -> FakeClient:
    fake = FakeClient()
    fake.schemas = Schemas(fake)  # type: ignore[attr-defined]
    return fake


def run(fake: FakeClient, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["schema", *arguments], obj=Session(connect=fake))


def said(fake: FakeClient) -> list[tuple[Any, ...]]:
    return [call for call in fake.calls if call[0] != "connect"]


def test_all_records_of_the_files_are_registered_together(fake: FakeClient, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ORDER))
    (tmp_path / "two.yaml").write_text("name: a\ndata: {type: object}\n---\nname: b\ndata: {}\n")
    files = [str(tmp_path / "one.json"), str(tmp_path / "two.yaml")]
    result = run(fake, "register", *files, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (
        0, {"registered": ["order version 2", "a version 1", "b version 1"]})
    records = (ORDER, {"name": "a", "data": {"type": "object"}}, {"name": "b", "data": {}})
    assert said(fake) == [("register", records, False)]
    assert run(fake, "register", files[0], "--overwrite").exit_code == 0
    assert said(fake)[-1] == ("register", (ORDER,), True)


def test_a_record_is_shown_with_its_schema(fake: FakeClient) -> None:
    assert json.loads(run(fake, "get", "order", "--version", "2").stdout) == ORDER
    run(fake, "get", "order")
    assert said(fake) == [("get", "order", 2), ("get", "order", None)]


def test_schemas_are_listed(fake: FakeClient) -> None:
    lines = [line.split() for line in run(fake, "list").stdout.splitlines()]
    assert lines == [["SCHEMA", "VERSION", "DESCRIPTION"], ["order", "2", "of", "a", "shop"], ["plain", "1"]]


def test_one_version_is_deleted_or_all(fake: FakeClient) -> None:
    assert "deleted order version 2" in run(fake, "delete", "order", "--version", "2").stdout
    assert "deleted order" in run(fake, "delete", "order").stdout
    assert said(fake) == [("delete", "order", 2), ("delete", "order", None)]
