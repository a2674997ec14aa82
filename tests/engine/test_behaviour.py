"""What of a command a node may meet only from a behaviour level on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import behaviour
from orchestrator.engine.commands import FireTimers, RaiseBehaviour


class Note(msgspec.Struct, frozen=True, array_like=True, tag=9_002):
    """No subclass of Command, for tests walk those."""

    text: str
    colour: str = ""
    size: int = 3


def test_a_command_and_its_new_fields_need_the_levels_that_they_came_with(monkeypatch: pytest.MonkeyPatch) -> None:
    level_needed: Any = behaviour.level_needed
    fields_since: Any = behaviour.FIELDS_SINCE
    commands_since: Any = behaviour.COMMANDS_SINCE
    assert level_needed(Note("x", "red")) == 1
    monkeypatch.setitem(fields_since, Note, {"colour": 2, "size": 4})
    notes = [Note("x"), Note("x", "red"), Note("x", size=5), Note("x", "red", 5), Note("x", "", 3)]
    assert [level_needed(note) for note in notes] == [1, 2, 4, 4, 1]
    monkeypatch.setitem(commands_since, Note, 3)
    assert [level_needed(note) for note in notes] == [3, 3, 4, 4, 3]


def test_only_a_raise_leads_to_a_level() -> None:
    assert behaviour.level_led_to(RaiseBehaviour(4)) == 4
    assert behaviour.level_led_to(FireTimers()) == 0


def test_this_code_knows_the_levels_that_it_says() -> None:
    assert 1 <= behaviour.LOWEST <= behaviour.HIGHEST
    since = [*behaviour.COMMANDS_SINCE.values()]
    since += [level for fields in behaviour.FIELDS_SINCE.values() for level in fields.values()]
    assert all(behaviour.LOWEST < level <= behaviour.HIGHEST for level in since)
