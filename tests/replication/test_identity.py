"""A data directory belongs to one node of one cluster, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.replication import identity
from orchestrator.replication.errors import DirectoryNotBlank, IdentityError, NotInitialised, WrongCluster, WrongNode
from orchestrator.replication.files import RealFiles
from tests.replication.power_loss import PowerLossFiles

MEMBERS = {"n1": "127.0.0.1:1", "n2": "host.example:2", "n3": "[::1]:3"}


def test_init_then_load(tmp_path: Path) -> None:
    made = identity.initialise(RealFiles(), tmp_path / "data", None, "n1", MEMBERS)
    assert identity.load(RealFiles(), tmp_path / "data", node="n1", cluster_id=made.cluster_id) == made
    assert len(made.incarnation) == 32 and len(made.cluster_id) == 32
    assert made.address_of("n3") == ("::1", 3)
    other = identity.initialise(RealFiles(), tmp_path / "other", made.cluster_id, "n1", MEMBERS)
    assert other.incarnation != made.incarnation


def test_what_does_not_fit_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    files = RealFiles()
    with pytest.raises(NotInitialised, match="orchestrator init"):
        identity.load(files, tmp_path)
    identity.initialise(files, tmp_path / "data", "c1", "n1", MEMBERS)
    with pytest.raises(DirectoryNotBlank, match="choose another directory"):
        identity.initialise(files, tmp_path / "data", "c1", "n1", MEMBERS)
    with pytest.raises(WrongNode, match="correct the node name"):
        identity.load(files, tmp_path / "data", node="n2")
    with pytest.raises(WrongCluster, match="correct the cluster id"):
        identity.load(files, tmp_path / "data", cluster_id="c2")
    with pytest.raises(IdentityError, match="not among the initial members"):
        identity.initialise(files, tmp_path / "x", "c1", "n9", MEMBERS)
    with pytest.raises(IdentityError, match="host:port"):
        identity.initialise(files, tmp_path / "x", "c1", "n1", {"n1": "localhost"})
    (tmp_path / "data" / "node.json").write_text("{")
    with pytest.raises(IdentityError, match="cannot be read"):
        identity.load(files, tmp_path / "data")


def test_an_initialised_node_survives_power_loss() -> None:
    files = PowerLossFiles()
    files.make_durable_directory(Path("/var"))
    made = identity.initialise(files, Path("/var/data"), "c1", "n1", MEMBERS)
    assert identity.load(files.power_loss(), Path("/var/data")) == made


def test_the_power_loss_test_can_fail() -> None:
    files = PowerLossFiles()
    files.make_durable_directory(Path("/var"))
    files.lie = True
    identity.initialise(files, Path("/var/data"), "c1", "n1", MEMBERS)
    with pytest.raises(NotInitialised):
        identity.load(files.power_loss(), Path("/var/data"))
