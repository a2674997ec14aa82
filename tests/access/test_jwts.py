"""JSON Web Tokens: believed only if a key of the issuer signed them, for us, now; and no trick with algorithms."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from orchestrator.access.jwts import JwtIssuer, keys_of
from orchestrator.access.principals import Known, NotAuthenticated
from tests.access.issuing import AUDIENCE, ISSUER, Issuer

NOW_MS = 1_900_000_000_000


def jwks(*issuers: Issuer, **more: Any) -> bytes:
    return json.dumps({"keys": [each.jwk(**more) for each in issuers]}).encode()


def trusting(keys: bytes, **more: Any) -> JwtIssuer:
    return JwtIssuer(name="corp", issuer=ISSUER, audience=AUDIENCE, keys=keys_of(keys), **more)


def reason(issuer: JwtIssuer, token: str, now_ms: int = NOW_MS) -> str:
    with pytest.raises(NotAuthenticated) as refused:
        issuer.verify(token, now_ms)
    return refused.value.reason


@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_a_good_token_names_its_principal_and_groups_as_the_file_calls_them(kind: str) -> None:
    signer = Issuer(kind)
    trusted = trusting(jwks(signer), groups={"ops-team": "operators", "dev-team": "readers"})
    identity = trusted.verify(signer.token(groups=["ops-team", "operators", "else"]), NOW_MS)
    assert (identity.principal.name, identity.principal.known_by) == ("corp:alice", Known.JWT)
    assert identity.principal.groups == {"operators"}  # by what the file makes of `ops-team`, not by its own word
    assert identity.expires_ms == 2_000_000_000_000 + 30_000


def test_groups_may_be_one_text_and_claims_may_be_called_otherwise() -> None:
    signer = Issuer()
    trusted = trusting(jwks(signer), principal_claim="email", groups_claim="scope", groups={"a": "x", "b": "y"})
    identity = trusted.verify(signer.token(email="a@b.test", scope="a b"), NOW_MS)
    assert identity.principal.name == "corp:a@b.test" and identity.principal.groups == {"x", "y"}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": 1_899_999_000}, "TOKEN_EXPIRED"),
        ({"exp": None}, "TOKEN_INVALID"),
        ({"exp": "soon"}, "TOKEN_INVALID"),
        ({"nbf": 1_900_000_100}, "TOKEN_INVALID"),
        ({"aud": "else"}, "TOKEN_INVALID"),
        ({"aud": None}, "TOKEN_INVALID"),
        ({"iss": "https://else.test"}, "TOKEN_INVALID"),
        ({"sub": None}, "TOKEN_INVALID"),
        ({"sub": ""}, "TOKEN_INVALID"),
        ({"sub": "a\nb"}, "TOKEN_INVALID"),
    ],
)
def test_claims_that_are_not_good_are_refused(claims: dict[str, Any], expected: str) -> None:
    signer = Issuer()
    assert reason(trusting(jwks(signer)), signer.token(**claims)) == expected


def test_times_have_a_leeway() -> None:
    signer = Issuer()
    trusted = trusting(jwks(signer), leeway_ms=30_000)
    trusted.verify(signer.token(exp=1_899_999_980, nbf=1_900_000_020), NOW_MS)
    assert reason(trusted, signer.token(exp=1_899_999_970)) == "TOKEN_EXPIRED"
    assert reason(trusted, signer.token(nbf=1_900_000_031)) == "TOKEN_INVALID"


def test_a_token_of_another_key_is_refused_even_under_a_known_id() -> None:
    trusted = trusting(jwks(Issuer()))
    assert reason(trusted, Issuer().token()) == "TOKEN_INVALID"
    assert reason(trusted, Issuer(kid="k2").token()) == "TOKEN_INVALID"


def test_of_several_keys_the_one_that_is_named_counts() -> None:
    first, second = Issuer(kid="k1"), Issuer("RSA", kid="k2")
    trusted = trusting(jwks(first, second))
    trusted.verify(first.token(), NOW_MS)
    trusted.verify(second.token(), NOW_MS)
    assert reason(trusted, first.token(headers={"kid": "k2"})) == "TOKEN_INVALID"


def unsigned(header: dict[str, Any], signature: bytes = b"", key: bytes = b"") -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": 2_000_000_000}
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims))
    if key:
        signature = hmac.new(key, head + b"." + body, hashlib.sha256).digest()
    return b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def test_what_the_token_says_of_algorithms_decides_nothing() -> None:
    signer = Issuer("RSA")
    trusted = trusting(jwks(signer))
    for algorithm in ("none", "None", "NONE", ""):
        assert reason(trusted, unsigned({"alg": algorithm, "kid": "k1"})) == "TOKEN_INVALID"
    # The public key as the secret of an HMAC.
    for key in (signer.public_pem, signer.public_pem.strip(), json.dumps(signer.jwk()).encode()):
        assert reason(trusted, unsigned({"alg": "HS256", "kid": "k1"}, key=key)) == "TOKEN_INVALID"
    # Another algorithm that the key could have, but has not.
    signer.algorithm = "RS512"
    assert reason(trusted, signer.token()) == "TOKEN_INVALID"


def test_a_key_says_its_own_algorithm() -> None:
    signer = Issuer("RSA")
    trusted = trusting(jwks(signer, alg="PS256"))
    assert reason(trusted, signer.token()) == "TOKEN_INVALID"
    signer.algorithm = "PS256"
    trusted.verify(signer.token(), NOW_MS)


@pytest.mark.parametrize("token", ["..", "a.b.c", "e30.e30.", "e30.bnVsbA.", "." + "a" * 5000 + "."])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert JwtIssuer.named_in(token) == ""
    assert reason(trusting(jwks(Issuer())), token) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "has no keys"),
        (b'{"keys": []}', "has no keys"),
        (b'{"keys": [1]}', r"keys\[0\] is not an object"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "only public keys"),
        (b'{"keys": [{"kty": "EC", "crv": "secp256k1"}]}', "only public keys"),
        (b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}', "can't be read"),
    ],
)
def test_a_file_of_keys_that_is_wrong_says_what_is(keys: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keys_of(keys)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alg": "HS256"}, "can't be of the algorithm 'HS256'"),
        ({"alg": "none"}, "can't be of the algorithm 'none'"),
        ({"d": "AA"}, "private key"),
        ({"use": "enc"}, "no key that is for signatures"),
    ],
)
def test_a_key_that_is_not_for_this_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keys_of(jwks(Issuer(), **fields))


def test_two_keys_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a `kid` of its own"):
        keys_of(jwks(Issuer(), Issuer()))
