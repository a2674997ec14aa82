"""What to do about an error that has stopped a node, in a sentence for whoever reads its log."""

from __future__ import annotations

import errno

from orchestrator.codec.errors import EntryVersionUnsupported, RowVersionUnsupported
from orchestrator.replication.errors import IdentityError, JournalCorrupt
from orchestrator.services.checkpoints import ContentDiffers
from orchestrator.storage.errors import DatabaseCorrupt, DiskFailed, SchemaVersionUnsupported, WrongCluster

REBUILD = "`orchestrator cluster rebuild --config FILE`"

# They say themselves what to do.
_OF_ANOTHER_RELEASE = (IdentityError, SchemaVersionUnsupported, RowVersionUnsupported, EntryVersionUnsupported)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def told(error: BaseException) -> str:
    """The error, and what to do."""
    return f"{error}. {advice(error)}".removesuffix(". ")


def advice(error: BaseException) -> str:
    """By the first error in the chain of causes of which it is known what helps; empty if that says so itself."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DatabaseCorrupt | JournalCorrupt | ContentDiffers):
            return (f"What to do: if a majority of the other nodes is healthy, rebuild this one from them, {REBUILD}; "
                    "it keeps the old data. Otherwise restore what was lost, or a backup")
        if isinstance(found, WrongCluster):
            return f"What to do: correct data_dir, or what lies in it; or rebuild this node, {REBUILD}"
        if isinstance(found, _OF_ANOTHER_RELEASE):
            return ""
        if isinstance(found, OSError | DiskFailed) and found.errno is not None:
            return f"What to do: {_about_disk(found.errno)}"
        found = found.__cause__ or found.__context__
    return ("What to do: keep this log, it shows a bug or a fault of the machine; start this node again, and if it "
            f"stops again, rebuild it from the others, {REBUILD}")


def _about_disk(number: int) -> str:
    if number in _NO_ROOM:
        return ("make room on the disk of data_dir, then start this node again; nothing that was acknowledged is lost")
    if number in _NOT_WRITABLE:
        return ("make data_dir writable and start this node again; if its disk was mounted read-only after errors (see "
                f"the system's log), replace the disk and rebuild this node, {REBUILD}")
    return f"the disk of data_dir reports errors (see the system's log): replace it and rebuild this node, {REBUILD}"
