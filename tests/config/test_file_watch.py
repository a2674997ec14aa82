"""Files that change while a node runs: what is right is taken, what is wrong is told once, nobody waits."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path

import pytest

from orchestrator.file_watch import FileWatch

PATIENCE_S = 20


class Wrong(Exception):
    pass


def number(content: bytes) -> int:
    try:
        return int(content)
    except ValueError:
        raise Wrong(f"{content!r} is no number") from None


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Wrong(f"{path} can't be read: {error.strerror}") from error


def watch_of(path: Path) -> tuple[FileWatch[bytes, int], list[bool | None]]:
    """And what is told of each look."""
    watch, looks = FileWatch("the numbers", lambda: content(path), number, Wrong), []
    watch.on_look = looks.append
    return watch, looks


def put(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("10")
    return path


def test_another_content_counts_even_at_the_same_time_and_length(file: Path) -> None:
    watch, looks = watch_of(file)
    before = file.stat()
    asyncio.run(watch.look())
    file.write_text("20")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    asyncio.run(watch.look())
    os.utime(file, (1, 1))
    asyncio.run(watch.look())
    assert watch.current == 20 and looks == [None, True, None]


async def test_a_volume_that_kubernetes_exchanges_counts(tmp_path: Path) -> None:
    """Files are links through `..data`, which is a link to a folder and is replaced; the old folder goes."""
    for version, text in (("..1", "1"), ("..2", "2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "number").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "number").symlink_to("..data/number")
    watch, _ = watch_of(tmp_path / "number")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    (tmp_path / "..1" / "number").unlink()
    (tmp_path / "..1").rmdir()
    await watch.look()
    assert watch.current == 2


def test_what_is_wrong_is_said_once_and_again_after_it_was_mended(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch, looks = watch_of(file)
    for text, told in (("x", False), ("x", None), ("y", False), (None, False), (None, None), ("10", None),
                       ("y", False), ("11", True)):
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        asyncio.run(watch.look())
        assert looks[-1] is told and watch.current == (11 if text == "11" else 10)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.partition(": ")[0] for line in said] == ["the numbers stay as they were"] * 4
    assert "No such file" in said[2]


def test_files_have_to_be_right_to_begin_with(file: Path) -> None:
    file.write_text("x")
    with pytest.raises(Wrong):
        watch_of(file)


async def test_a_disk_that_hangs_holds_up_nobody(file: Path) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    goes_on.set()

    def read() -> bytes:
        hangs.set()
        assert goes_on.wait(PATIENCE_S)
        return content(file)

    watch = FileWatch("the numbers", read, number, Wrong)
    goes_on.clear()
    hangs.clear()
    put(file, "20")
    running = asyncio.create_task(watch.run(every_seconds=0))
    assert await asyncio.to_thread(hangs.wait, PATIENCE_S)
    # The loop is here, and not in the file.
    assert watch.current == 10
    taken = asyncio.Event()
    watch.on_taken = lambda meaning: taken.set()
    goes_on.set()
    async with asyncio.timeout(PATIENCE_S):
        await taken.wait()
    assert watch.current == 20
    running.cancel()


async def test_half_of_what_belongs_together_is_not_taken(tmp_path: Path) -> None:
    """Who replaces several files does it one by one, while they are read."""
    files = [tmp_path / name for name in "ab"]
    for path in files:
        path.write_text("1")
    replaced: list[int] = []

    def read() -> tuple[bytes, ...]:
        first = content(files[0])
        if replaced:
            for path in files:
                path.write_text(str(replaced.pop()))
        return first, content(files[1])

    def same(found: tuple[bytes, ...]) -> int:
        values = {number(each) for each in found}
        if len(values) != 1:
            raise Wrong("they differ")
        return values.pop()

    watch = FileWatch("the pair", read, same, Wrong)
    looks: list[bool | None] = []
    watch.on_look = looks.append
    replaced.extend((2, 2))
    await watch.look()
    assert watch.current == 2 and looks == [True]
