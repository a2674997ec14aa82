"""Making a node, and how its process ends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.__main__ import GRPC_EXPERIMENTS
from orchestrator.cli.app import cli
from orchestrator.cli.node_commands import run_until_signal
from orchestrator.replication.errors import JournalCorrupt, WrongNode

MEMBERS = ["--member", "a=h1:7500", "--member", "b=h2:7500", "--member", "c=h3:7500"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_init_makes_a_directory_once(tmp_path: Path) -> None:
    arguments = ["init", "--data-dir", str(tmp_path / "new" / "a"), "--node", "a", *MEMBERS, "--cluster-id", "C"]
    result = run(*arguments, "--json")
    made = json.loads(result.stdout)
    assert result.exit_code == 0 and made["cluster_id"] == "C" and made["members"]["c"] == "h3:7500"
    assert json.loads((tmp_path / "new" / "a" / "node.json").read_text())["incarnation"] == made["incarnation"]
    again = run(*arguments)
    assert again.exit_code == 3 and "is not blank" in again.stderr


def test_init_before_each_start_makes_the_directory_the_first_time_only(tmp_path: Path) -> None:
    said_twice = ["init", "--if-blank", "--data-dir", str(tmp_path / "a"), *MEMBERS, "--member", "a=h1:7500"]
    arguments = [*said_twice, "--cluster-id", "C", "--node", "a"]
    made = json.loads(run(*arguments, "--json").stdout)
    assert sorted(made["members"]) == ["a", "b", "c"]
    assert json.loads(run(*arguments, "--json").stdout) == made
    for of_another in (["--cluster-id", "D", "--node", "a"], ["--cluster-id", "C", "--node", "b"]):
        assert run(*said_twice, *of_another).exit_code == 3
    (tmp_path / "a" / "node.json").unlink()
    (tmp_path / "a" / "journal").mkdir()
    assert "is not blank" in run(*arguments).stderr


def test_init_takes_name_and_directory_from_the_file_that_serve_will_use(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    listen = 'peer_listen = "0.0.0.0:7500"\npeer_advertise = "h1:7500"\ninsecure = true'
    file.write_text(f'node = "a"\ndata_dir = "data"\n{listen}')
    result = run("init", "--config", str(file), *MEMBERS, "--cluster-id", "C")
    assert result.exit_code == 0 and (tmp_path / "data" / "node.json").exists()


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--node", "a", *MEMBERS], 2, "--cluster-id is needed"),
    (["--node", "x", *MEMBERS, "--cluster-id", "C"], 3, "'x' is not among the initial members"),
    (["--node", "a", *MEMBERS, "--member", "a=h4:7500", "--cluster-id", "C"], 2, "names a node twice"),
    (["--node", "a", *MEMBERS, "--member", "d=h1:7500", "--cluster-id", "C"], 2, "two nodes the same address"),
    (["--node", "a", "--member", "a"], 2, "NAME=HOST:PORT"),
    (["--node", "a", "--member", "a=:7500"], 2, "NAME=HOST:PORT"),
    (["--node", "a", "--member", "a=h:port"], 2, "port"),
    (["--node", "a"], 2, "--member"),
    (MEMBERS, 2, "node is not set"),
])
def test_init_refuses(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    result = run("init", "--data-dir", str(tmp_path / "a"), *arguments)
    assert result.exit_code == code and words in result.stderr
    assert not (tmp_path / "a").exists()


def test_init_notices_that_others_were_told_another_address(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('node = "a"\ndata_dir = "data"\npeer_listen = "h9:7500"\ninsecure = true')
    result = run("init", "--config", str(file), *MEMBERS, "--cluster-id", "C")
    assert result.exit_code == 2 and "advertises h9:7500" in result.stderr


def test_one_node_alone_needs_no_cluster_id(tmp_path: Path) -> None:
    assert run("init", "--data-dir", str(tmp_path / "a"), "--node", "a", "--member", "a=h1:7500").exit_code == 0


def test_serve_checks_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('node = "a"\ndata_dir = "data"')
    assert run("serve", "--config", str(file), "--check").exit_code == 0
    wrong = run("serve", "--config", str(file), "--check", "--heartbeat-ms", "1")
    assert wrong.exit_code == 2 and wrong.stderr == "error: heartbeat_ms must be from 5 to 5000, not 1\n"
    assert run("serve", "--config", str(tmp_path / "absent"), "--check").exit_code == 2


def test_serve_looks_at_the_keys_of_secrets_before_it_begins(tmp_path: Path) -> None:
    file, keys = tmp_path / "a.toml", tmp_path / "secret.keys"
    file.write_text('node = "a"\ndata_dir = "data"\nsecret_keys_file = "secret.keys"')
    absent = run("serve", "--config", str(file), "--check")
    assert absent.exit_code == 2 and f"{keys} can't be read: No such file" in absent.stderr
    keys.write_text("no key\n")
    broken = run("serve", "--config", str(file), "--check")
    assert broken.exit_code == 2 and "line 1: not a key" in broken.stderr
    keys.write_text(run("secret", "key").stdout)
    keys.chmod(0o644)
    open_to_all = run("serve", "--config", str(file), "--check")
    assert open_to_all.exit_code == 0 and f"chmod o= {keys}" in open_to_all.stderr
    keys.chmod(0o640)
    assert run("serve", "--config", str(file), "--check").stderr == ""


def test_serve_refuses_a_directory_that_is_not_its_own_and_an_address_that_nobody_dials(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "a")
    blank = run("serve", "--node", "a", "--data-dir", data_dir)
    assert blank.exit_code == 3 and "orchestrator init" in blank.stderr
    run("init", "--data-dir", data_dir, "--node", "a", *MEMBERS, "--cluster-id", "C")
    other = run("serve", "--node", "b", "--data-dir", data_dir)
    assert other.exit_code == 3 and "belongs to node 'a'" in other.stderr
    address = run("serve", "--node", "a", "--data-dir", data_dir, "--peer-listen", "h7:7500", "--insecure")
    assert address.exit_code == 2 and "reach a at h1:7500" in address.stderr


@pytest.mark.parametrize(("error", "code"), [
    (None, 0), (WrongNode("b"), 3), (JournalCorrupt("hole"), 3), (OSError(errno.EADDRINUSE, "in use"), 1),
    (OSError(errno.EIO, "disk"), 4), (MemoryError(), 4), (ValueError("bug"), 4), (asyncio.CancelledError(), 4),
])
def test_how_a_node_ends_is_its_exit_code(error: BaseException | None, code: int) -> None:
    async def node() -> None:
        if error is not None:
            raise error

    assert run_until_signal(node) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_node_in_order(number: signal.Signals) -> None:
    steps: list[str] = []

    async def node() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("closed")

    assert run_until_signal(node) == 0 and steps == ["closed"]


def test_grpc_knows_how_a_node_has_it_wait_for_sockets() -> None:
    """It says so on standard error if it has forgotten; then nodes are only slower, and the line is to go."""
    program = "import grpc.aio, asyncio\nasync def main(): grpc.aio.server()\nasyncio.run(main())"
    environment = {**os.environ, "GRPC_EXPERIMENTS": GRPC_EXPERIMENTS}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "Unknown experiment" not in done.stderr


def test_what_grpc_was_told_by_its_environment_counts() -> None:
    program = (
        "import os, orchestrator.__main__ as node\n"
        "try: node.main()\n"
        "finally: print(os.environ['GRPC_EXPERIMENTS'])"
    )
    other = "-tcp_frame_size_tuning"
    for told, found in (({}, GRPC_EXPERIMENTS), ({"GRPC_EXPERIMENTS": other}, other)):
        inherited = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
        done = subprocess.run(
            [sys.executable, "-c", program, "--help"], env={**inherited, **told}, capture_output=True, text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == found
