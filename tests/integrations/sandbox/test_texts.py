"""No unpaired surrogate is left in a JSON text, and nothing else of it changes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX
from orchestrator.integrations.sandbox.protocol import MESSAGE_CHARACTERS_MAX, Limits, shortened
from orchestrator.integrations.sandbox.texts import well_formed

ANY_TEXT = st.text(st.characters(), max_size=20)  # surrogates included


@given(ANY_TEXT, st.booleans())
def test_every_unpaired_surrogate_is_replaced(text: str, in_upper_case: bool) -> None:
    written = json.dumps({"a": text, "\\u": ["\\ud800", text]})
    if in_upper_case:
        written = written.replace("\\ud", "\\uD")
    paired = json.loads(json.dumps(text))  # what are two characters in Python is one after JSON
    expected = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in paired)
    found = json.loads(well_formed(written.encode()))
    assert found["a"] == expected
    found["a"].encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_everything_else_stays_as_it_is(text: str) -> None:
    for written in (json.dumps(text).encode(), json.dumps(text, ensure_ascii=False).encode()):
        assert well_formed(written) == written


@given(st.text(st.characters(), max_size=2 * MESSAGE_CHARACTERS_MAX))
def test_messages_are_short_and_can_be_encoded(text: str) -> None:
    assert len(shortened(text).encode("utf-8")) <= 4 * MESSAGE_CHARACTERS_MAX
    assert len(shortened(text)) <= MESSAGE_CHARACTERS_MAX


def test_an_output_may_be_as_large_as_a_payload() -> None:
    assert Limits().output_bytes == PAYLOAD_BYTES_MAX
