"""`orchestrator service`: files in, records out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli
from orchestrator.cli.session import Session
from orchestrator_client import InvalidRequest, NotFound
from tests.cli.fakes import FakeClient

PAYMENTS = {"name": "payments", "endpoints": ["https://a", "https://b"], "retry": {"attempts": 2}}
STOCK = {"name": "stock", "protocol": "GRPC", "endpoints": ["stock:50051"], "descriptorSet": "AAEC"}


class Registry(FakeClient):
    """With services, too."""

    async def service(self, name: str) -> dict[str, Any]:
        self._called("service", name)
        return {"payments": PAYMENTS, "stock": STOCK}[name]

    async def services(self) -> AsyncIterator[dict[str, Any]]:
        self._called("services")
        for record in (PAYMENTS, STOCK):
            yield {key: value for key, value in record.items() if key != "descriptorSet"}


@pytest.fixture
def fake() -> Registry:
    return Registry()


def run(fake: Registry, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["service", *arguments], obj=Session(connect=fake))


def test_all_records_of_the_files_are_registered(fake: Registry, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(PAYMENTS))
    (tmp_path / "two.yaml").write_text("name: a\nendpoints: [http://a]\n---\nname: b\nendpoints: [http://b]\n")
    result = run(fake, "register", str(tmp_path / "one.json"), str(tmp_path / "two.yaml"), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"registered": ["payments", "a", "b"]})
    assert [call[1]["name"] for call in fake.calls if call[0] == "register_service"] == ["payments", "a", "b"]


def test_a_descriptor_set_goes_along_with_one_record(fake: Registry, tmp_path: Path) -> None:
    one, many, descriptors = tmp_path / "one.json", tmp_path / "many.json", tmp_path / "stock.binpb"
    one.write_text(json.dumps(STOCK))
    many.write_text(json.dumps([STOCK, PAYMENTS]))
    descriptors.write_bytes(b"\x0a\x00")
    assert run(fake, "register", str(one), "--descriptor-set", str(descriptors)).exit_code == 0
    assert fake.calls[-1] == ("register_service", STOCK, b"\x0a\x00")
    result = run(fake, "register", str(many), "--descriptor-set", str(descriptors))
    assert (result.exit_code, result.stderr) == (2, "error: --descriptor-set is for one service, not 2\n")


def test_a_record_is_shown_to_people_and_to_scripts(fake: Registry) -> None:
    text = run(fake, "get", "stock").stdout
    assert "stock:50051" in text and "3 bytes" in text and "AAEC" not in text
    assert json.loads(run(fake, "get", "payments", "--json").stdout) == PAYMENTS
    assert '{"attempts": 2}' in run(fake, "get", "payments").stdout


def test_services_are_listed(fake: Registry) -> None:
    lines = run(fake, "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["SERVICE", "PROTOCOL", "ENDPOINTS"],
        ["payments", "HTTP", "https://a,", "https://b"],
        ["stock", "GRPC", "stock:50051"],
    ]
    assert [record["name"] for record in json.loads(run(fake, "list", "--json").stdout)] == ["payments", "stock"]


def test_a_service_is_deleted(fake: Registry) -> None:
    assert "deleted stock" in run(fake, "delete", "stock").stdout
    assert fake.calls[-1] == ("delete_service", "stock")


@pytest.mark.parametrize(("error", "code"), [
    (NotFound("no service 'x'", reason="SERVICE_NOT_FOUND"), 3),
    (InvalidRequest("endpoints: there must be 1 to 64", reason="SERVICE_INVALID"), 2),
])
def test_what_went_wrong_is_an_exit_code(fake: Registry, error: Exception, code: int) -> None:
    fake.fails = error
    result = run(fake, "delete", "x")
    assert (result.exit_code, result.stderr) == (code, f"error: {error}\n")
