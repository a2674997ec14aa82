"""The operating system's files: what is written synced is at the end, and durable by one call or by two."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.replication.files import RealFile

pytestmark = pytest.mark.skipif(not hasattr(os, "RWF_DSYNC"), reason="this system has no call for both")


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the file system can do it is found out once for a process."""
    monkeypatch.setattr(RealFile, "_can_write_synced", True)


def test_it_goes_to_the_end_of_what_is_there(tmp_path: Path) -> None:
    file = RealFile(tmp_path / "file")
    file.write(b"one ")
    file.write_synced(b"two " * 100_000)
    file.write_synced(b"three")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"one " + b"two " * 100_000 + b"three"


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwritev

    def short(descriptor: int, data: Any, offset: int, flags: int) -> int:
        return write(descriptor, [data[0][:2]], offset, flags)

    monkeypatch.setattr(os, "pwritev", short)
    file = RealFile(tmp_path / "file")
    file.write_synced(b"seven b")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"seven b"


def test_a_file_system_that_can_not_is_asked_once_and_synced_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, synced = [], []
    sync = os.fdatasync

    def refuse(descriptor: int, *args: Any) -> int:
        asked.append(descriptor)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    def note(descriptor: int) -> None:
        synced.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "pwritev", refuse)
    monkeypatch.setattr(os, "fdatasync", note)
    file = RealFile(tmp_path / "file")
    file.write_synced(b"one")
    file.write_synced(b"two")
    file.close()
    assert (tmp_path / "file").read_bytes() == b"onetwo"
    assert (len(asked), len(synced)) == (1, 2)


def test_an_error_of_the_disk_is_nobody_s_to_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwritev", fail)
    file = RealFile(tmp_path / "file")
    with pytest.raises(OSError, match="Input/output"):
        file.write_synced(b"lost")
    file.close()
    assert (tmp_path / "file").read_bytes() == b""
