"""`orchestrator tls`: what it makes, what it says of it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli

NODES = ["--node", "a=a.example,10.0.0.1", "--node", "b=b.example"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["tls", *map(str, arguments)])


def made(*arguments: str | Path) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.output)["made"]
    return found


def test_init_makes_everything_and_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("init", "tls", *NODES, "--client", "ops", "--days", "30")
    assert result.exit_code == 0, result.output
    names = {f"{name}.{kind}" for name in ("authority", "a", "b", "ops") for kind in ("pem", "key")}
    assert {file.name for file in (tmp_path / "tls").iterdir()} == names
    for line in ('peer_tls_certificate = "tls/a.pem"', 'grpc_tls_authority = "tls/authority.pem"',
                 "a, a.example, 10.0.0.1", "(30 days)",
                 f"export ORCHESTRATOR_TLS_KEY={(tmp_path / 'tls').resolve()}/ops.key"):
        assert line in result.output
    assert "3 certificates" in result.output and "made 1 certificate for" in run("client", "tls", "shop").output


def test_a_mistake_makes_nothing(tmp_path: Path) -> None:
    for arguments, words in (
        ([*NODES, "--node", "c=c:7500"], "'c:7500' is neither a host name nor an IP address"),
        ([*NODES, "--client", "a"], "a is named twice"),
        ([*NODES, "--client", "a/b"], "'a/b' is no name"),
        (["--node", "a"], "'a' is not NAME=HOST"),
        ([], "--node"),
    ):
        result = run("init", tmp_path / "tls", *arguments)
        assert result.exit_code == 2 and words in result.output, result.output
        assert not (tmp_path / "tls").exists()


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    assert run("init", tmp_path, *NODES).exit_code == 0
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for nodes in (NODES, ["--node", "c=c.example"]):
        result = run("init", tmp_path, *nodes)
        assert result.exit_code == 2 and "exists" in result.output
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_more_of_the_same_authority_and_renewal(tmp_path: Path) -> None:
    run("init", tmp_path, *NODES)
    [node] = made("node", tmp_path, "c=c.example")
    [client] = made("client", tmp_path, "ui")
    assert (node["for"], node["use"]) == (["c", "c.example"], "server, client")
    assert (client["for"], client["use"]) == (["ui"], "client")
    [renewed] = made("renew", tmp_path, "c", "--days", "90")
    assert renewed["serial_number"] != node["serial_number"] and renewed["for"] == node["for"]
    assert len(made("renew", tmp_path)) == 4
    assert run("renew", tmp_path, "nobody").exit_code == 2
    assert run("node", tmp_path / "elsewhere", "c=c.example").exit_code == 2


def test_show_says_who_for_whom_and_until_when(tmp_path: Path) -> None:
    run("init", tmp_path, *NODES, "--days", "10")
    result = run("show", tmp_path / "a.pem", tmp_path / "authority.pem")
    assert result.exit_code == 0
    for word in ("a, a.example, 10.0.0.1", "server, client", "authority", "(10 days)"):
        assert word in result.output
    [shown] = json.loads(run("show", tmp_path / "a.pem", "--json").output)
    assert (shown["name"], shown["signed_by"]) == ("a", "orchestrator")
    for file, code in ((tmp_path / "a.key", 2), (tmp_path / "gone", 1)):
        assert run("show", file).exit_code == code
