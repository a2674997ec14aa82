"""The file of a backup: what was written comes back, and anything else is refused, wherever it is damaged."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import msgspec
import pytest

from orchestrator.storage import backup_file
from orchestrator.storage.backup_file import PARTIAL, BackupHeader, BackupReader, BackupWriter
from orchestrator.storage.errors import BackupUnfit

PIECES = [b"", b"a" * 100_000, random.Random(1).randbytes(50_000), b"z"]
CONTENT = b"".join(PIECES)
SHA256 = hashlib.sha256(CONTENT).digest()
HEADER = BackupHeader(
    cluster_id="c", recovery_epoch=2, node="n1", version="1", index=9, term=3, log_time_ms=77, behaviour_level=1,
    content_hash="ab" * 16, size_bytes=len(CONTENT), executions=4, live_executions=2, workflow_definitions=1,
    task_definitions=3, schedules=0,
)


def written(path: Path, header: BackupHeader = HEADER) -> Path:
    with BackupWriter(path, header) as writer:
        for piece in PIECES:
            writer.write(piece)
        writer.finish(SHA256)
    return path


def read(path: Path) -> bytes:
    with BackupReader(path) as reader:
        return b"".join(reader.pieces())


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path / "one")
    with BackupReader(path) as reader:
        assert reader.header == HEADER
        assert b"".join(reader.pieces()) == CONTENT
    assert [each.name for each in tmp_path.iterdir()] == ["one"]
    assert path.stat().st_size < len(CONTENT)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_does_not_come_to_its_end_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with BackupWriter(path, HEADER) as writer:
        writer.write(CONTENT)
        assert path.with_name("one" + PARTIAL).exists() and not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_one_leaves_the_file_that_it_was_to_replace(tmp_path: Path) -> None:
    path = written(tmp_path / "one")
    before = path.read_bytes()
    with BackupWriter(path, HEADER) as writer:
        writer.write(b"another")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "sha256"), [(CONTENT[:-1], SHA256), (CONTENT, b"\0" * 32), (b"x" + CONTENT, SHA256)]
)
def test_what_is_not_what_was_sent_gets_no_name(tmp_path: Path, content: bytes, sha256: bytes) -> None:
    with BackupWriter(tmp_path / "one", HEADER) as writer:
        writer.write(content)
        with pytest.raises(BackupUnfit, match="not what was sent"):
            writer.finish(sha256)
    assert list(tmp_path.iterdir()) == []


def test_no_flipped_bit_and_no_missing_end_passes(tmp_path: Path) -> None:
    path = written(tmp_path / "one")
    content = path.read_bytes()
    dice = random.Random(2)
    # All of the small blocks, and some of the large ones.
    places = {*range(700), *range(len(content) - 200, len(content)), *dice.sample(range(len(content)), 200)}
    for at in sorted(places):
        damaged = bytearray(content)
        damaged[at] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(BackupUnfit):
            read(path)
    for length in {0, 5, 25, 200, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(BackupUnfit, match=r"is cut|is not a backup"):
            read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(BackupUnfit, match="something follows"):
        read(path)


def test_two_files_put_together_are_no_backup(tmp_path: Path) -> None:
    """Each block is whole; but they are not those of one database."""
    one = written(tmp_path / "one").read_bytes()
    other = tmp_path / "other"
    with BackupWriter(other, msgspec.structs.replace(HEADER, size_bytes=3)) as writer:
        writer.write(b"abc")
        writer.finish(hashlib.sha256(b"abc").digest())
    begins = len(backup_file.MAGIC)
    header_ends = begins + 9 + int.from_bytes(one[begins + 1 : begins + 5], "big")
    mixed = other.read_bytes()
    begins_other = begins + 9 + int.from_bytes(mixed[begins + 1 : begins + 5], "big")
    other.write_bytes(one[:header_ends] + mixed[begins_other:])
    with pytest.raises(BackupUnfit, match="another checksum"):
        read(other)


def test_a_later_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = written(tmp_path / "one", msgspec.structs.replace(HEADER, format_version=2))
    with pytest.raises(BackupUnfit, match="format version 2, this program reads up to 1: upgrade"):
        read(path)


def test_another_file_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"SQLite format 3\0")
    with pytest.raises(BackupUnfit, match="is not a backup"):
        read(tmp_path / "one")
