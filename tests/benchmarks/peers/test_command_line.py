"""Which peers are asked for, which of them are measured, and what is said of the others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.peers import __main__ as peers
from tests.benchmarks.peers import installation
from tests.benchmarks.peers.catalogue import PEERS


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "CACHE", tmp_path)


def test_peers_are_named_and_all_are_all() -> None:
    assert benchmarks._peers("restate,celery") == ["restate", "celery"]
    assert benchmarks._peers("all") == list(PEERS)
    with pytest.raises(argparse.ArgumentTypeError, match=r"no peer reddis; there are .*redis-always"):
        benchmarks._peers("celery,reddis")


def test_a_peer_that_is_not_installed_is_skipped_and_the_command_that_helps_is_said(
    empty_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmarks._installed(["restate-3"]) == []
    said = capsys.readouterr().err
    assert said.strip() == (
        "restate-3 is skipped: restate not installed: python -m tests.benchmarks.peers install restate-3"
    )


def test_peers_without_the_row_that_they_can_do_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--rows", "start", "--peers", "celery"])
    with pytest.raises(SystemExit):
        benchmarks.main()
    assert "peers are measured in w3 only" in capsys.readouterr().err


def test_the_list_says_what_is_in_the_way(
    empty_cache: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", "list"])
    assert peers.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(PEERS)
    assert all("not installed" in line for line in lines)


def test_what_can_not_be_installed_is_said_and_the_others_are(
    empty_cache: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["peers", "install", "redis-always", "restate"])
    assert peers.main() == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "redis: not installable: redis needs apt-get, dpkg, setpriv",
        "redis-services: not installable: redis-services needs setpriv",
        "restate: not installable: restate needs npm, setpriv",
    ]
