"""The bytes of a journal segment: one checked header, then checked records; and the scan that reads them at open.

A record is `magic, crc32c, length, index, term, durable, kind, payload`. `durable` is the highest index its writer knew
to be fsynced when it wrote the record. That tells a torn tail from damage: a bad record at index i was never
acknowledged unless a later record says that i was durable.
"""

from __future__ import annotations

import enum
import struct
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import google_crc32c

from orchestrator import __version__
from orchestrator.replication.errors import FormatUnsupported, JournalCorrupt
from orchestrator.replication.files import Files

SUFFIX = ".journal"
HEADER_MAGIC = b"OJS2"  # the last byte counts the formats of segments and of their records
RECORD_MAGIC = b"OJR2"
# magic, crc, sequence, base index, base term, flags
HEADER = struct.Struct("<4sIQQQB")
# magic, crc, length, index, term, durable, kind
RECORD = struct.Struct("<4sIIQQQB")
CHECKED_FROM = 8  # magic and crc themselves are not covered
# What an entry takes in a message to followers beside its data, at most.
WIRE_OVERHEAD_BYTES = 16
FLAG_RESET = 1  # this segment begins the journal anew: earlier ones are leftovers


class EntryKind(enum.IntEnum):
    """What an entry holds; the numbers are PySyncObj's command types."""

    COMMANDS = 0
    # Begins a leader's term; empty.
    NO_OP = 1
    # Who the members are from here on.
    CONFIGURATION = 2


@dataclass(slots=True)
class Record:
    index: int
    term: int
    kind: int
    data: bytes
    # The entry as followers get it, encoded once for all of them.
    wire: bytes | None = None


@dataclass(slots=True)
class Segment:
    sequence: int
    path: Path
    base_index: int
    base_term: int
    size: int = HEADER.size
    reset: bool = False
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    terms: array[int] = field(default_factory=lambda: array("Q"))
    # What a scan found: (index, bytes) of each configuration.
    configurations: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.offsets)

    @property
    def last_term(self) -> int:
        return self.terms[-1] if self.terms else self.base_term

    def add(self, term: int, size: int) -> None:
        self.offsets.append(self.size)
        self.terms.append(term)
        self.size += size

    def cut(self, index: int) -> None:
        """Forgets `index` and everything after it."""
        position = index - self.base_index - 1
        self.size = self.offsets[position]
        del self.offsets[position:]
        del self.terms[position:]

    def end_of(self, index: int) -> int:
        position = index - self.base_index
        return self.offsets[position] if position < len(self.offsets) else self.size


def segment_path(directory: Path, sequence: int) -> Path:
    return directory / f"{sequence:08d}{SUFFIX}"


def encode_header(sequence: int, base_index: int, base_term: int, *, reset: bool) -> bytes:
    header = HEADER.pack(HEADER_MAGIC, 0, sequence, base_index, base_term, FLAG_RESET if reset else 0)
    return HEADER_MAGIC + struct.pack("<I", google_crc32c.value(header[CHECKED_FROM:])) + header[CHECKED_FROM:]


def encode_record(record: Record, durable_index: int) -> bytes:
    head = RECORD.pack(RECORD_MAGIC, 0, len(record.data), record.index, record.term, durable_index, record.kind)
    crc = google_crc32c.extend(google_crc32c.value(head[CHECKED_FROM:]), record.data)
    return b"".join((RECORD_MAGIC, struct.pack("<I", crc), head[CHECKED_FROM:], record.data))


def decode_record(data: bytes, offset: int) -> tuple[Record, int, int] | None:
    """(record, its durable mark, offset of the next), or None when no whole, sound record begins at `offset`."""
    if offset + RECORD.size > len(data):
        return None
    magic, crc, length, index, term, durable, kind = RECORD.unpack_from(data, offset)
    end = offset + RECORD.size + length
    if magic != RECORD_MAGIC or end > len(data):
        return None
    payload = data[offset + RECORD.size : end]
    if google_crc32c.extend(google_crc32c.value(data[offset + CHECKED_FROM : offset + RECORD.size]), payload) != crc:
        return None
    return Record(index, term, kind, payload), durable, end


def scan_segment(files: Files, path: Path, *, is_last: bool) -> tuple[Segment | None, bool]:
    """(what is sound in the file, whether a torn tail follows it); None when it was torn at its creation."""
    data = files.read(path)
    segment = _read_header(data, path)
    if segment is None:
        if not is_last or _later_durable_mark(data, 0) > 0:
            raise JournalCorrupt(_advice(path, 0, "its header is damaged"))
        return None, True
    offset = HEADER.size
    while (decoded := decode_record(data, offset)) is not None:
        record, _, end = decoded
        if record.index != segment.last_index + 1 or record.term < segment.last_term:
            break
        segment.add(record.term, end - offset)
        if record.kind == EntryKind.CONFIGURATION:
            segment.configurations.append((record.index, record.data))
        offset = end
    torn = offset < len(data)
    if torn and (not is_last or _later_durable_mark(data, offset) > segment.last_index):
        raise JournalCorrupt(_advice(path, offset, f"the record of index {segment.last_index + 1} is damaged"))
    return segment, torn


def _read_header(data: bytes, path: Path) -> Segment | None:
    if len(data) < HEADER.size:
        return None
    magic, crc, sequence, base_index, base_term, flags = HEADER.unpack_from(data, 0)
    if magic[:-1] == HEADER_MAGIC[:-1] and magic[-1:].isdigit() and magic > HEADER_MAGIC:
        # Never taken for torn: it would be cut away.
        raise FormatUnsupported(
            f"journal segment {path} has format {magic[-1:].decode()}, and orchestrator {__version__} knows up to "
            f"{HEADER_MAGIC[-1:].decode()}: a newer release wrote it, run that one here"
        )
    if magic != HEADER_MAGIC or crc != google_crc32c.value(data[CHECKED_FROM : HEADER.size]):
        return None
    return Segment(sequence, path, base_index, base_term, reset=bool(flags & FLAG_RESET))


def _later_durable_mark(data: bytes, offset: int) -> int:
    """The highest durable mark of any sound record after a bad spot, wherever it begins."""
    mark = 0
    while (offset := data.find(RECORD_MAGIC, offset + 1)) >= 0:
        decoded = decode_record(data, offset)
        if decoded is not None:
            mark = max(mark, decoded[1])
    return mark


def _advice(path: Path, offset: int, what: str) -> str:
    return (
        f"journal segment {path} is damaged at byte {offset}: {what}, and it had been acknowledged. "
        "Do not delete it by hand: this node may hold the only copy of a committed entry"
    )
