"""Secrets as rows have them, sealed and opened with the keys of this node."""

from __future__ import annotations

from orchestrator.engine.model import Table
from orchestrator.engine.resident import SecretRow
from orchestrator.engine.state import State
from orchestrator.sealing.errors import KeyUnknown, NoKeys, SealingError
from orchestrator.sealing.key_file import KeyFile
from orchestrator.sealing.keys import Entropy


class SecretValues:
    """A value is bound to its namespace, its name and its version.

    Not to its cluster: what is restored from a backup is another one.
    """

    def __init__(self, key_file: KeyFile, entropy: Entropy) -> None:
        self._key_file = key_file
        self._entropy = entropy

    def seal(self, namespace: str, name: str, version: int, value: bytes) -> tuple[str, bytes]:
        """(id of the key, the sealed value). Raises NoKeys."""
        keys = self._key_file.keys
        return keys.sealing_id, keys.seal(value, (namespace, name, str(version)), self._entropy)

    def open(self, row: SecretRow) -> bytes:
        """The value. Raises NoKeys, KeyUnknown and SealBroken."""
        bound_to = (row.namespace, row.name, str(row.version))
        return self._key_file.keys.open(row.sealed, row.key_id, bound_to)

    def sealing_id(self) -> str:
        """Raises NoKeys."""
        return self._key_file.keys.sealing_id

    def why_closed(self, row: SecretRow) -> str:
        """Why this node can't open the secret, without trying to; "" if it has the key."""
        try:
            keys = self._key_file.keys
            if row.key_id not in keys.ids:
                raise KeyUnknown(f"there is no key {row.key_id}, only {', '.join(keys.ids)}")
        except SealingError as error:
            return str(error)
        return ""

    def count_closed(self, state: State) -> int:
        """How many secrets this node can't open for want of their key."""
        key_ids = [row.key_id for row in state.resident[Table.SECRET].values()]
        try:
            known = set(self._key_file.keys.ids)
        except NoKeys:
            return len(key_ids)
        return sum(key_id not in known for key_id in key_ids)


def without_keys() -> SecretValues:
    """Of a node that has none."""
    return SecretValues(KeyFile(None, _nothing), _nothing)


def _nothing(asked: object) -> bytes:
    raise NoKeys("this node has no secret_keys_file")
