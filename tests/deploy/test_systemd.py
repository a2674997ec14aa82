"""deploy/systemd/: what systemd itself says of the unit, and that it knows how a node starts and ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli import exits
from orchestrator.cli.app import cli
from orchestrator.config import SETTINGS
from tests.deploy.tools import ROOT, found

UNIT = ROOT / "deploy" / "systemd" / "orchestrator@.service"
# Of 100, in which less is better; what is left of it is the network, which a node is there for.
EXPOSURE_MAX = 15
# What a node needs besides system_drain_ms to hand over and to write what it has: deploy/README.md.
REST_SECONDS = 10


def settings() -> dict[str, list[str]]:
    lines = [line.partition("=") for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {name: [value for key, _, value in lines if key == name] for name, _, _ in lines}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Node a's, with a program that is there."""
    text = UNIT.read_text()
    [command] = settings()["ExecStart"]
    unit = tmp_path / UNIT.name.replace("@", "@a")
    unit.write_text(text.replace(command.split()[0], "/bin/true"))
    return unit


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([found("systemd-analyze"), "--no-pager", *arguments], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_systemd_understands_every_line(installed: Path) -> None:
    done = analyze("verify", installed)
    assert (done.returncode, done.stdout) == (0, "")
    installed.write_text(installed.read_text().replace("ProtectSystem=strict", "ProtectSystems=strict"))
    assert "ProtectSystems" in analyze("verify", installed).stdout


def test_what_the_service_may_do_is_little(installed: Path) -> None:
    security = ["security", "--offline=yes", f"--threshold={EXPOSURE_MAX}"]
    assert (done := analyze(*security, installed)).returncode == 0, done.stdout
    installed.write_text(installed.read_text().replace("SystemCallFilter", "#"))
    assert analyze(*security, installed).returncode != 0


def test_what_somebody_has_to_look_at_is_not_started_again() -> None:
    [codes] = settings()["RestartPreventExitStatus"]
    assert {int(code) for code in codes.split()} == {
        exits.USAGE, exits.DATA_DIRECTORY_REFUSED, exits.NODE_STOPPED_ITSELF}
    assert settings()["Restart"] == ["on-failure"]


def test_a_stop_has_the_time_that_it_takes() -> None:
    [seconds] = settings()["TimeoutStopSec"]
    assert int(seconds) >= SETTINGS["system_drain_ms"].default / 1000 + REST_SECONDS


def test_the_node_is_started_with_the_file_of_its_name(tmp_path: Path) -> None:
    [command], [directory] = settings()["ExecStart"], settings()["StateDirectory"]
    program, *arguments = command.split()
    assert program.endswith("/bin/orchestrator") and directory == "orchestrator"
    (tmp_path / "a.toml").write_text((ROOT / "deploy" / "three-nodes" / "a.toml").read_text())
    given = [each.replace("/etc/orchestrator", str(tmp_path)).replace("%i", "a") for each in arguments]
    assert CliRunner().invoke(cli, [*given, "--check"]).output == "the configuration is right\n"


def test_whom_nodes_run_as_is_made_by_systemd(tmp_path: Path) -> None:
    command = [found("systemd-sysusers"), "--dry-run", f"--root={tmp_path}"]
    file = tmp_path / "usr" / "lib" / "sysusers.d" / "orchestrator.conf"
    file.parent.mkdir(parents=True)
    file.write_bytes(UNIT.with_name("orchestrator.sysusers").read_bytes())
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert f"Creating user '{settings()['User'][0]}'" in done.stdout + done.stderr
