"""The parts of deploy/README.md that need a container engine or a cluster: their commands, with stand-ins for those.

Files are made and looked for as the page has it; values and compose files are read by the tools that they are for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.test_three_hosts import PAGE, commands
from tests.deploy.tools import ROOT, found

# What would be done by a cluster is only looked at: files that it would read must be there.
KUBECTL = """
for word; do case $word in
    --from-file=*) file=${word#--from-file=}; file=${file#*=}; [ -s "$file" ] || { echo "no $file"; exit 1; };;
esac; done
echo "kubectl $*" >> "$LOG"
"""
HELM = """
echo "helm $*" >> "$LOG"; what=$1; release=$2; shift 2
[ "$what" = rollback ] && exit 0
for word; do shift; [ "$word" = --wait ] || set -- "$@" "$word"; done
exec "$REAL" template "$release" --kube-version 1.37.0 "$@" > rendered.yaml
"""
DOCKER = """
echo "docker $*" >> "$LOG"
[ "$1" = compose ] || exit 0
shift; files=
while [ "$1" = -f ]; do files="$files -f $2"; shift 2; done
exec "$REAL" $files config --quiet
"""


def typed(folder: Path, script: str, programs: dict[str, str], real: str) -> str:
    """Answers what the stand-ins were asked for."""
    (folder / "bin").mkdir()
    # Not for Debian's programs, which have a Python of their own.
    ours = shlex.quote(os.pathsep.join(filter(None, sys.path)))
    orchestrator = f'PYTHONPATH={ours} exec {shlex.quote(sys.executable)} -m orchestrator "$@"'
    for name, text in {**programs, "orchestrator": orchestrator}.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o700)
    environment = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "REAL": real,
                   "LOG": str(folder / "log")}
    done = subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout
    return (folder / "log").read_text()


def test_the_chart_takes_what_the_page_makes(tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    for name in ("access.toml", "node.secret", "secret.keys", "admin.token"):
        (tmp_path / name).write_text("of another part\n")
    asked = typed(tmp_path, "\n".join(commands("Kubernetes")), {"kubectl": KUBECTL, "helm": HELM, "docker": "exit 0"},
                  found("helm", where=str(ROOT / ".make" / "helm")))
    assert "orders-0.orders-peers.shop.svc.cluster.local:7500" in (tmp_path / "rendered.yaml").read_text()
    assert asked.count("helm upgrade") == 2 and "orchestrator cluster replace orders-1" in asked


def test_compose_takes_what_the_page_makes(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for folder in ("deploy/docker", "deploy/monitoring/grafana/provisioning"):
        (project / folder).mkdir(parents=True)
    for file in ("compose.yaml", "compose.secure.yaml", "compose.redis.yaml"):
        (project / "deploy" / "docker" / file).write_bytes((ROOT / "deploy" / "docker" / file).read_bytes())
    (tmp_path / "shop" / "hosts").mkdir(parents=True)
    (tmp_path / "shop" / "admin.token").write_text("token\n")
    asked = typed(project, "\n".join(commands("Docker Compose")), {"docker": DOCKER, "sudo": "exit 0"},
                  found("docker-compose"))
    assert asked.count("docker compose up --detach --no-deps --wait") == 3
    assert f"HOSTS={tmp_path / 'shop' / 'hosts'}" in (project / "deploy" / "docker" / ".env").read_text()


@pytest.mark.parametrize("section", ["systemd", "Docker Compose", "Kubernetes"])
def test_every_command_of_ours_is_one(section: str) -> None:
    """Also those within sentences and behind `exec`."""
    from orchestrator.cli.app import cli

    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    named = re.findall(r"(?:orchestrator |`)(cluster|tls|secret|access) ([a-z]+)\b", text)
    assert named or section == "systemd"
    for group, command in named:
        assert command in cli.commands[group].commands, f"{group} {command}"  # type: ignore[attr-defined]  # a group
