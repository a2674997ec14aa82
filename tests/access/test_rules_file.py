"""The access file: what it says is taken whole, and what is wrong in it is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orchestrator.access import tokens
from orchestrator.access.policy import Policy
from orchestrator.access.principals import ANONYMOUS, Credentials, Known, NotAuthenticated, Principal
from orchestrator.access.roles import Need
from orchestrator.access.rules_file import RulesInvalid, read_rules
from tests.access.issuing import ISSUER, Issuer

NOW_MS = 1_900_000_000_000
# The same in each process: they are in the names of tests.
DICE = random.Random(7)
TOKEN, HASH = tokens.make(DICE.randbytes)
OTHER, OTHER_HASH = tokens.make(DICE.randbytes)


def read(folder: Path, text: str) -> Policy:
    path = folder / "access.toml"
    path.write_text(text)
    return read_rules(path)


def bearer(policy: Policy, token: str) -> Principal:
    return policy.authenticate(Credentials(authorization=f"Bearer {token}"), NOW_MS).principal


def test_an_empty_file_lets_nobody_do_anything(tmp_path: Path) -> None:
    policy = read(tmp_path, "")
    assert policy.authenticate(Credentials(), NOW_MS).principal == ANONYMOUS
    nobody = policy.holder(ANONYMOUS)
    assert [need for need in Need if nobody.decide(need, "default").allowed] == [Need.NOTHING]


def test_tokens_know_their_principals(tmp_path: Path) -> None:
    policy = read(tmp_path, f"""
        [[token]]
        name = "shop"
        hash = "{HASH}"
        groups = ["shops"]
        [[token]]
        name = "old"
        hash = "{OTHER_HASH}"
        expires = 2027-01-01T00:00:00Z
    """)
    assert bearer(policy, TOKEN) == Principal("shop", Known.TOKEN, frozenset({"shops"}))
    assert bearer(policy, TOKEN) is bearer(policy, TOKEN)  # remembered
    for wrong, reason in ((OTHER, "TOKEN_EXPIRED"), (TOKEN + "x", "TOKEN_INVALID"), ("", "TOKEN_INVALID")):
        with pytest.raises(NotAuthenticated) as refused:
            bearer(policy, wrong)
        assert refused.value.reason == reason
        assert wrong == "" or wrong not in str(refused.value)


@pytest.mark.parametrize("authorization", ["Basic abc", "Bearer", "Node a.1.b", TOKEN])
def test_other_ways_prove_nothing(tmp_path: Path, authorization: str) -> None:
    with pytest.raises(NotAuthenticated):
        read(tmp_path, "").authenticate(Credentials(authorization=authorization), NOW_MS)


def test_certificates_know_their_principals_by_the_first_that_matches(tmp_path: Path) -> None:
    policy = read(tmp_path, """
        [[certificate]]
        common_name = "ops"
        groups = ["operators"]
        [[certificate]]
        uri = "spiffe://cluster/ns/pay/*"
        principal = "pay"
        [[certificate]]
        dns = "*.workers.test"
        principal = "workers"
    """)

    def who(common_name: str = "", *names: str) -> str:
        return policy.authenticate(Credentials("", common_name, names), NOW_MS).principal.name

    assert who("ops") == "ops" and who("ops", "a.workers.test") == "ops"
    assert who("", "spiffe://cluster/ns/pay/sa/x") == "pay"
    assert who("else", "10.0.0.1", "a.workers.test") == "workers"
    assert who("oops") == who("OPS") == who("", "ops") == who("a.workers.test") == who() == "anonymous"


def test_an_authorization_that_is_wrong_is_not_passed_over_for_a_certificate(tmp_path: Path) -> None:
    policy = read(tmp_path, '[[certificate]]\ncommon_name = "ops"')
    with pytest.raises(NotAuthenticated):
        policy.authenticate(Credentials("Bearer nonsense", "ops"), NOW_MS)


def test_issuers_are_trusted_for_their_own_names(tmp_path: Path) -> None:
    signer, other = Issuer(), Issuer(issuer="https://other.test")
    signer.write(tmp_path / "keys.json")
    other.write(tmp_path / "other.json")
    entry = '[[jwt]]\nname = "{}"\nissuer = "{}"\naudience = "orchestrator"\njwks_file = "{}"\n'
    policy = read(tmp_path, entry.format("corp", ISSUER, "keys.json") + entry.format("b", other.issuer, "other.json"))
    assert bearer(policy, signer.token()).name == "corp:alice"
    assert bearer(policy, other.token()).name == "b:alice"
    forged = Issuer(issuer=other.issuer).token()
    for token in (forged, Issuer(issuer="https://third.test").token()):
        with pytest.raises(NotAuthenticated):
            bearer(policy, token)


def test_what_was_remembered_of_a_token_ends_with_it(tmp_path: Path) -> None:
    signer = Issuer()
    signer.write(tmp_path / "keys.json")
    policy = read(tmp_path, f'[[jwt]]\nname="corp"\nissuer="{ISSUER}"\naudience="orchestrator"\njwks_file="keys.json"')
    shown = Credentials(authorization="Bearer " + signer.token(exp=1_900_000_100))
    assert policy.authenticate(shown, NOW_MS).expires_ms == 1_900_000_130_000
    with pytest.raises(NotAuthenticated) as refused:
        policy.authenticate(shown, 1_900_000_130_000)
    assert refused.value.reason == "TOKEN_EXPIRED"


GRANT = f'[[token]]\nname = "shop"\nhash = "{HASH}"\n[[grant]]\nto = ["shop"]\n'
GROUP, ISSUED = (GRANT.replace('to = ["shop"]', f'to = ["{name}"]') for name in ("group:x", "corp:x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[token]", "is not TOML"),
        ("[[tokens]]", "unknown field `tokens`"),
        ('[[token]]\nname = "a"', "missing required field `hash`.*token"),
        ('[[token]]\nname = "a"\nhash = "secret"', "token 1: hash .*orchestrator access token"),
        (f'[[token]]\nname = "a:b"\nhash = "{HASH}"', r"\$\.token\[0\]\.name"),
        (f'[[token]]\nname = "anonymous"\nhash = "{HASH}"', "token 1: nobody can be called 'anonymous'"),
        (f'[[token]]\nname = "a"\nhash = "{HASH}"\nexpires = 2027-01-01T00:00:00', "expires needs a time zone"),
        (f'[[token]]\nname = "a"\nhash = "{HASH}"\n' * 2, "token 2: hash is that of another one"),
        ("[[certificate]]", "certificate 1: one of common_name, dns and uri"),
        ('[[certificate]]\ncommon_name = "a"\ndns = "b"', "certificate 1: one of"),
        ('[[certificate]]\ndns = "*.test"', "certificate 1: principal is needed"),
        ('[[jwt]]\nname = "c"\nissuer = "i"\naudience = "a"\njwks_file = "none.json"', r"none\.json can't be read"),
        (GRANT + 'role = "king"\nnamespaces = ["*"]', r"Invalid enum value 'king'.*grant\[0\]"),
        (GRANT + 'role = "reader"', "grant 1: namespaces is needed"),
        (GRANT + 'role = "starter"\nnamespaces = ["*"]', "grant 1: workflows or events are needed"),
        (GRANT + 'role = "worker"\nnamespaces = ["*"]', "grant 1: tasks is needed"),
        (GRANT + 'role = "reader"\nnamespaces = ["*"]\ntasks = ["*"]', "grant 1: tasks have no meaning"),
        (GRANT + 'role = "node"\nnamespaces = ["*"]', "grant 1: namespaces have no meaning"),
        (GRANT + 'role = "reader"\nnamespaces = []', r"length >= 1.*namespaces"),
        (GRANT.replace('to = ["shop"]', 'to = ["shpo"]') + 'role = "reader"\nnamespaces = ["*"]',
         "grant 1: to names 'shpo', .*the nearest is 'shop'"),
        (GROUP + 'role = "reader"\nnamespaces = ["*"]', "grant 1: to names 'group:x'"),
        (ISSUED + 'role = "reader"\nnamespaces = ["*"]', "grant 1: to names 'corp:x'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RulesInvalid, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(RulesInvalid, match=r"none\.toml can't be read: No such file"):
        read_rules(tmp_path / "none.toml")
