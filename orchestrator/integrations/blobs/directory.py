"""Values as files of a directory that all nodes share: NFS, a cluster file system, or one machine's disk.

    store-id                    made once; its content names the store
    values/ab/abcdef...         a value, under its SHA-256
    incoming/...                what is being written or removed

A value is written under another name, synced, and renamed to its own: under that there is all of it or nothing. Nothing
here relies on locks, nor on clocks of nodes: ages are told by the file system's own.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orchestrator.engine.blobs import BlobRef, is_store_id
from orchestrator.file_watch import OffLoop
from orchestrator.integrations.blobs.store import BlobMissing, StoreUnavailable, check_store, checked

T = TypeVar("T")

ANSWER_MS = 30_000
# Whoever has not written a value by then has died.
LEFT_OVER_MS = 3_600_000

_ID_FILE = "store-id"


class DirectoryStore:
    """The directory must be there: one that is missing has not been mounted, and must not be made on the node's disk.

    `off_loop` runs what blocks; `entropy` gives so many bytes that nobody else has.
    """

    def __init__(
        self, root: Path, *, off_loop: OffLoop, entropy: Callable[[int], bytes], answer_ms: int = ANSWER_MS
    ) -> None:
        self._files = _Files(root, entropy)
        self._root = root
        self._off_loop = off_loop
        self._answer_ms = answer_ms
        self._id = ""

    @property
    def store_id(self) -> str:
        if not self._id:
            raise StoreUnavailable(f"{self._root} has not been looked at yet")
        return self._id

    async def prepare(self) -> None:
        found = await self._done(self._files.prepare)
        if self._id and found != self._id:
            raise StoreUnavailable(f"{self._root} is the store {found}, and was the store {self._id}")
        self._id = found

    async def put(self, ref: BlobRef, content: bytes) -> None:
        store_id = self.store_id
        if ref.store != store_id:
            raise StoreUnavailable(f"{self._root} is the store {store_id}, and not {ref.store}")

        def put() -> None:
            checked(ref, content, "what is to be put")
            self._files.check_id(store_id)
            self._files.put(ref.sha256, content)

        await self._done(put)

    async def get(self, ref: BlobRef) -> bytes:
        store_id = self.store_id
        check_store(ref, store_id, str(self._root))

        def get() -> bytes:
            content = self._files.read(ref.sha256)
            if content is None:
                self._files.check_id(store_id)
                raise BlobMissing(f"{self._files.path_of(ref.sha256)} does not exist")
            return checked(ref, content, str(self._files.path_of(ref.sha256)))

        return await self._done(get)

    async def version(self, ref: BlobRef) -> str:
        store_id = self.store_id
        check_store(ref, store_id, str(self._root))

        def version() -> str:
            self._files.check_id(store_id)
            return self._files.version(ref.sha256)

        return await self._done(version)

    async def delete(self, ref: BlobRef, version: str | None = None) -> None:
        # Also for whoever gives none: what hangs in a thread may come to the file when this call is long over.
        doomed = await self.version(ref) if version is None else version
        if doomed:
            check_store(ref, self.store_id, str(self._root))
            await self._done(lambda: self._files.remove(ref.sha256, doomed))

    async def _done(self, job: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._answer_ms / 1000):
                return await self._off_loop(job)
        except TimeoutError:
            message = f"{self._root} has not answered within {self._answer_ms} ms"
            raise StoreUnavailable(message) from None
        except OSError as error:
            raise StoreUnavailable(f"{error.filename or self._root}: {error.strerror or error}") from error


class _Files:
    """All calls block, and raise OSError."""

    def __init__(self, root: Path, entropy: Callable[[int], bytes]) -> None:
        self._root = root
        self._id_path = root / _ID_FILE
        self._values = root / "values"
        self._incoming = root / "incoming"
        self._entropy = entropy
        # Folders of values whose names are durable.
        self._durable: set[Path] = set()

    def path_of(self, sha256: str) -> Path:
        return self._values / sha256[:2] / sha256

    def prepare(self) -> str:
        """The store's id. Raises StoreUnavailable."""
        if not self._root.is_dir():
            raise StoreUnavailable(f"{self._root} is no directory: it has to be made, or mounted, before")
        found = self._read_id() or self._make()
        if not is_store_id(found):
            raise StoreUnavailable(f"{self._id_path} has no name of a store in it")
        self._remove_left_over()
        return found

    def check_id(self, store_id: str) -> None:
        """Raises StoreUnavailable if the directory is another one now: what was mounted there is not any more."""
        found = self._read_id()
        if found != store_id:
            what = f"is the store {found} now" if found else f"has no {_ID_FILE} any more"
            raise StoreUnavailable(f"{self._root} {what}, and was the store {store_id}: is it mounted?")

    def put(self, sha256: str, content: bytes) -> None:
        path = self.path_of(sha256)
        if not self._is_there(path, content):
            temporary = self._write(content)
            try:
                self._place(temporary, path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        # Also of what was there: whoever has put it may have died before.
        _sync_directory(path.parent)
        if path.parent not in self._durable:
            _sync_directory(self._values)
            self._durable.add(path.parent)

    def read(self, sha256: str) -> bytes | None:
        return _read(self.path_of(sha256))

    def version(self, sha256: str) -> str:
        try:
            return _version(self.path_of(sha256))
        except FileNotFoundError:
            return ""

    def remove(self, sha256: str, version: str) -> None:
        path = self.path_of(sha256)
        if self.version(sha256) != version:
            return
        doomed = self._new_name()
        try:
            path.rename(doomed)
        except FileNotFoundError:
            return
        # Put by another node since it was looked at. It was away for a moment.
        if _version(doomed) != version:
            try:
                os.link(doomed, path)
            except FileExistsError:
                pass
        doomed.unlink(missing_ok=True)
        _sync_directory(path.parent)

    def _read_id(self) -> str:
        return (_read(self._id_path) or b"").decode("utf-8", "replace").strip()

    def _make(self) -> str:
        """Of several nodes one gives the id. Whoever finds that finds the folders."""
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        self._values.mkdir(mode=0o700, exist_ok=True)
        if any(True for _ in self._values.iterdir()) and not self._read_id():
            raise StoreUnavailable(f"{self._root} has values in it, and no {_ID_FILE}: put that file back")
        _sync_directory(self._root)
        made = self._write(f"dir-{self._entropy(16).hex()}\n".encode("ascii"))
        try:
            os.link(made, self._id_path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
        _sync_directory(self._root)
        return self._read_id()

    def _remove_left_over(self) -> None:
        """What nodes have left behind that died while they wrote."""
        probe = self._write(b"")
        now_ns = probe.stat().st_mtime_ns
        probe.unlink()
        for entry in self._incoming.iterdir():
            try:
                if now_ns - entry.stat().st_mtime_ns > LEFT_OVER_MS * 1_000_000:
                    entry.unlink()
            except FileNotFoundError:
                continue

    def _new_name(self) -> Path:
        return self._incoming / self._entropy(16).hex()

    def _write(self, content: bytes) -> Path:
        """A file of its own with this content, synced."""
        path = self._new_name()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def _place(self, temporary: Path, path: Path) -> None:
        try:
            temporary.replace(path)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._durable.discard(path.parent)
            temporary.replace(path)

    @staticmethod
    def _is_there(path: Path, content: bytes) -> bool:
        try:
            if path.stat().st_size != len(content):
                return False
        except FileNotFoundError:
            return False
        return _read(path) == content


def _read(path: Path) -> bytes | None:
    """None if there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        # Replaced while it was read, by another node of a network file system.
        if error.errno != errno.ESTALE:
            raise
    # Such a file system remembers for some time what there is in a directory, until it is opened.
    try:
        _open_directory(path.parent)
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _version(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}"


def _open_directory(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
