"""What a store of values promises to whoever keeps references to them, and how it fails.

A value is kept under its SHA-256, so what is put twice is kept once, and whoever gets it can tell whether it is whole.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from orchestrator.engine.blobs import BlobRef


class BlobFailure(Exception):
    """A value could not be put, got or deleted; the message says why, and where it was looked for."""


class BlobMissing(BlobFailure):
    """The store answers, and the value is not in it."""


class BlobCorrupt(BlobFailure):
    """What the store has under this name is not the value: its size or SHA-256 is another."""


class StoreUnavailable(BlobFailure):
    """The store does not answer, or is not the one that it was. Nothing is known of the value; try again."""


class BlobStore(Protocol):
    """All calls raise StoreUnavailable. A call that is cancelled, or whose time is up, may still be carried out."""

    @property
    def store_id(self) -> str:
        """Made with the store and kept in it, for the references; known once it is prepared."""

    async def prepare(self) -> None:
        """Finds the store, or makes it. To be called before anything else, and again at any time.

        After each loss of the connection to it, above all: a store that has lost its data gets its name back from
        whoever knows it, before somebody comes who does not.
        """

    async def put(self, ref: BlobRef, content: bytes) -> None:
        """Durable when it returns, as far as the store is. Puts a whole value where a damaged one is.

        Raises BlobCorrupt if the reference is not the content's, or one to another store.
        """

    async def get(self, ref: BlobRef) -> bytes:
        """The whole value. Raises BlobMissing or BlobCorrupt."""

    async def version(self, ref: BlobRef) -> str:
        """Tells apart what was put before it was deleted, and after that; empty if there is nothing."""

    async def delete(self, ref: BlobRef, version: str | None = None) -> None:
        """Gone when it returns; it may be gone before.

        Given a version, anything else is left alone. So whoever finds out the version, then makes sure that the value
        is still to be deleted, never deletes what was put since, however long the call itself is under way.
        """


def checked(ref: BlobRef, content: bytes, place: str) -> bytes:
    """The content, if it is what the reference says. Raises BlobCorrupt."""
    if len(content) != ref.size:
        raise BlobCorrupt(f"{place} has {len(content)} bytes, the value has {ref.size}")
    if hashlib.sha256(content).hexdigest() != ref.sha256:
        raise BlobCorrupt(f"{place} has another SHA-256 than the value")
    return content


def check_store(ref: BlobRef, store_id: str, place: str) -> None:
    """Raises BlobMissing if the reference is one to another store."""
    if ref.store != store_id:
        raise BlobMissing(
            f"the value {ref.sha256} is in the store {ref.store}, and {place} is the store {store_id}: this node has"
            " another one configured, or the store has lost its data"
        )
