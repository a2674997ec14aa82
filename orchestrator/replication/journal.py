"""The durable log of one node: append-only segments, written and fsynced off the loop in groups.

Promises: `durable_index` never covers an entry that a power loss could take; what was durable is either read back
unchanged or opening raises `JournalCorrupt`; a torn tail, never acknowledged, is cut. Memory is ahead of the disk:
`last_index` counts entries at once, `durable_index` follows.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from orchestrator.replication.errors import JournalCorrupt
from orchestrator.replication.files import Files, WritableFile
from orchestrator.replication.segment import (
    SUFFIX,
    WIRE_OVERHEAD_BYTES,
    EntryKind,
    Record,
    Segment,
    decode_record,
    encode_header,
    encode_record,
    scan_segment,
    segment_path,
)
from orchestrator.replication.worker import DiskQueue, Worker, call

# What an entry in the cache takes beside its bytes: objects and the place in a dict.
CACHE_OVERHEAD_BYTES = 256


class SegmentWriter:
    """The half of the journal that lives on the disk thread: one open segment and the bytes not yet written to it."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._file: WritableFile | None = None
        self._buffer: list[bytes] = []

    def open(self, path: Path) -> None:
        self._file = self._files.open_append(path)

    def write(self, data: bytes) -> None:
        self._buffer.append(data)

    def sync(self) -> None:
        """Everything written so far is durable when it returns."""
        if self._buffer:
            assert self._file is not None
            self._file.write_synced(self.take())

    def roll(self, path: Path, header: bytes) -> None:
        """The old segment is whole on disk before the new one exists: only the last can be torn."""
        self.sync()
        self.close()
        self._file = self._files.open_append(path)
        self._file.write(header)
        self._file.fdatasync()
        self._files.sync_directory(self._directory)

    def cut(self, path: Path, size: int, later: list[Path]) -> None:
        self.sync()
        if later:
            self.close()
            self.remove(list(reversed(later)))
            self.open(path)
        assert self._file is not None
        self._file.truncate(size)
        # Before new records go over the same place: else a power loss could leave a mixture of both.
        self._file.fdatasync()

    def remove(self, paths: list[Path]) -> None:
        """One by one: a power loss between leaves a log that lacks its beginning, or its end, but has no gap."""
        for path in paths:
            self._files.remove(path)
            self._files.sync_directory(self._directory)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self) -> bytes:
        """What was written and is not yet in the file."""
        data = self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer)
        self._buffer.clear()
        return data


