"""Values in a shared directory: what is particular to files, folders and file systems that hang."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from orchestrator.engine.blobs import ref_to
from orchestrator.integrations.blobs.directory import LEFT_OVER_MS, DirectoryStore
from orchestrator.integrations.blobs.store import BlobMissing, StoreUnavailable
from tests.integrations.blobs.kits import VALUE, DirectoryKit, ref_in
from tests.integrations.blobs.processes import OtherNode


def incoming(kit: DirectoryKit) -> list[Path]:
    return list((kit.root / "incoming").iterdir())


async def test_what_a_killed_node_has_begun_is_seen_by_nobody_and_removed_when_it_is_old(
    directory: DirectoryKit,
) -> None:
    async with OtherNode(directory, "torn") as other:
        await other.kill()
    store = await directory.node()
    ref = ref_in(store)
    (left,) = incoming(directory)
    assert left.read_bytes() == VALUE
    with pytest.raises(BlobMissing):
        await store.get(ref)
    await store.put(ref, VALUE)
    assert await store.get(ref) == VALUE
    await store.prepare()
    assert incoming(directory) == [left]
    status = left.stat()
    os.utime(left, ns=(status.st_atime_ns, status.st_mtime_ns - LEFT_OVER_MS * 2_000_000))
    await store.prepare()
    assert incoming(directory) == []
    assert await store.get(ref) == VALUE


async def test_nothing_but_values_and_the_id_is_left_behind(directory: DirectoryKit) -> None:
    store = await directory.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    await store.put(ref, VALUE)
    files = [path.relative_to(directory.root) for path in directory.root.rglob("*") if path.is_file()]
    assert sorted(map(str, files)) == ["store-id", f"values/{ref.sha256[:2]}/{ref.sha256}"]
    assert (directory.root / "store-id").read_text() == f"{store.store_id}\n"
    assert not [path for path in directory.root.rglob("*") if path.stat().st_mode & 0o077]
    await store.delete(ref)
    assert [path.name for path in directory.root.rglob("*") if path.is_file()] == ["store-id"]


async def test_a_directory_that_is_not_there_is_not_made(directory: DirectoryKit) -> None:
    directory.root.rmdir()
    with pytest.raises(StoreUnavailable, match="no directory: it has to be made, or mounted"):
        await directory.bare().prepare()
    assert not directory.root.exists()


async def test_a_directory_that_is_not_mounted_any_more_takes_nothing(directory: DirectoryKit) -> None:
    """Below where it was mounted there is an empty one, on the node's own disk."""
    store = await directory.node()
    await directory.lose_everything()
    with pytest.raises(StoreUnavailable, match=r"has no store-id any more, .* is it mounted"):
        await store.put(ref_in(store), VALUE)
    with pytest.raises(StoreUnavailable, match="is it mounted"):
        await store.get(ref_in(store))
    assert list(directory.root.iterdir()) == []


async def test_values_without_the_id_are_not_taken_for_a_new_store(directory: DirectoryKit) -> None:
    store = await directory.node()
    await store.put(ref_in(store), VALUE)
    named = (directory.root / "store-id").read_bytes()
    (directory.root / "store-id").unlink()
    with pytest.raises(StoreUnavailable, match="has values in it, and no store-id"):
        await directory.bare().prepare()
    (directory.root / "store-id").write_bytes(named)
    await directory.bare().prepare()


@pytest.mark.parametrize("text", ["not a name\n", "\xff", "x" * 65])
async def test_an_id_that_is_none_is_refused(directory: DirectoryKit, text: str) -> None:
    await directory.node()
    (directory.root / "store-id").write_text(text, "latin-1")
    with pytest.raises(StoreUnavailable, match="store-id has no name of a store in it"):
        await directory.bare().prepare()


async def test_a_folder_that_was_removed_is_made_again(directory: DirectoryKit) -> None:
    store = await directory.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    await store.delete(ref)
    directory.path_of(ref).parent.rmdir()
    with pytest.raises(BlobMissing):
        await store.get(ref)
    await store.put(ref, VALUE)
    assert await store.get(ref) == VALUE


