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


def test_the_commands_of_the_page_make_three_nodes(tmp_path: Path) -> None:
    page = (DEPLOY / "README.md").read_text()
    members = re.search(r'MEMBERS="(.*)"', page)
    assert members is not None
    made = []
    for node in "abc":
        text = (DEPLOY / "three-nodes" / f"{node}.toml").read_text()
        (tmp_path / f"{node}.toml").write_text(text)
        arguments = ["init", "--config", str(tmp_path / f"{node}.toml"), "--cluster-id", "C", *shlex.split(members[1])]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        made.append((tmp_path / "data" / node / "node.json").read_text())
    assert len(set(made)) == 3


def test_the_page_leads_to_nodes_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, and the samples with the `#` taken away, are a configuration that `serve --check` finds right."""
    page = (DEPLOY / "README.md").read_text()
    [command] = re.findall(r"^orchestrator (tls init .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(cli, shlex.split(command))
    assert made.exit_code == 0, made.output
    settings = re.search(r"```toml\n(peer_tls.*?)```", page, re.DOTALL)
    assert settings is not None
    for node in "abc":
        text = (DEPLOY / "three-nodes" / f"{node}.toml").read_text()
        assert re.sub(r"^# ", "", text[text.index("# peer_tls"):], flags=re.MULTILINE) == settings[1].replace(
            "tls/a.", f"tls/{node}.")
        Path(f"{node}.toml").write_text(re.sub(r"^# (\w+_tls_)", r"\1", text, flags=re.MULTILINE))
        checked = CliRunner().invoke(cli, ["serve", "--config", f"{node}.toml", "--check"])
        assert checked.exit_code == 0, checked.output
    renewals = re.findall(r"^orchestrator (tls (?:renew|node|show) .*?) *#.*$", page, re.MULTILINE)
    assert len(renewals) == 3
    for renewal in renewals:
        assert CliRunner().invoke(cli, shlex.split(renewal)).exit_code == 0, renewal
    variables = re.findall(r"^export (ORCHESTRATOR_TLS_\w+)=\$PWD/(.*)$", page, re.MULTILINE)
    assert TLS.from_environment({name: str(tmp_path / file) for name, file in variables}) == TLS(
        str(tmp_path / "tls/authority.pem"), str(tmp_path / "tls/ops.pem"), str(tmp_path / "tls/ops.key"))


def test_the_commands_of_the_page_make_rules_that_the_nodes_take(tmp_path: Path) -> None:
    """All of the section but for what needs nodes that run."""
    page = (DEPLOY / "README.md").read_text()
    section = page.split("## Who may do what\n")[1].split("\n## ")[0]
    commands = [block for block in re.findall(r"^```sh\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
                if "cluster leader" not in block]
    assert len(commands) == 4
    for node in "abc":
        (tmp_path / f"{node}.toml").write_text((DEPLOY / "three-nodes" / f"{node}.toml").read_text())
    command = tmp_path / "orchestrator"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m orchestrator "$@"\n')
    command.chmod(0o700)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
                   "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = "\n".join(["set -eu", *commands, *(f"orchestrator serve --config {node}.toml --check" for node in "abc")])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, text=True, capture_output=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "grant 1: admin in *" in done.stdout and done.stdout.count("the configuration is right") == 3
    token = (tmp_path / "admin.token").read_text().strip()
    policy = read_rules(tmp_path / "access.toml")
    assert policy.authenticate(Credentials(authorization=f"Bearer {token}"), 0).principal.name == "admin"
    assert [(tmp_path / name).stat().st_mode & 0o77 for name in ("admin.token", "node.secret")] == [0, 0]


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
