"""Static tokens: random, kept as a hash, found by their id, compared whole."""

from __future__ import annotations

import secrets

import pytest

from orchestrator.access import tokens


def test_a_token_matches_its_own_hash_and_no_other() -> None:
    token, kept = tokens.make(secrets.token_bytes)
    other, other_kept = tokens.make(secrets.token_bytes)
    assert token != other and kept.id != other_kept.id
    assert kept.matches(token)
    for wrong in (other, token[:-1], token + "A", token.replace("orc_", "orc-"), ""):
        assert not kept.matches(wrong)


def test_the_hash_is_read_back_and_says_nothing_of_the_secret() -> None:
    token, kept = tokens.make(secrets.token_bytes)
    again = tokens.parse_hash(str(kept))
    assert again == kept and again.matches(token)
    secret = token.split("_", 2)[2]  # which may have an underscore itself
    assert secret not in str(kept)
    assert tokens.id_of(token) == kept.id


def test_a_token_has_256_random_bits_and_each_hash_a_salt_of_its_own() -> None:
    asked: list[int] = []

    def random_bytes(count: int) -> bytes:
        asked.append(count)
        return secrets.token_bytes(count)

    tokens.make(random_bytes)
    assert 32 in asked and 16 in asked


@pytest.mark.parametrize("text", ["", "sha256", "sha256:abc:de:f0", f"md5:{'a' * 16}:{'0' * 32}:{'0' * 64}"])
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="access token"):
        tokens.parse_hash(text)


@pytest.mark.parametrize("text", ["", "orc", "orc_", "abc_def_ghi", "x.y.z"])
def test_what_is_no_token_has_no_id(text: str) -> None:
    assert tokens.id_of(text) == "" or not tokens.id_of(text).strip("abcdefghijklmnopqrstuvwxyz234567")
