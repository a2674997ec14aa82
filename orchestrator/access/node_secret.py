"""How nodes know each other at the clients' port: by a secret that all of them have, which is never sent.

A node shows `Node <name>.<made>.<proof>`: the proof is an HMAC-SHA-256 of cluster, name and time by the secret. It is
good for a minute around its time, which bounds what can be done with one that was overheard where there is no TLS.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from orchestrator.access.principals import NODE_PREFIX, Identity, Known, NotAuthenticated, Principal

SECRET_BYTES_MIN = 32
GOOD_FOR_MS = 60_000
SCHEME = "Node"
_PROOF = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,62})\.(?P<made>[0-9]{1,15})\.(?P<proof>[0-9a-f]{64})")
_CONTEXT = b"orchestrator node to node 1"


class NodeSecret:
    """Makes and judges proofs. `text` has a secret on each line: the first is used, and all are taken.

    So nodes can be given another one by one. Raises ValueError for what is too short to be a secret.
    """

    def __init__(self, text: bytes, cluster_id: str) -> None:
        secrets = text.split()
        if not secrets:
            raise ValueError("is empty")
        if (shortest := min(map(len, secrets))) < SECRET_BYTES_MIN:
            raise ValueError(f"has a secret of {shortest} characters; at least {SECRET_BYTES_MIN} are needed")
        bound = _CONTEXT + b"\0" + cluster_id.encode()
        self._keys = [hmac.new(secret, bound, hashlib.sha256).digest() for secret in secrets]

    def authorization(self, node: str, now_ms: int) -> str:
        """What the node shows now."""
        return f"{SCHEME} {node}.{now_ms}.{_proof(self._keys[0], node, now_ms)}"

    def verify(self, shown: str, now_ms: int) -> Identity:
        """Raises NotAuthenticated."""
        found = _PROOF.fullmatch(shown)
        if found is None or not self._is_proven(found["name"], int(found["made"]), found["proof"]):
            raise NotAuthenticated("TOKEN_INVALID", "not a node of this cluster: its node_secret_file is another")
        if abs(now_ms - int(found["made"])) > GOOD_FOR_MS:
            raise NotAuthenticated("TOKEN_EXPIRED", "the node's proof is too old, or its clock is off by over a minute")
        return Identity(Principal(NODE_PREFIX + found["name"], Known.NODE_SECRET))

    def _is_proven(self, node: str, made_ms: int, proof: str) -> bool:
        return any(hmac.compare_digest(proof, _proof(key, node, made_ms)) for key in self._keys)


def _proof(key: bytes, node: str, made_ms: int) -> str:
    return hmac.new(key, f"{node}\0{made_ms}".encode(), hashlib.sha256).hexdigest()
