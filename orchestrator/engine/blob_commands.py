"""Commands about values that are kept outside the log.

Whoever puts one into its store says so before (`HoldBlobs`), so that nothing is there that nobody knows of. What no
execution refers to for `BLOB_UNUSED_MS` may go: that is said before it is deleted (`DeleteBlobs`), so that nothing
refers to it from then on, and once it is gone (`BlobsDeleted`).
"""

from __future__ import annotations

import msgspec

from orchestrator.engine.command import Command


class HeldBlob(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """A value that is about to be put into a store."""

    store: str
    sha256: str  # lower-case hexadecimal digits
    size: int  # bytes


class HoldBlobs(Command, frozen=True, tag=230):
    """They are kept for a while, also if nothing refers to them; answers `BlobsHeld`."""

    blobs: tuple[HeldBlob, ...]


class DeleteBlobs(Command, frozen=True, tag=231):
    """Those of the numbers that nothing has used for long enough are to be deleted. Of others it means nothing."""

    numbers: tuple[int, ...]


class BlobsDeleted(Command, frozen=True, tag=232):
    """Those that were to be deleted are gone from their stores."""

    numbers: tuple[int, ...]


BlobCommand = HoldBlobs | DeleteBlobs | BlobsDeleted
