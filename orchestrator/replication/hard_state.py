"""What a node must remember besides its log: term, vote and the configuration it belongs to; one small checked file.

Promise: `durable_term` and `durable_vote` are what a power loss leaves; a vote is sent, or counted, only by them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import google_crc32c
import msgspec

from orchestrator.replication.errors import JournalCorrupt
from orchestrator.replication.files import Files, replace_file
from orchestrator.replication.worker import DiskQueue

FILE_NAME = "hard_state"


class HardState(msgspec.Struct, frozen=True):
    term: int = 0
    voted_for: str | None = None
    # Node name -> incarnation; None until the cluster was formed.
    configuration: dict[str, str] | None = None
    # The configuration with which this node was admitted to a cluster that was there before it; empty if it was not.
    admitted: bytes = b""


class HardStateFile:
    def __init__(self, files: Files, directory: Path, disk: DiskQueue, on_durable: Callable[[], None]) -> None:
        self._files = files
        self._path = directory / FILE_NAME
        self._disk = disk
        self._on_durable = on_durable
        self.current = HardState()
        self.durable = HardState()

    def load(self) -> bool:
        """Blocking; False when there is none, as in a blank directory."""
        if not self._files.exists(self._path):
            return False
        raw = self._files.read(self._path)
        try:
            if len(raw) < 4 or google_crc32c.value(raw[4:]).to_bytes(4, "big") != raw[:4]:
                raise ValueError("checksum mismatch")
            state = msgspec.msgpack.decode(raw[4:], type=HardState)
        except ValueError as error:
            raise JournalCorrupt(
                f"{self._path} is damaged ({error}): this node no longer knows whom it voted for, so it "
                "must not start. Move the data directory away and admit the node with `cluster replace`."
            ) from error
        # A killed process may have renamed it without syncing the directory; what we act on must stay.
        self._files.sync_directory(self._path.parent)
        self.current = self.durable = state
        return True

    def save(self, state: HardState) -> None:
        """Queues the write; `on_durable` follows. Later saves win."""
        if state == self.current:
            return
        self.current = state
        self._disk.add(partial(self._write, state), partial(self._written, state))
        self._disk.kick()

    def _write(self, state: HardState) -> None:
        raw = msgspec.msgpack.encode(state)
        replace_file(self._files, self._path, google_crc32c.value(raw).to_bytes(4, "big") + raw)

    def _written(self, state: HardState) -> None:
        self.durable = state
        self._on_durable()
