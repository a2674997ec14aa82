"""Masks: a value is found as it is, in JSON, in URLs and in its parts, and everything else keeps its text."""

from __future__ import annotations

import json

import pytest

from orchestrator.sealing.masks import Masks

VALUE = 'hunter2/of "the" bänk'


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"got {VALUE}!", "got ***!"),
        (f"{VALUE}{VALUE}", "******"),
        ("https://x/?k=hunter2%2Fof%20%22the%22%20b%C3%A4nk&a=1", "https://x/?k=***&a=1"),
        ("k=hunter2%2Fof+%22the%22+b%C3%A4nk", "k=***"),
        ('{"k":"hunter2/of \\"the\\" bänk"}', '{"k":"***"}'),
        ('{"k":"hunter2/of \\"the\\" b\\u00e4nk"}', '{"k":"***"}'),
        ("hunter2", "hunter2"),
    ],
)
def test_a_value_is_found_in_texts(text: str, masked: str) -> None:
    assert Masks([VALUE]).text(text) == masked


def test_json_is_masked_wherever_the_value_stands_and_however_it_is_written() -> None:
    masks = Masks([VALUE, "12345678901"])
    escaped = "".join(f"\\u{ord(character):04x}" for character in VALUE)
    text = b'{ "a" : 1.50, "b":[{"k":"%b"},"x%by"], "%b":null, "n":12345678901, "m":1e3 }' % (
        escaped.encode(), json.dumps(VALUE)[1:-1].encode(), escaped.encode()
    )
    assert masks.json(text) == b'{"a":1.50,"b":[{"k":"***"},"x***y"],"***":null,"n":"***","m":1e3}'


def test_what_has_nothing_of_it_keeps_its_values() -> None:
    text = b'{"a":1.50,"b":["\\u0041",true,null,-0.0,12345678901234567890],"c":{}}'
    assert Masks([VALUE]).json(text) == text
    assert Masks([VALUE]).json(b"") == b""


def test_what_is_short_is_not_looked_for() -> None:
    masks = Masks(["1234567", "", "a"])
    assert not masks
    assert masks.text("1234567") == "1234567" and masks.json(b'{"a":"1234567"}') == b'{"a":"1234567"}'


def test_the_longest_is_found_first() -> None:
    assert Masks(["password", "password-of-ann"]).text("password-of-ann, password") == "***, ***"


def test_each_line_and_each_text_of_a_value_is_looked_for() -> None:
    keys, login = "-----BEGIN KEY-----\nMIIEvQIBADANBg\r\nshort\n", '{"user":"ann","inner":[{"password":"hunter2-of"}]}'
    masks = Masks([keys, login])
    assert masks.text("MIIEvQIBADANBg, short, hunter2-of, ann") == "***, short, ***, ann"


@pytest.mark.parametrize("value", ["{not json", "[" * 100_000, '{"a":1'])
def test_what_only_begins_like_json_is_a_text(value: str) -> None:
    assert Masks([value]).text(f"<{value}>") == ("<***>" if len(value) >= 8 else f"<{value}>")


def test_the_beginning_of_a_value_at_the_end_of_what_was_cut_off_is_masked() -> None:
    masks = Masks([VALUE])
    assert masks.text("got hunter2/of", is_cut=True) == "got ***"
    assert masks.text("got hunter2/of") == "got hunter2/of"
    assert masks.text("hunter2/of it", is_cut=True) == "hunter2/of it"
    assert masks.text("hunt", is_cut=True) == "hunt"
    assert masks.json(b'{"body":"got hunter2/of \\"th","n":1}', is_cut=True) == b'{"body":"got ***","n":1}'
