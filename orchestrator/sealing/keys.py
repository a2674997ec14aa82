"""Keys, and what they do: AES-256-GCM, bound to the place that the value is for.

A sealed value is a nonce of 12 random bytes, the ciphertext, and 16 bytes that tell of any change. What it is bound to
is authenticated with it and not stored: a value that is moved elsewhere can't be opened there. A key's id comes from
the key itself, so two nodes never mean two keys by one id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.sealing.errors import KeyFileInvalid, KeyUnknown, SealBroken

KEY_BYTES = 32
KEYS_MAX = 100
_NONCE_BYTES = 12

Entropy = Callable[[int], bytes]
"""So many bytes that nobody can guess."""


class Keys:
    """The first one seals, all open."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.ids = tuple(self._ciphers)
        self.sealing_id = self.ids[0]

    def seal(self, value: bytes, bound_to: tuple[str, ...], entropy: Entropy) -> bytes:
        nonce = entropy(_NONCE_BYTES)
        return nonce + self._ciphers[self.sealing_id].encrypt(nonce, value, _bound(bound_to))

    def open(self, sealed: bytes, key: str, bound_to: tuple[str, ...]) -> bytes:
        """Raises KeyUnknown and SealBroken."""
        cipher = self._ciphers.get(key)
        if cipher is None:
            raise KeyUnknown(f"there is no key {key}, only {', '.join(self.ids)}")
        try:
            return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(bound_to))
        except (InvalidTag, ValueError):
            raise SealBroken(f"the key {key} does not open it: it was changed, or belongs elsewhere") from None


def _bound(parts: tuple[str, ...]) -> bytes:
    """Each part with its length before it, so that no two lists of parts come to the same."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def key_id(key: bytes) -> str:
    """16 hexadecimal digits that tell nothing of the key."""
    return hashlib.blake2b(key, digest_size=8, person=b"secret key id").hexdigest()


def new_key_line(entropy: Entropy) -> str:
    """A line of a key file."""
    return base64.b64encode(entropy(KEY_BYTES)).decode("ascii")


def parse_key_file(text: bytes, name: str) -> Keys:
    """One key per line, as base64; empty lines and those that begin with # are for people. Raises KeyFileInvalid."""
    keys: list[bytes] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        try:
            key = base64.b64decode(line, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise KeyFileInvalid(f"{name}, line {number}: not a key, which is {KEY_BYTES} bytes as base64")
        if key in keys:
            raise KeyFileInvalid(f"{name}, line {number}: this key is there already")
        keys.append(key)
    if not keys:
        raise KeyFileInvalid(f"{name}: there is no key in it; `orchestrator secret key` makes one")
    if len(keys) > KEYS_MAX:
        raise KeyFileInvalid(f"{name}: there may be {KEYS_MAX} keys")
    return Keys(keys)
