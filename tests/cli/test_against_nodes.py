"""The command line as a person uses it: real processes, real nodes, and what `$?` says after each command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster

pytest.importorskip("orchestrator.node", exc_type=ImportError)

WAITS_FOR_PAYMENT = {
    "name": "order", "version": 1, "schemaVersion": 2, "outputParameters": {"by": "${pay.output.by}"},
    "tasks": [{"name": "pay", "taskReferenceName": "pay", "type": "WAIT", "inputParameters": {"signal": "paid"}}],
}
Spawn = Callable[..., subprocess.Popen[str]]
COMMAND = [sys.executable, "-m", "orchestrator"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def orchestrator(endpoints: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *arguments], env=environment(ORCHESTRATOR_ENDPOINTS=endpoints), text=True,
                          capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
async def endpoints(tmp_path: Path) -> AsyncIterator[str]:
    async with LocalCluster(tmp_path / "cluster") as cluster:
        yield ",".join(cluster.endpoints)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a command whose stdout and stderr are one; it is gone when the test is over."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen([*COMMAND, *arguments], env=environment(), text=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_workflow_from_its_registration_to_its_end(endpoints: str, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text(json.dumps(WAITS_FOR_PAYMENT))
    assert orchestrator(endpoints, "cluster", "status")[0] == 0
    assert orchestrator(endpoints, "workflow", "register", str(file))[0] == 0
    assert orchestrator(endpoints, "workflow", "start", "order", "--id", "o1")[:2] == (0, "✓ started o1\n")
    code, out, err = orchestrator(endpoints, "workflow", "start", "order", "--id", "o1")
    assert (code, out) == (4, "") and "WORKFLOW_ALREADY_EXISTS" in err
    assert orchestrator(endpoints, "workflow", "get", "o9")[0] == 3
    assert orchestrator(endpoints, "workflow", "wait", "o1", "--wait-timeout", "0.2")[0] == 5
    assert orchestrator(endpoints, "workflow", "signal", "o1", "paid", "-p", '{"by": "card"}')[0] == 0
    code, out, _ = orchestrator(endpoints, "workflow", "wait", "o1", "--json")
    assert code == 0 and json.loads(out)["output"] == {"by": "card"}
    orchestrator(endpoints, "workflow", "start", "order", "--id", "o2")
    assert orchestrator(endpoints, "workflow", "terminate", "o2", "--reason", "why")[0] == 0
    assert orchestrator(endpoints, "workflow", "watch", "o2")[0] == 1
    assert orchestrator(endpoints, "workflow", "pause", "o2")[0] == 4
    found = json.loads(orchestrator(endpoints, "workflow", "list", "--json", "--status", "TERMINATED")[1])
    assert [(workflow["workflow_id"], workflow["reason"]) for workflow in found] == [("o2", "why")]


def test_a_definition_that_breaks_a_rule_is_wrong_usage(endpoints: str, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text('{"name": "order", "version": 1, "tasks": [{"name": "x"}]}')
    code, out, err = orchestrator(endpoints, "workflow", "register", str(file))
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1


def test_dev_runs_until_it_is_told_to_stop_and_leaves_no_process(tmp_path: Path, spawn: Spawn) -> None:
    # Ports are free ones, because a directory that a cluster has used keeps its ports.
    cluster = LocalCluster(tmp_path)
    cluster.prepare()
    process = spawn("dev", "--plain", "--data-dir", str(tmp_path))
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any("leads in term" in line for line in lines)
    endpoints = ",".join(cluster.endpoints)
    assert orchestrator(endpoints, "cluster", "leader")[0] == 0
    process.send_signal(signal.SIGINT)
    assert any("stopped" in line for line in lines)
    assert process.wait(timeout=20) == 0
    code, _, err = orchestrator(endpoints, "cluster", "status")
    assert code == 5 and "no node answers" in err


def test_a_port_that_is_taken_is_a_failure_to_start(tmp_path: Path, spawn: Spawn) -> None:
    cluster = LocalCluster(tmp_path, nodes=1)
    cluster.prepare()
    file = str(cluster.nodes["a"].config_file)
    first = spawn("serve", "--config", file)
    assert first.stdout is not None
    assert any("serves" in line for line in iter(first.stdout.readline, ""))
    (tmp_path / "copy").mkdir()
    second_data = tmp_path / "copy" / "data"
    made = subprocess.run([*COMMAND, "init", "--node", "a", "--data-dir", str(second_data), "--member",
                           f"a={cluster.nodes['a'].peer_address}"], env=environment(), check=False)
    assert made.returncode == 0
    second = subprocess.run([*COMMAND, "serve", "--config", file, "--data-dir", str(second_data)], env=environment(),
                            capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1 and "could not start" in second.stderr
    first.send_signal(signal.SIGTERM)
    first.stdout.read()
    assert first.wait(timeout=20) == 0
