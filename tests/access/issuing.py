"""An issuer of JSON Web Tokens for tests: its keys, its JWKS file, and tokens of any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER, AUDIENCE = "https://login.test", "orchestrator"


class Issuer:
    def __init__(self, kind: str = "EC", kid: str | None = "k1", issuer: str = ISSUER) -> None:
        self.kind, self.kid, self.issuer = kind, kid, issuer
        self.private: Any = (
            ec.generate_private_key(ec.SECP256R1()) if kind == "EC"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        self.algorithm = "ES256" if kind == "EC" else "RS256"

    def jwk(self, **more: Any) -> dict[str, Any]:
        of_its_kind: Any = jwt.algorithms.ECAlgorithm if self.kind == "EC" else jwt.algorithms.RSAAlgorithm
        made: dict[str, Any] = of_its_kind.to_jwk(self.private.public_key(), as_dict=True)
        return made | ({} if self.kid is None else {"kid": self.kid}) | more

    def write(self, path: Path, *others: Issuer) -> None:
        path.write_text(json.dumps({"keys": [each.jwk() for each in (self, *others)]}))

    @property
    def public_pem(self) -> bytes:
        pem: bytes = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem

    def token(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        given = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "exp": 2_000_000_000} | claims
        given = {name: value for name, value in given.items() if value is not None}
        kid = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(given, self.private, algorithm=self.algorithm, headers=kid | (headers or {}))