async def test_a_full_disk_is_said_and_leaves_nothing(
    directory: DirectoryKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await directory.node()

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            await store.put(ref_in(store), VALUE)
    assert incoming(directory) == []
    assert await directory.held(ref_in(store)) is None


async def test_what_is_put_is_synced_before_it_has_its_name_and_its_name_after(
    directory: DirectoryKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await directory.node()
    ref = ref_in(store)
    path = directory.path_of(ref)
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink().parent.name), path.exists()))

    monkeypatch.setattr(os, "fsync", recorded)
    await store.put(ref, VALUE)
    assert synced == [("incoming", False), ("values", True), ("shared", True)]
    # Whoever put it may not have come to sync its name, nor, where this node has not seen it, that of its folder.
    await store.put(ref, VALUE)
    assert synced[3:] == [("values", True)]
    await (await directory.node()).put(ref, VALUE)
    assert synced[-2:] == [("values", True), ("shared", True)]


async def test_a_value_that_is_replaced_while_it_is_read_is_read_again(
    directory: DirectoryKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS tells of it, and of names that it remembers as missing until the folder is opened."""
    store = await directory.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    read = Path.read_bytes
    for number in (errno.ESTALE, errno.ENOENT):
        failures = [OSError(number, os.strerror(number))]

        def flaky(path: Path, failures: list[OSError] = failures) -> bytes:
            if failures and path == directory.path_of(ref):
                raise failures.pop()
            return read(path)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", flaky)
            assert await store.get(ref) == VALUE
        assert not failures


async def test_what_is_put_between_the_look_and_the_removal_is_put_back(
    directory: DirectoryKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await directory.node(), await directory.node()
    ref = ref_in(store)
    await store.put(ref, VALUE)
    version = await store.version(ref)
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        # Another node has deleted it meanwhile, and a third has put it again.
        path.unlink()
        path.write_bytes(VALUE)
        os.utime(path, ns=(0, 0))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", late)
        await store.delete(ref, version)
    assert await other.get(ref) == VALUE
    assert incoming(directory) == []


async def test_a_directory_that_hangs_is_unavailable_and_holds_up_nobody_else(tmp_path: Path) -> None:
    hung, may_end = threading.Event(), threading.Event()

    async def hangs(job: object) -> object:
        def wait() -> None:
            hung.set()
            may_end.wait()

        return await asyncio.to_thread(wait)

    store = DirectoryStore(tmp_path, off_loop=hangs, entropy=os.urandom, answer_ms=20)  # type: ignore[arg-type]  # it never answers
    try:
        with pytest.raises(StoreUnavailable, match="has not answered within 20 ms"):
            await store.prepare()
        assert hung.is_set()
    finally:
        may_end.set()


async def test_a_deletion_that_hung_spares_what_was_put_meanwhile(directory: DirectoryKit, tmp_path: Path) -> None:
    """The call is over, and its thread comes back when the value was deleted by another and put again."""
    jobs: list[object] = []
    quick = await directory.node()
    ref = ref_in(quick)

    async def held_up(job: object) -> object:
        if not jobs:
            jobs.append(None)
            return job()  # type: ignore[operator]  # the look at its version
        jobs.append(job)
        return await asyncio.get_running_loop().create_future()

    slow = DirectoryStore(directory.root, off_loop=directory.threads, entropy=os.urandom, answer_ms=50)
    await slow.prepare()
    slow._off_loop = held_up  # type: ignore[assignment]  # as above
    await quick.put(ref, VALUE)
    with pytest.raises(StoreUnavailable):
        await slow.delete(ref)
    await quick.delete(ref)
    await quick.put(ref, VALUE)
    jobs[1]()  # type: ignore[operator]  # the removal
    assert await quick.get(ref) == VALUE


async def test_two_directories_are_two_stores(directory: DirectoryKit, tmp_path: Path) -> None:
    one = await directory.node()
    (tmp_path / "other").mkdir()
    other = DirectoryStore(tmp_path / "other", off_loop=directory.threads, entropy=os.urandom)
    await other.prepare()
    assert one.store_id != other.store_id
    await one.put(ref_in(one), VALUE)
    with pytest.raises(BlobMissing, match="another one configured"):
        await other.get(ref_to(one.store_id, VALUE))
