"""The slow disk: whatever way the log syncs by, each sync takes longer, and once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.clusters import MeasuredCluster, environment
from tests.benchmarks.node import SlowFiles

EXTRA_S = 0.005


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("tests.benchmarks.node.time.sleep", found.append)
    return found


def test_each_sync_takes_longer(tmp_path: Path, slept: list[float]) -> None:
    files = SlowFiles(EXTRA_S)
    file = files.open_append(tmp_path / "journal")
    file.write(b"a")
    assert slept == []
    file.fdatasync()
    file.write_synced(b"b")
    files.sync_directory(tmp_path)
    assert slept == [EXTRA_S] * 3
    file.close()
    assert files.read(tmp_path / "journal") == b"ab"


def test_only_the_nodes_that_shall_be_slow_are(tmp_path: Path) -> None:
    cluster = MeasuredCluster(tmp_path, {})
    cluster.sync_ms["b"] = 50
    commands = {name: cluster._command(of) for name, of in cluster.nodes.items()}
    assert "tests.benchmarks.node" not in commands["a"]
    assert commands["b"][1:6] == [
        "-m", "tests.benchmarks.node", "--config", str(cluster.nodes["b"].config_file), "--sync-ms",
    ]


def test_with_a_relay_a_node_listens_where_it_did_and_advertises_the_relay(tmp_path: Path) -> None:
    cluster = MeasuredCluster(tmp_path, {})
    own = cluster.nodes["a"]
    listen = own.peer_address
    assert f'peer_listen = "{listen}"' in cluster._toml(own)
    own.peer_address = own.peer_address._replace(port=1)
    lines = cluster._toml(own).splitlines()
    assert [line for line in lines if line.startswith("peer_")] == [
        f'peer_listen = "{listen}"', 'peer_advertise = "127.0.0.1:1"',
    ]


def test_processes_that_are_measured_keep_their_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("KEPT", "yes")
    for given in (environment(), MeasuredCluster(tmp_path, {})._child_environment()):
        assert "PYTHONDONTWRITEBYTECODE" not in given
        assert given["KEPT"] == "yes"
