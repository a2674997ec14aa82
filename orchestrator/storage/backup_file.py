"""The file that a backup is kept in: a header, the database in compressed blocks, a trailer.

Every block has a checksum, the trailer that of the whole database: a file that is cut, damaged or put together of two
is refused, and nothing that follows the trailer is passed over. A file has its name only when it is whole and synced.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import google_crc32c
import msgspec

from orchestrator.storage.errors import BackupUnfit
from orchestrator.storage.files import RealFiles

FORMAT_VERSION = 1
MAGIC = b"orchestrator backup\n"
PARTIAL = ".partial"
# Fast rather than small: rows are JSON texts, which come to about a third.
COMPRESSION_LEVEL = 1
BLOCK_BYTES_MAX = 16 << 20

T = TypeVar("T")

_HEADER, _DATA, _TRAILER = 1, 2, 3
_PREFIX = struct.Struct(">BI")  # kind, bytes that follow the checksum
_CHECKSUM = struct.Struct(">I")  # CRC-32C of the prefix and of what follows


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is, and where in the log it stands."""

    format_version: int = FORMAT_VERSION
    cluster_id: str
    recovery_epoch: int
    node: str
    version: str  # of the software
    index: int
    term: int
    log_time_ms: int
    behaviour_level: int
    content_hash: str  # hexadecimal, of 16 bytes
    size_bytes: int  # of the database
    executions: int
    live_executions: int
    workflow_definitions: int
    task_definitions: int
    schedules: int


class _Trailer(msgspec.Struct, frozen=True):
    sha256: str  # of the database, hexadecimal


class BackupWriter:
    """Writes `path` + ".partial", which becomes `path` by `finish`, and is gone after anything else. Blocks."""

    def __init__(self, path: Path, header: BackupHeader) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._header = header
        self._digest = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        # Nobody else's to read: payloads are in it as they are.
        self._file = open(self._partial, "wb", opener=lambda path, flags: os.open(path, flags, 0o600))
        self._file.write(MAGIC)
        self._block(_HEADER, msgspec.json.encode(self._header))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """The next bytes of the database."""
        self._digest.update(data)
        self._size += len(data)
        self._block(_DATA, zlib.compress(data, COMPRESSION_LEVEL))

    def finish(self, sha256: bytes) -> int:
        """The file is in place, durably; answers its size. Raises BackupUnfit if the database is another than sent."""
        if self._size != self._header.size_bytes or self._digest.digest() != sha256:
            raise BackupUnfit(f"{self._path}: what arrived is not what was sent, or not all of it")
        self._block(_TRAILER, msgspec.json.encode(_Trailer(sha256.hex())))
        assert self._file is not None
        file, self._file = self._file, None
        with file:
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        self._partial.replace(self._path)
        RealFiles().sync_directory(self._path.parent)
        return size

    def _block(self, kind: int, payload: bytes) -> None:
        assert self._file is not None
        prefix = _PREFIX.pack(kind, len(payload))
        self._file.write(prefix + _CHECKSUM.pack(google_crc32c.extend(google_crc32c.value(prefix), payload)))
        self._file.write(payload)


class BackupReader:
    """Reads a file once, from its beginning. Blocks; raises BackupUnfit, OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        try:
            if self._file.read(len(MAGIC)) != MAGIC:
                raise BackupUnfit(f"{path} is not a backup of orchestrator")
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """The database, piece by piece; at its end everything was what was written, or the iterator has raised."""
        digest, size = hashlib.sha256(), 0
        while (block := self._block())[0] == _DATA:
            piece = self._unpacked(block[1])
            digest.update(piece)
            size += len(piece)
            yield piece
        trailer = self._decoded(block, _TRAILER, _Trailer)
        if size != self.header.size_bytes or digest.hexdigest() != trailer.sha256:
            raise BackupUnfit(f"{self._path} is damaged: its database has another checksum")
        if self._file.read(1):
            raise BackupUnfit(f"{self._path} is damaged: something follows its end")

    def _read_header(self) -> BackupHeader:
        block = self._block()
        try:
            version = msgspec.json.decode(block[1], type=dict[str, object]).get("format_version")
        except msgspec.MsgspecError:
            version = None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BackupUnfit(
                f"{self._path} has format version {version}, this program reads up to {FORMAT_VERSION}: upgrade it"
            )
        return self._decoded(block, _HEADER, BackupHeader)

    def _block(self) -> tuple[int, bytes]:
        at = self._file.tell()
        head = self._file.read(_PREFIX.size + _CHECKSUM.size)
        if len(head) < _PREFIX.size + _CHECKSUM.size:
            raise BackupUnfit(f"{self._path} is cut: it ends at byte {at}, before its end")
        prefix, checksum = head[: _PREFIX.size], head[_PREFIX.size :]
        kind, length = _PREFIX.unpack(prefix)
        payload = self._file.read(length) if length <= BLOCK_BYTES_MAX else b""
        if length <= BLOCK_BYTES_MAX and len(payload) < length:
            raise BackupUnfit(f"{self._path} is cut: it ends at byte {at + len(head) + len(payload)}, before its end")
        if _CHECKSUM.pack(google_crc32c.extend(google_crc32c.value(prefix), payload)) != checksum:
            raise BackupUnfit(f"{self._path} is damaged: the block at byte {at} has another checksum")
        return kind, payload

    def _unpacked(self, payload: bytes) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(payload, BLOCK_BYTES_MAX)
        except zlib.error as error:
            raise BackupUnfit(f"{self._path} is damaged: {error}") from error
        if not unpacker.eof:
            raise BackupUnfit(f"{self._path} is damaged: a block is larger than any that is written")
        return data

    def _decoded(self, block: tuple[int, bytes], kind: int, type_: type[T]) -> T:
        if block[0] != kind:
            raise BackupUnfit(f"{self._path} is damaged: a block is not where it belongs")
        try:
            return msgspec.json.decode(block[1], type=type_)
        except msgspec.MsgspecError as error:
            raise BackupUnfit(f"{self._path} is damaged: {error}") from error
