"""What a node must remember besides its log: term, vote and the configuration it belongs to; a checked file, twice.

Promise: `durable.term` and `durable.voted_for` are what a power loss leaves; a vote is sent, or counted, only by them.
Each save has a number and is written to the file first, then to its copy. So a file that is older than its copy, or
newer by more than one save, says that somebody put an old file back: a vote that it does not know may have been given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import google_crc32c
import msgspec

from orchestrator import __version__
from orchestrator.replication.errors import FormatUnsupported, JournalCorrupt
from orchestrator.replication.files import Files, replace_file
from orchestrator.replication.worker import DiskQueue

FILE_NAME = "hard_state"
COPY_NAME = "hard_state.copy"
FORMAT_VERSION = 1


class HardState(msgspec.Struct, frozen=True):
    term: int = 0
    voted_for: str | None = None
    # Node name -> incarnation; None until the cluster was formed.
    configuration: dict[str, str] | None = None
    # The configuration with which this node was admitted to a cluster that was there before it; empty if it was not.
    admitted: bytes = b""
    # (index, term) of the snapshot whose database is being put in place: until the journal begins there, too, it lacks
    # what the database holds, and that is no loss.
    installing: tuple[int, int] | None = None


class _Numbered(msgspec.Struct):
    # Files of the first format have none, and no copy.
    number: int = 0
    format_version: int = FORMAT_VERSION


class HardStateFile:
    def __init__(self, files: Files, directory: Path, disk: DiskQueue, on_durable: Callable[[], None]) -> None:
        self._files = files
        self._path = directory / FILE_NAME
        self._copy = directory / COPY_NAME
        self._number = 0
        # What was given to the file, and not yet to its copy.
        self._uncopied: bytes | None = None
        self._disk = disk
        self._on_durable = on_durable
        self.current = HardState()
        self.durable = HardState()

    def load(self) -> bool:
        """Blocking; False when there is none, as in a blank directory. Raises JournalCorrupt."""
        if not self._files.exists(self._path):
            if self._files.exists(self._copy):
                raise JournalCorrupt(_refusal(self._path, "is missing, and its copy is there"))
            return False
        raw, state, self._number = self._read(self._path)
        # A killed process may have renamed it without syncing the directory; what we act on must stay.
        self._files.sync_directory(self._path.parent)
        self._check_copy(raw)
        self.current = self.durable = state
        return True

    def _check_copy(self, raw: bytes) -> None:
        number = self._number
        copied = -1
        if self._files.exists(self._copy):
            copy, _, copied = self._read(self._copy)
            if copy == raw:
                return
        # A crash between the two leaves a copy that lacks the last save; the first one makes it.
        if copied != number - 1 and not (copied < 0 and number <= 1):
            other = "is missing" if copied < 0 else f"of save {copied}"
            raise JournalCorrupt(_refusal(self._path, f"is of save {number}, its copy {other}, so one of them is old"))
        if number:
            replace_file(self._files, self._copy, raw)

    def _read(self, path: Path) -> tuple[bytes, HardState, int]:
        raw = self._files.read(path)
        try:
            if len(raw) < 4 or google_crc32c.value(raw[4:]).to_bytes(4, "big") != raw[:4]:
                raise ValueError("checksum mismatch")
            numbered = msgspec.msgpack.decode(raw[4:], type=_Numbered)
            if numbered.format_version > FORMAT_VERSION:
                raise FormatUnsupported(
                    f"{path} has format version {numbered.format_version}, and orchestrator {__version__} knows up to "
                    f"{FORMAT_VERSION}: a newer release wrote it, run that one here"
                )
            return raw, msgspec.msgpack.decode(raw[4:], type=HardState), numbered.number
        except ValueError as error:
            raise JournalCorrupt(_refusal(path, f"is damaged ({error})")) from error

    def save(self, state: HardState) -> None:
        """Queues the write; `on_durable` follows. Later saves win."""
        if state == self.current:
            return
        # Before the file goes on: the copy is behind by one save at most.
        self._copy_last()
        self.current = state
        self._number += 1
        numbered = _Numbered(self._number)
        raw = msgspec.msgpack.encode({**msgspec.structs.asdict(state), **msgspec.structs.asdict(numbered)})
        checked = self._uncopied = google_crc32c.value(raw).to_bytes(4, "big") + raw
        self._disk.add(partial(replace_file, self._files, self._path, checked), partial(self._written, state, checked))
        self._disk.kick()

    def _written(self, state: HardState, checked: bytes) -> None:
        self.durable = state
        # Nobody waits for the copy: a vote goes out now.
        self._on_durable()
        if self._uncopied is checked:
            self._copy_last()
            self._disk.kick()

    def _copy_last(self) -> None:
        if self._uncopied is not None:
            self._disk.add(partial(replace_file, self._files, self._copy, self._uncopied))
            self._uncopied = None


def _refusal(path: Path, what: str) -> str:
    return f"{path} {what}: this node no longer knows whom it voted for, so it must not start"
