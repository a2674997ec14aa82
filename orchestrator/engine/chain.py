"""The chain hash: a value per entry that two replicas share only if they have computed the same from the beginning."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from orchestrator.engine.encoding import encode_any, encode_struct
from orchestrator.engine.results import AnyResult, Done, Judged, Verdict
from orchestrator.engine.state import Changed, State

CHAIN_BYTES: Final = 32
GENESIS = bytes(CHAIN_BYTES)

# What most steps answer.
_DONE: Final = encode_struct(Done())
_ACCEPTED: Final = Judged(Verdict.ACCEPTED)
_ENCODED_ACCEPTED: Final = encode_struct(_ACCEPTED)


class EntryHash:
    """What one entry adds to the chain: its bytes' digest, each result, and the resident rows as it leaves them."""

    def __init__(self) -> None:
        self._results: list[bytes] = []
        self.changed: Changed = {}  # resident rows

    def add(self, result: AnyResult) -> None:
        if isinstance(result, Done):
            encoded = _DONE
        elif isinstance(result, Judged) and result == _ACCEPTED:
            encoded = _ENCODED_ACCEPTED
        else:
            encoded = encode_struct(result)
        self._results.append(encoded)

    def finish(self, previous: bytes, entry_digest: bytes, state: State) -> bytes:
        results = blake2b(b"".join(self._results), digest_size=CHAIN_BYTES).digest()
        parts = [previous, entry_digest, results]
        for table in sorted(self.changed):
            of_table = self.changed[table]
            number = int(table)
            for key in sorted(of_table):
                row = state.read(table, key)
                if row is not None:
                    parts.append(encode_any((number, key, encode_struct(row))))
                elif of_table[key]:
                    parts.append(encode_any((number, key, b"")))
                # Else it came and went within the entry.
        return blake2b(b"".join(parts), digest_size=CHAIN_BYTES).digest()
