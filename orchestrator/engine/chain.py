"""The chain hash: a value per entry that two replicas share only if they have computed the same from the beginning."""

from __future__ import annotations

from hashlib import blake2b

from orchestrator.engine.encoding import encode_any, encode_struct
from orchestrator.engine.results import AnyResult
from orchestrator.engine.state import State
from orchestrator.engine.step import Changed

CHAIN_BYTES = 32
GENESIS = bytes(CHAIN_BYTES)


class EntryHash:
    """What one entry adds to the chain: its bytes' digest, each result, and the resident rows as it leaves them."""

    def __init__(self) -> None:
        self._results = blake2b(digest_size=CHAIN_BYTES)
        self.changed: Changed = {}  # resident rows

    def add(self, result: AnyResult) -> None:
        self._results.update(encode_struct(result))

    def finish(self, previous: bytes, entry_digest: bytes, state: State) -> bytes:
        digest = blake2b(previous, digest_size=CHAIN_BYTES)
        digest.update(entry_digest)
        digest.update(self._results.digest())
        for (table, key), existed in sorted(self.changed.items()):
            row = state.read(table, key)
            if row is None and not existed:
                # Came and went within the entry.
                continue
            digest.update(encode_any((int(table), key, b"" if row is None else encode_struct(row))))
        return digest.digest()
