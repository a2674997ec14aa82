"""The three files that people copy are right, agree with the page that explains them, and with each other."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.access.principals import Credentials
from orchestrator.access.rules_file import read_rules
from orchestrator.cli.app import cli
from orchestrator.cli.session import DEFAULT_ENDPOINTS
from orchestrator.config import Config, ConfigError, load
from orchestrator_client import TLS

DEPLOY = Path(__file__).parents[2] / "deploy"


def sample(node: str) -> Config:
    return load(DEPLOY / "three-nodes" / f"{node}.toml", {}, {})


@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_each_file_is_that_nodes(node: str) -> None:
    config = sample(node)
    assert config.node == node and config.data_dir.name == node


def test_all_three_run_on_one_machine_where_the_command_line_looks_for_them() -> None:
    configs = [sample(node) for node in "abc"]
    listens = [address for c in configs for address in (c.grpc_listen, c.peer_listen, c.metrics_listen)]
    assert len(set(listens)) == 9
    assert ",".join(str(c.grpc_address) for c in configs) == DEFAULT_ENDPOINTS


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder with all files, as the commands of the page's first steps make them."""
    page = (DEPLOY / "README.md").read_text()
    section = page.split("\n## Three nodes\n")[1].split("\n## ")[0]
    steps = section[:section.index("```sh\nNODE=a")]
    commands = re.findall(r"^```sh\n(.*?)^```", steps, flags=re.DOTALL | re.MULTILINE)
    project = tmp_path / "project"
    project.mkdir()
    (project / "deploy").symlink_to(DEPLOY)
    command = tmp_path / "orchestrator"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m orchestrator "$@"\n')
    command.chmod(0o700)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
                   "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(["bash", "-euc", "\n".join(commands)], cwd=project, env=environment, text=True,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "grant 1: admin in *" in done.stdout and done.stdout.count("the configuration is right") == 3
    return tmp_path / "shop"


def test_the_commands_of_the_page_make_three_nodes(shop: Path) -> None:
    [command] = re.findall(r"^orchestrator (init (?:.*\\\n)*.*)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    made = []
    for node in "abc":
        folder = shop / "hosts" / node
        typed = command.replace("\\\n", "").replace("$NODE.toml", str(folder / f"{node}.toml"))
        arguments = shlex.split(typed.replace("$(cat cluster.id)", (folder / "cluster.id").read_text()))
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        made.append((folder / "data" / node / "node.json").read_text())
    assert len(set(made)) == 3


def test_the_page_leads_to_nodes_with_tls(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its files, and the settings that the page shows; clients have theirs, and all can be renewed."""
    page = (DEPLOY / "README.md").read_text()
    settings = re.search(r"```toml\n(peer_tls.*?)```", page, re.DOTALL)
    assert settings is not None
    for node in "abc":
        assert settings[1].replace("tls/a.", f"tls/{node}.") in (shop / f"{node}.toml").read_text()
        config = load(shop / "hosts" / node / f"{node}.toml", {}, {})
        assert str(config.grpc_address) == f"{node}.example:7400"
        assert str(config.peer_address) == f"{node}.example:7500"
        assert (config.grpc_listen, config.peer_listen, config.metrics_listen) == (
            "0.0.0.0:7400", "0.0.0.0:7500", "127.0.0.1:7600")
    monkeypatch.chdir(shop)
    renewals = re.findall(r"^orchestrator (tls (?:renew|client|show) .*?) *#.*$", page, re.MULTILINE)
    assert len(renewals) == 3
    for renewal in renewals:
        assert CliRunner().invoke(cli, shlex.split(renewal)).exit_code == 0, renewal
    variables = re.findall(r"^export (ORCHESTRATOR_TLS_\w+)=\$PWD/(.*)$", page, re.MULTILINE)
    assert TLS.from_environment({name: str(shop / file) for name, file in variables}) == TLS(
        str(shop / "tls/authority.pem"), str(shop / "tls/ops.pem"), str(shop / "tls/ops.key"))


def test_the_page_leads_to_rules_that_the_nodes_take(shop: Path) -> None:
    token = (shop / "admin.token").read_text().strip()
    policy = read_rules(shop / "access.toml")
    assert policy.authenticate(Credentials(authorization=f"Bearer {token}"), 0).principal.name == "admin"
    secrets = [file for file in shop.rglob("*") if file.suffix in (".token", ".secret", ".keys", ".key")]
    assert len(secrets) == 17 and not any(file.stat().st_mode & 0o77 for file in secrets)
    assert not list(shop.glob("hosts/*/**/authority.key")) and not list(shop.glob("hosts/*/admin.token"))


def test_the_page_has_all_its_parts_in_its_contents() -> None:
    page = (DEPLOY / "README.md").read_text()
    parts = {re.sub(r"[^a-z ]", "", part.lower()).replace(" ", "-") for part in re.findall(r"^##+ (.*)$", page, re.M)}
    assert set(re.findall(r"\]\(#([a-z-]+)\)", page)) <= parts
    contents = page[:page.index("\n## ")]
    assert {f"#{part}" for part in parts} - set(re.findall(r"\((#[a-z-]+)\)", contents)) == {"#a-node-out-of-service"}


def test_the_hints_for_three_machines_are_right_too(tmp_path: Path) -> None:
    text = (DEPLOY / "three-nodes" / "a.toml").read_text()
    changed = re.sub(r"127\.0\.0\.1:(74|75)", r"0.0.0.0:\1", text).replace("# grpc_adv", "grpc_adv").replace(
        "# peer_adv", "peer_adv")
    (tmp_path / "a.toml").write_text(changed)
    with pytest.raises(ConfigError, match="beyond loopback"):
        load(tmp_path / "a.toml", {}, {})
    (tmp_path / "a.toml").write_text(re.sub(r"^# (\w+_tls_)", r"\1", changed, flags=re.MULTILINE))
    config = load(tmp_path / "a.toml", {}, {})
    assert config.grpc_tls_client_authority == str(tmp_path / "tls" / "authority.pem")
    assert str(config.grpc_address) == "a.example:7400" and str(config.peer_address) == "a.example:7500"
