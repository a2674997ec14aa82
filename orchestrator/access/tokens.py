"""Static tokens: 256 random bits, of which the access file keeps a salted hash.

A token is `orc_<id>_<secret>`. The id is no secret: it says which hash to compare, so that a caller costs one hash
however many tokens there are. One round of SHA-256 is enough: what makes passwords need a slow hash is that they can
be guessed, and 256 random bits can't.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import NamedTuple

PREFIX = "orc"
_SECRET_BYTES = 32
_ID_BYTES = 10
_SALT_BYTES = 16
_HASH = re.compile(r"sha256:(?P<id>[a-z2-7]{16}):(?P<salt>[0-9a-f]{32}):(?P<digest>[0-9a-f]{64})")


class TokenHash(NamedTuple):
    """What is kept of a token."""

    id: str
    salt: bytes
    digest: bytes

    def __str__(self) -> str:
        return f"sha256:{self.id}:{self.salt.hex()}:{self.digest.hex()}"

    def matches(self, token: str) -> bool:
        """Takes the same time whatever the token is."""
        return hmac.compare_digest(self.digest, _digest(self.salt, token))


def make(random_bytes: Callable[[int], bytes]) -> tuple[str, TokenHash]:
    """A new token, and what is to be kept of it."""
    name = base64.b32encode(random_bytes(_ID_BYTES)).decode().lower()
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode().rstrip("=")
    token, salt = f"{PREFIX}_{name}_{secret}", random_bytes(_SALT_BYTES)
    return token, TokenHash(name, salt, _digest(salt, token))


def parse_hash(text: str) -> TokenHash:
    """Raises ValueError if it is not what `make` gives."""
    found = _HASH.fullmatch(text)
    if found is None:
        raise ValueError("is not the hash of a token: `orchestrator access token NAME` makes one")
    return TokenHash(found["id"], bytes.fromhex(found["salt"]), bytes.fromhex(found["digest"]))


def id_of(token: str) -> str:
    """Which hash it is to be compared with; empty if it is no token of ours."""
    prefix, _, rest = token.partition("_")
    name, underscore, _ = rest.partition("_")
    return name if prefix == PREFIX and underscore else ""


def _digest(salt: bytes, token: str) -> bytes:
    return hashlib.sha256(salt + token.encode("utf-8", "surrogatepass")).digest()
