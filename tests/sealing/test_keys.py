"""Keys: what is sealed opens with its key and at its place only, and a key file says what is wrong with it."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path

import pytest

from orchestrator.engine.model import Table
from orchestrator.engine.resident import SecretRow
from orchestrator.engine.state import State
from orchestrator.sealing.errors import KeyFileInvalid, KeyUnknown, NoKeys, SealBroken
from orchestrator.sealing.key_file import KeyFile
from orchestrator.sealing.keys import KEY_BYTES, Keys, key_id, new_key_line, parse_key_file
from orchestrator.sealing.secret_values import SecretValues, without_keys

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
PLACE = ("default", "KEY", "1")


def line(key: bytes) -> bytes:
    return base64.b64encode(key) + b"\n"


def test_a_sealed_value_shows_nothing_and_opens_again() -> None:
    keys = Keys([NEW])
    sealed = keys.seal(b"hunter2", PLACE, os.urandom)
    assert b"hunter2" not in sealed
    assert keys.open(sealed, keys.sealing_id, PLACE) == b"hunter2"
    assert keys.seal(b"hunter2", PLACE, os.urandom) != sealed


def test_the_first_key_seals_and_all_open() -> None:
    sealed = Keys([OLD]).seal(b"v", PLACE, os.urandom)
    both = Keys([NEW, OLD])
    assert both.sealing_id == key_id(NEW) != key_id(OLD)
    assert both.open(sealed, key_id(OLD), PLACE) == b"v"
    with pytest.raises(KeyUnknown, match=key_id(OLD)):
        Keys([NEW]).open(sealed, key_id(OLD), PLACE)


@pytest.mark.parametrize("position", range(3))
def test_a_value_that_was_moved_elsewhere_does_not_open(position: int) -> None:
    keys = Keys([NEW])
    sealed = keys.seal(b"v", PLACE, os.urandom)
    elsewhere = tuple(part + "0" if number == position else part for number, part in enumerate(PLACE))
    with pytest.raises(SealBroken):
        keys.open(sealed, keys.sealing_id, elsewhere)


def test_parts_of_the_place_do_not_run_into_each_other() -> None:
    keys = Keys([NEW])
    with pytest.raises(SealBroken):
        keys.open(keys.seal(b"v", ("a", "bc"), os.urandom), keys.sealing_id, ("ab", "c"))


@pytest.mark.parametrize("damage", [lambda one: one[:-1] + bytes([one[-1] ^ 1]), lambda one: one[:20], lambda one: b""])
def test_a_value_that_was_changed_does_not_open(damage: object) -> None:
    keys = Keys([NEW])
    with pytest.raises(SealBroken):
        keys.open(damage(keys.seal(b"value", PLACE, os.urandom)), keys.sealing_id, PLACE)  # type: ignore[operator]


def test_a_key_that_is_made_can_be_read() -> None:
    made = new_key_line(os.urandom)
    assert parse_key_file(f"# of May\n\n {made} \n".encode(), "f").ids == (key_id(base64.b64decode(made)),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "there is no key in it"),
        (b"# nothing\n", "there is no key in it"),
        (b"# one\nnot base64!\n", "line 2: not a key"),
        (line(b"short"), "line 1: not a key"),
        (line(NEW) * 2, "line 2: this key is there already"),
        (b"".join(line(bytes([number]) * KEY_BYTES) for number in range(101)), "there may be 100 keys"),
    ],
)
def test_what_is_wrong_with_a_key_file_is_told_without_what_is_in_it(text: bytes, why: str) -> None:
    with pytest.raises(KeyFileInvalid, match=why) as refused:
        parse_key_file(text, "secret.keys")
    assert "secret.keys" in str(refused.value) and base64.b64encode(b"short").decode() not in str(refused.value)


class File:
    def __init__(self, text: bytes) -> None:
        self.text: bytes | None = text

    def read(self, path: Path) -> bytes:
        if self.text is None:
            raise FileNotFoundError(2, "No such file or directory")
        return self.text


async def test_a_file_that_changes_is_read_again_and_one_that_breaks_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = File(line(OLD))
    held = KeyFile(Path("secret.keys"), file.read)
    held.load()
    assert held.keys.ids == (key_id(OLD),)
    for text in (line(NEW) + line(OLD), None, b"x", b"x"):
        file.text = text
        await held.look()
        assert held.keys.ids == (key_id(NEW), key_id(OLD))
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2 and "can't be read: No such file" in errors[0] and "line 1: not a key" in errors[1]


def test_a_node_does_not_start_without_the_keys_that_it_was_told_to_have() -> None:
    file = File(b"")
    with pytest.raises(KeyFileInvalid):
        KeyFile(Path("f"), file.read).load()
    file.text = None
    with pytest.raises(KeyFileInvalid, match="can't be read"):
        KeyFile(Path("f"), file.read).load()


def state_of(*rows: SecretRow) -> State:
    state = State("c", 0)
    for row in rows:
        state.resident[Table.SECRET][row.namespace, row.name] = row
    return state


def test_a_node_without_keys_neither_seals_nor_opens() -> None:
    values, row = without_keys(), SecretRow("default", "KEY", 1, key_id(OLD), b"", 1, 1)
    with pytest.raises(NoKeys):
        values.seal("default", "KEY", 1, b"v")
    with pytest.raises(NoKeys):
        values.open(row)
    assert "no secret_keys_file" in values.why_closed(row)
    assert values.count_closed(state_of(row)) == 1


def test_a_row_opens_in_its_own_namespace_name_and_version_only() -> None:
    file = File(line(NEW))
    held = KeyFile(Path("f"), file.read)
    held.load()
    values = SecretValues(held, os.urandom)
    sealed = values.seal("default", "KEY", 3, b"v")
    assert values.open(SecretRow("default", "KEY", 3, *sealed, 1, 1)) == b"v"
    for row in (("other", "KEY", 3), ("default", "OTHER", 3), ("default", "KEY", 2)):
        with pytest.raises(SealBroken):
            values.open(SecretRow(*row, *sealed, 1, 1))
    assert values.why_closed(SecretRow("default", "KEY", 3, *sealed, 1, 1)) == ""
    lost = SecretRow("default", "LOST", 3, key_id(OLD), b"", 1, 1)
    assert key_id(OLD) in values.why_closed(lost)
    assert values.count_closed(state_of(lost, SecretRow("default", "KEY", 3, *sealed, 1, 1))) == 1
