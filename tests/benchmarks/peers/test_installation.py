"""What is installed is what is pinned, and what can't be installed says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.peers import installation
from tests.benchmarks.peers.installation import Installation, NotInstallable, run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(installation, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def leave_file(directory: Path) -> None:
    assert not list(directory.iterdir())
    (directory / "program").touch()


def test_it_is_installed_once_and_anew_when_a_pin_has_changed(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("a==1\n", encoding="utf-8")
    found = Installation("one", (requirements, "1.2"), (), leave_file)
    assert not found.installed
    found.ensure()
    assert found.installed
    found.ensure()
    requirements.write_text("a==2\n", encoding="utf-8")
    assert not found.installed
    found.ensure()
    assert found.installed and (found.directory / "program").exists()
    assert not Installation("one", (requirements, "1.3"), (), leave_file).installed


def test_a_program_that_is_missing_is_named() -> None:
    found = Installation("two", (), ("sh", "no-such-program"), leave_file)
    with pytest.raises(NotInstallable, match="two needs no-such-program"):
        found.ensure()
    assert not found.directory.exists()


def test_what_failed_half_way_is_not_installed() -> None:
    def fail(directory: Path) -> None:
        leave_file(directory)
        run(["sh", "-c", "echo what it said >&2; exit 7"], directory)

    found = Installation("three", (), (), fail)
    for _ in range(2):  # the second time it begins with an empty directory again
        with pytest.raises(NotInstallable, match=r"(?s)exit code 7.*what it said"):
            found.ensure()
        assert not found.installed
