"""JSON Web Tokens: signed by an issuer whose public keys are in a file (RFC 7519, 7517). The only home of PyJWT.

Each key verifies one algorithm, which is fixed when the file is read: by the key's `alg`, or by its type. What the
token says of algorithms decides nothing, so neither `none` nor an HMAC by a public key is ever tried.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import jwt

from orchestrator.access.principals import Identity, Known, NotAuthenticated, Principal

PRINCIPAL_CHARACTERS_MAX = 200
_BY_TYPE = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""The algorithms of each type of key; the first is that of a key which says none."""
_RSA_BITS_MIN = 2048
# Times are judged by the injected clock, below.
_OPTIONS: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "iss", "aud"]}


class JwtIssuer:
    """Whose tokens are taken for which principals.

    `groups` are those of this cluster, by what the token calls them: what an issuer says has no other meaning here.
    """

    def __init__(
        self,
        *,
        name: str,
        issuer: str,
        audience: str,
        keys: Mapping[str, Key],
        principal_claim: str = "sub",
        groups_claim: str = "groups",
        groups: Mapping[str, str] | None = None,
        leeway_ms: int = 30_000,
    ) -> None:
        self.issuer = issuer
        self._name = name
        self._audience = audience
        self._keys = keys
        self._principal_claim = principal_claim
        self._groups_claim = groups_claim
        self._groups = dict(groups or {})
        self._leeway_ms = leeway_ms

    @staticmethod
    def named_in(token: str) -> str:
        """The issuer that a token names, before anything of it is believed; empty if it names none."""
        try:
            middle = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        except (binascii.Error, ValueError, RecursionError):
            return ""
        named = claims.get("iss") if isinstance(claims, dict) else None
        return named if isinstance(named, str) else ""

    def verify(self, token: str, now_ms: int) -> Identity:
        """Raises NotAuthenticated."""
        try:
            key = self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token, key.key, algorithms=[key.algorithm], audience=self._audience, issuer=self.issuer,
                options=_OPTIONS,
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticated("TOKEN_INVALID", f"the token of {self._name} is not valid: {error}") from None
        expires_ms = self._expiry_ms(claims, now_ms)
        return Identity(Principal(self._principal(claims), Known.JWT, self._groups_of(claims)), expires_ms)

    def _key(self, header: Mapping[str, Any]) -> Key:
        kid = header.get("kid")
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise jwt.InvalidKeyError("it is signed by a key that is not in the JWKS file")
        return key

    def _expiry_ms(self, claims: Mapping[str, Any], now_ms: int) -> int:
        expires_ms = self._time_ms(claims["exp"]) + self._leeway_ms
        if now_ms >= expires_ms:
            raise NotAuthenticated("TOKEN_EXPIRED", f"the token of {self._name} has expired")
        if "nbf" in claims and now_ms < self._time_ms(claims["nbf"]) - self._leeway_ms:
            raise NotAuthenticated("TOKEN_INVALID", f"the token of {self._name} is not valid yet")
        return expires_ms

    def _time_ms(self, claim: object) -> int:
        if isinstance(claim, bool) or not isinstance(claim, int | float) or not 0 <= claim < 1e12:
            raise NotAuthenticated("TOKEN_INVALID", f"the token of {self._name} has a time that is none")
        return int(claim * 1000)

    def _principal(self, claims: Mapping[str, Any]) -> str:
        said = claims.get(self._principal_claim)
        if not isinstance(said, str) or not 0 < len(said) <= PRINCIPAL_CHARACTERS_MAX or not said.isprintable():
            raise NotAuthenticated("TOKEN_INVALID", f"the token has no claim {self._principal_claim!r} to name anybody")
        return f"{self._name}:{said}"

    def _groups_of(self, claims: Mapping[str, Any]) -> frozenset[str]:
        said = claims.get(self._groups_claim, ())
        names = said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
        return frozenset(self._groups[name] for name in names if isinstance(name, str) and name in self._groups)


class Key:
    """A public key, and the algorithm that it verifies."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self.key = key
        self.algorithm = algorithm


def keys_of(text: bytes) -> dict[str, Key]:
    """The keys of a JWKS file by their ids. Raises ValueError, which says what is wrong."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError("has no keys: a JWKS file is an object with a list `keys`")
    keys: dict[str, Key] = {}
    for position, entry in enumerate(entries):
        where = f"keys[{position}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is not an object")
        if entry.get("use", "sig") != "sig":
            continue
        kid = entry.get("kid", "")
        if not isinstance(kid, str) or kid in keys:
            raise ValueError(f"{where} needs a `kid` of its own")
        keys[kid] = _key(where, entry)
    if not keys:
        raise ValueError("has no key that is for signatures")
    return keys


def _key(where: str, entry: dict[str, Any]) -> Key:
    kind = (str(entry.get("kty", "")), str(entry.get("crv", "")))
    allowed = _BY_TYPE.get(kind)
    if allowed is None:
        shown = " ".join(kind).strip() or "unknown"
        raise ValueError(f"{where} is of type {shown}: only public keys are taken, of RSA, EC (P-256, P-384, P-521) or "
                         "OKP (Ed25519, Ed448)")
    if "d" in entry:
        raise ValueError(f"{where} is a private key: whoever reads it can make tokens")
    algorithm = entry.get("alg", allowed[0])
    if algorithm not in allowed:
        raise ValueError(f"{where} can't be of the algorithm {algorithm!r}: its type has {', '.join(allowed)}")
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"{where} can't be read: {error}") from None
    if kind[0] == "RSA" and key.key_size < _RSA_BITS_MIN:
        raise ValueError(f"{where} has {key.key_size} bits; at least {_RSA_BITS_MIN} are needed")
    return Key(key, algorithm)
