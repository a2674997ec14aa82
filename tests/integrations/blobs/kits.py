"""What the conformance suite needs of each kind of store: nodes that share one, and a hand in what it holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from orchestrator.engine.blobs import BlobRef, ref_to
from orchestrator.integrations.blobs.directory import DirectoryStore
from orchestrator.integrations.blobs.store import BlobStore
from orchestrator.integrations.blobs.threads import Threads

VALUE = b'{"text":"%b"}' % (b"x" * 100_000)


def value(number: int, size: int = 100_000) -> bytes:
    """Of which each is another."""
    return b'"%d %b"' % (number, b"x" * size)


class Kit(Protocol):
    """`where`: what `other_node` makes the same store of, in another process."""

    kind: str

    @property
    def where(self) -> str: ...

    def bare(self) -> BlobStore:
        """As another node has it, not yet prepared."""

    async def node(self) -> BlobStore:
        """The same, prepared."""

    async def held(self, ref: BlobRef) -> bytes | None:
        """What the store has under the name."""

    async def hold(self, ref: BlobRef, content: bytes) -> None:
        """Puts something else there, behind the store's back."""

    async def lose_everything(self) -> None:
        """As if it had been made anew."""

    async def swap(self) -> None:
        """Another store stands where this was."""

    def cut_off(self) -> None:
        """It does not answer."""


class DirectoryKit:
    kind = "directory"

    def __init__(self, path: Path, threads: Threads) -> None:
        self.root = path / "shared"
        self.root.mkdir()
        self.threads = threads

    @property
    def where(self) -> str:
        return str(self.root)

    def bare(self, answer_ms: int = 30_000) -> DirectoryStore:
        return DirectoryStore(self.root, off_loop=self.threads, entropy=os.urandom, answer_ms=answer_ms)

    async def node(self) -> BlobStore:
        store = self.bare()
        await store.prepare()
        return store

    def path_of(self, ref: BlobRef) -> Path:
        return self.root / "values" / ref.sha256[:2] / ref.sha256

    async def held(self, ref: BlobRef) -> bytes | None:
        path = self.path_of(ref)
        return path.read_bytes() if path.exists() else None

    async def hold(self, ref: BlobRef, content: bytes) -> None:
        self.path_of(ref).write_bytes(content)

    async def lose_everything(self) -> None:
        shutil.rmtree(self.root)
        self.root.mkdir()

    async def swap(self) -> None:
        await self.lose_everything()
        await self.node()

    def cut_off(self) -> None:
        self.root.rename(self.root.with_name("elsewhere"))


@asynccontextmanager
async def directory_kit(path: Path) -> AsyncIterator[DirectoryKit]:
    threads = Threads("blobs", 4)
    try:
        yield DirectoryKit(path, threads)
    finally:
        threads.close()


def ref_in(store: BlobStore, content: bytes = VALUE) -> BlobRef:
    return ref_to(store.store_id, content)