class Journal:
    """Construct, then `open` (blocking) before first use; everything else is called on the loop."""

    def __init__(
        self,
        files: Files,
        directory: Path,
        disk: DiskQueue,
        reader: Worker,
        *,
        segment_bytes: int,
        cache_bytes: int,
        on_durable: Callable[[], None],
    ) -> None:
        self._files = files
        self._directory = directory
        self._disk = disk
        self._reader = reader
        self._segment_bytes = segment_bytes
        self._cache_bytes = cache_bytes
        self._on_durable = on_durable
        self._writer = SegmentWriter(files, directory)
        self._segments: list[Segment] = []
        self._cache: dict[int, Record] = {}
        self._cache_low = 1
        self._cached_bytes = 0
        # Highest index of each batch handed to the disk and not yet durable; truncation lowers them.
        self._in_flight: deque[list[int]] = deque()
        self._unsubmitted = False
        # Grows with every truncation, so that a read that raced with one can tell.
        self._generation = 0
        # (index, bytes) of each configuration it holds, and the newest of those that were removed below.
        self._configurations: list[tuple[int, bytes]] = []
        # Called when the newest of them became another one.
        self.on_configuration: Callable[[], None] = lambda: None
        self.durable_index = 0
        # Where it ends, in memory.
        self.last_index = 0
        self.last_term = 0

    # -- open and close ------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._files.make_directory(self._directory)
        self._files.sync_directory(self._directory.parent)
        names = [name for name in self._files.listdir(self._directory) if name.endswith(SUFFIX)]
        paths = [self._directory / name for name in sorted(names)]
        for position, path in enumerate(paths):
            segment, torn = scan_segment(self._files, path, is_last=position == len(paths) - 1)
            self._join(segment, path, torn=torn)
        if not self._segments:
            self._begin(1, 0, 0)
        self._look_at_end()
        self._writer.open(self._segments[-1].path)
        self._disk.sync = self._writer.sync
        self.durable_index = self.last_index
        self._cache_low = self.last_index + 1

    def _join(self, segment: Segment | None, path: Path, *, torn: bool) -> None:
        if segment is None:  # torn at its creation: nothing in it was acknowledged
            self._files.remove(path)
            self._files.sync_directory(self._directory)
            return
        if segment.reset and self._segments:
            self._writer.remove([leftover.path for leftover in self._segments])
            self._segments.clear()
            self._configurations.clear()
        if self._segments:
            before = self._segments[-1]
            if (segment.base_index, segment.base_term) != (before.last_index, before.last_term):
                raise JournalCorrupt(
                    f"journal segment {path} begins after index {segment.base_index}, but the one before "
                    f"ends at {before.last_index}: a segment is missing"
                )
        self._segments.append(segment)
        self._configurations += segment.configurations
        # Also when nothing was cut: what a killed process wrote may be in the page cache only, and now it counts.
        file = self._files.open_append(path)
        if torn:
            file.truncate(segment.size)
        file.fdatasync()
        file.close()

    def _begin(self, sequence: int, index: int, term: int) -> None:
        path = segment_path(self._directory, sequence)
        file = self._files.open_append(path)
        file.write(encode_header(sequence, index, term, reset=False))
        file.fdatasync()
        file.close()
        self._files.sync_directory(self._directory)
        self._segments.append(Segment(sequence, path, index, term))

    def close(self) -> None:
        self._writer.close()

    # -- what it holds -------------------------------------------------------------------------------------------

    @property
    def base_index(self) -> int:
        return self._segments[0].base_index

    @property
    def base_term(self) -> int:
        return self._segments[0].base_term

    @property
    def first_index(self) -> int:
        return self.base_index + 1

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def term_at(self, index: int) -> int | None:
        """None when the index is before the base or after the end."""
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index <= self.last_index:
            return None
        segment = self._segment_of(index)
        return segment.terms[index - segment.base_index - 1]

    def last_index_with_term_at_most(self, index: int, term: int) -> int:
        """The highest index <= `index` whose term is <= `term`; the base when there is none (terms never fall)."""
        low, high = self.base_index, min(index, self.last_index)
        while low < high:
            middle = (low + high + 1) // 2
            if (self.term_at(middle) or 0) <= term:
                low = middle
            else:
                high = middle - 1
        return low

    def configuration(self, at: int | None = None) -> tuple[int, bytes] | None:
        """(index, bytes) of the newest configuration, committed or not, or of that which `at` is under."""
        for index, data in reversed(self._configurations):
            if at is None or index <= at:
                return index, data
        return None

    # -- writing -------------------------------------------------------------------------------------------------

    def append(self, index: int, term: int, kind: int, data: bytes) -> Record:
        if index != self.last_index + 1 or term < self.last_term:
            raise ValueError(f"entry ({index}, {term}) does not follow ({self.last_index}, {self.last_term})")
        record = Record(index, term, kind, data)
        encoded = encode_record(record, self.durable_index)
        segment = self._segments[-1]
        if segment.offsets and segment.size + len(encoded) > self._segment_bytes:
            segment = self._roll(index - 1, self.last_term, reset=False)
        segment.add(term, len(encoded))
        self.last_index, self.last_term = index, term
        self._disk.add(partial(self._writer.write, encoded))
        self._unsubmitted = True
        self._cache[index] = record
        self._cached_bytes += _cache_bytes(record)
        if kind == EntryKind.CONFIGURATION:
            self._configurations.append((index, data))
            self.on_configuration()
        return record

    def flush(self, *, stand_by: bool = False) -> None:
        """Hands what was appended to the disk; `on_durable` follows. `stand_by`: perhaps before this returns."""
        if self._unsubmitted:
            self._unsubmitted = False
            batch = [self.last_index]
            self._in_flight.append(batch)
            self._disk.add(lambda: None, self._synced)
            self._disk.kick(stand_by=stand_by)
        else:
            self._disk.kick()

    async def sync(self) -> None:
        """Returns once everything appended so far is durable."""
        self.flush()
        await self._disk.drain()

    def truncate_from(self, index: int) -> None:
        """Removes `index` and everything after it."""
        if index > self.last_index:
            return
        if index <= self.base_index:
            raise ValueError(f"cannot truncate at {index}: the journal begins after {self.base_index}")
        later: list[Path] = []
        while self._segments[-1].base_index >= index:
            later.insert(0, self._segments.pop().path)
        segment = self._segments[-1]
        if index <= segment.last_index:
            segment.cut(index)
        self._look_at_end()
        self._generation += 1
        self._lower(index - 1)
        self._disk.add(partial(self._writer.cut, segment.path, segment.size, later))
        if self._configurations and self._configurations[-1][0] >= index:
            self._configurations = [found for found in self._configurations if found[0] < index]
            self.on_configuration()

    def reset(self, index: int, term: int) -> None:
        """Begins anew after (index, term), which a snapshot holds."""
        leftovers = [segment.path for segment in self._segments]
        self._generation += 1
        self._lower(self.base_index)
        self._roll(index, term, reset=True)
        del self._segments[:-1]
        self._look_at_end()
        # Also what lies below the base, which nobody will ask for.
        self._cache.clear()
        self._cached_bytes, self._cache_low = 0, index + 1
        self._in_flight.append([index])
        self._disk.add(partial(self._writer.remove, leftovers), self._synced)
        self._configurations.clear()
        self.on_configuration()

    def remove_below(self, index: int) -> None:
        """Removes whole segments that hold nothing above `index`; the last one always stays."""
        gone = 0
        while gone < len(self._segments) - 1 and self._segments[gone].last_index <= index:
            gone += 1
        if gone:
            paths = [segment.path for segment in self._segments[:gone]]
            del self._segments[:gone]
            self._disk.add(partial(self._writer.remove, paths))
            while len(self._configurations) > 1 and self._configurations[1][0] <= self.base_index:
                del self._configurations[0]

    def bytes_between(self, after: int, last: int) -> int:
        """About how many bytes of segments hold entries in (after, last]; whole segments only."""
        return sum(
            segment.size for segment in self._segments if segment.base_index >= after and segment.base_index < last
        )

    def removable_below(self, index: int, tail_entries: int, tail_bytes: int) -> int:
        """The highest index up to which segments may go, when `index` may and a tail is kept for slow followers."""
        limit = self.base_index
        for segment in self._segments[:-1]:
            if segment.last_index > index:
                break
            far_behind = index - segment.last_index >= tail_entries
            if far_behind or self.bytes_between(segment.last_index, index) >= tail_bytes:
                limit = segment.last_index
        return limit

    def _roll(self, index: int, term: int, *, reset: bool) -> Segment:
        sequence = self._segments[-1].sequence + 1
        path = segment_path(self._directory, sequence)
        header = encode_header(sequence, index, term, reset=reset)
        self._disk.add(partial(self._writer.roll, path, header))
        segment = Segment(sequence, path, index, term, reset=reset)
        self._segments.append(segment)
        return segment

    def _look_at_end(self) -> None:
        self.last_index, self.last_term = self._segments[-1].last_index, self._segments[-1].last_term

    def _lower(self, last_index: int) -> None:
        self.durable_index = min(self.durable_index, last_index)
        for batch in self._in_flight:
            batch[0] = min(batch[0], last_index)
        for index in [index for index in self._cache if index > last_index]:
            self._cached_bytes -= _cache_bytes(self._cache.pop(index))
        self._cache_low = min(self._cache_low, last_index + 1)

    def _synced(self) -> None:
        batch = self._in_flight.popleft()
        # A batch lowered by a truncation says nothing new; what follows it is covered by its own batch.
        self.durable_index = max(self.durable_index, min(batch[0], self.last_index))
        self._evict()
        self._on_durable()

    # -- reading -------------------------------------------------------------------------------------------------

    def cached(self, start: int, limit_bytes: int) -> list[Record] | None:
        """Entries from `start`, at least one, and not over `limit_bytes` on the wire; None when they must be `read`."""
        record = self._cache.get(start)
        if record is None:
            return None
        records = [record]
        size = len(record.data) + WIRE_OVERHEAD_BYTES
        while (record := self._cache.get(start + len(records))) is not None:
            size += len(record.data) + WIRE_OVERHEAD_BYTES
            if size > limit_bytes:
                break
            records.append(record)
        return records

    async def read(self, start: int, limit_bytes: int) -> list[Record]:
        """Like `cached`, but reads the file off the loop. Empty when the log changed meanwhile: look again."""
        cached = self.cached(start, limit_bytes)
        if cached is not None or not self.base_index < start <= self.last_index:
            return cached or []
        segment = self._segment_of(start)
        offset = segment.offsets[start - segment.base_index - 1]
        # On disk is what is durable; newer entries are in the cache, always.
        last = min(segment.last_index, self.durable_index)
        position = bisect.bisect_right(segment.offsets, offset + limit_bytes) + segment.base_index
        end = segment.end_of(max(start, min(position, last)))
        generation = self._generation
        path = segment.path
        try:
            data = await call(self._reader, lambda: self._files.read_at(path, offset, end - offset))
        except FileNotFoundError:
            # Removed meanwhile, by us; if not, nothing of it can be decoded.
            data = b""
        if generation != self._generation or start <= self.base_index:
            return []
        records: list[Record] = []
        position = 0
        while position < end - offset:
            decoded = decode_record(data, position)
            if decoded is None or decoded[0].index != start + len(records):
                raise JournalCorrupt(
                    f"journal segment {path} changed on disk: index {start + len(records)} at byte "
                    f"{offset + position} no longer reads back"
                )
            records.append(decoded[0])
            position = decoded[2]
        return records

    def _segment_of(self, index: int) -> Segment:
        if index > self._segments[-1].base_index:
            return self._segments[-1]
        position = bisect.bisect_left(self._segments, index, key=lambda segment: segment.base_index) - 1
        return self._segments[position]

    def _evict(self) -> None:
        while self._cached_bytes > self._cache_bytes and self._cache_low <= self.durable_index:
            record = self._cache.pop(self._cache_low, None)
            if record is not None:
                self._cached_bytes -= _cache_bytes(record)
            self._cache_low += 1


def _cache_bytes(record: Record) -> int:
    """With its form on the wire, which it has as soon as there are followers."""
    return CACHE_OVERHEAD_BYTES + 2 * len(record.data)
