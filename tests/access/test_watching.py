"""The rules in force are those of the files as they are: whatever way they were replaced, and whole or not at all."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from orchestrator.access.principals import ANONYMOUS, Credentials
from orchestrator.access.roles import Need
from orchestrator.access.rules_file import RulesInvalid
from orchestrator.access.watching import Rules
from tests.access.issuing import ISSUER, Issuer

GRANT = '[[grant]]\nto = ["anonymous"]\nrole = "{}"\nnamespaces = ["*"]\n'
JWT = f'[[jwt]]\nname = "corp"\nissuer = "{ISSUER}"\naudience = "orchestrator"\njwks_file = "keys.json"\n'


class Watched:
    """Rules, and what was told of them."""

    def __init__(self, path: Path) -> None:
        self.rules = Rules(path)
        self.reloads: list[bool] = []
        self.changes = 0
        self.rules.on_reload = self.reloads.append
        self.rules.on_change = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def look(self) -> None:
        asyncio.run(self.rules.look())

    def may(self, need: Need) -> bool:
        return self.rules.policy.holder(ANONYMOUS).decide(need, "default").allowed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(GRANT.format("reader"))
    return path


def test_what_stays_the_same_is_not_read_anew(file: Path) -> None:
    watched = Watched(file)
    policy = watched.rules.policy
    os.utime(file, (1, 1))
    watched.look()
    assert watched.rules.policy is policy and watched.reloads == [] and watched.changes == 0


def test_another_content_counts_even_at_the_same_time_and_length(file: Path) -> None:
    file.write_text(GRANT.format("reader") + GRANT.format("operator").replace("*", "other"))
    watched = Watched(file)
    before = file.stat()
    file.write_text(GRANT.format("reader").replace("*", "other") + GRANT.format("operator"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    watched.look()
    assert watched.may(Need.OPERATE) and watched.reloads == [True] and watched.changes == 1


def test_a_link_to_another_file_counts(tmp_path: Path) -> None:
    """As volumes are replaced: the file is a link through a link to a folder, which is exchanged in one step."""
    for version, role in (("1", "reader"), ("2", "operator")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "access.toml").write_text(GRANT.format(role))
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "access.toml").symlink_to("data/access.toml")
    watched = Watched(tmp_path / "access.toml")
    assert not watched.may(Need.OPERATE)
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(tmp_path / "data")
    watched.look()
    assert watched.may(Need.OPERATE)


@pytest.mark.parametrize("wrong", ["[[grant]]", "nonsense", None])
def test_what_is_wrong_is_told_once_and_the_old_rules_stay(
    file: Path, wrong: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(file)
    if wrong is None:
        file.unlink()
    else:
        file.write_text(wrong)
    for _ in range(3):
        watched.look()
    assert watched.may(Need.READ) and watched.changes == 0 and watched.reloads == [False]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    file.write_text(GRANT.format("admin"))
    watched.look()
    assert watched.may(Need.ADMINISTER) and watched.reloads == [False, True]


def test_the_same_mistake_is_told_again_after_it_was_mended(file: Path) -> None:
    watched = Watched(file)
    right = file.read_text()
    for text in ("nonsense", right, "nonsense"):
        file.write_text(text)
        watched.look()
    assert watched.reloads == [False, False]


def test_keys_that_change_count_too(tmp_path: Path) -> None:
    old, new = Issuer(), Issuer()
    old.write(tmp_path / "keys.json")
    file = tmp_path / "access.toml"
    file.write_text(JWT)
    watched = Watched(file)
    shown = Credentials(authorization="Bearer " + old.token())
    assert watched.rules.policy.authenticate(shown, 0).principal.name == "corp:alice"
    new.write(tmp_path / "keys.json")
    watched.look()
    with pytest.raises(Exception, match="not valid"):
        watched.rules.policy.authenticate(shown, 0)
    (tmp_path / "keys.json").write_text("{}")
    watched.look()
    assert watched.reloads == [True, False]
    again = Credentials(authorization="Bearer " + new.token())
    assert watched.rules.policy.authenticate(again, 0).principal.name == "corp:alice"


def test_a_node_does_not_start_with_rules_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(RulesInvalid):
        Rules(tmp_path / "none.toml")
