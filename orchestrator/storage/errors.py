"""Every error this package raises on purpose.

StorageError
├── DatabaseCorrupt             what is stored is not what was written: the node must stop
├── DiskFailed                  the disk under the database is full, read-only or broken: the node must stop
├── SnapshotCorrupt             a copy is not what was sent: the live database is untouched, fetch another
├── BackupUnfit                 a backup is cut, damaged, or not of this kind: nothing was made of it
├── BackupInProgress            this node makes a backup already
├── BackupRoomMissing           the disk has no room for the copy that a backup needs
├── WrongCluster                the database belongs to another cluster, or to one before its recovery
├── SchemaVersionUnsupported    the database was written by a newer version: upgrade this node
├── InconsistentChanges         rows were staged that cannot be stored: a bug above
├── StorageClosed               the database is closed, or closed itself after a fatal error
├── SearchTimeout               a search took too long: narrow it
├── QueryInvalid                a search can't be read: the message says where and why
└── InvalidPageToken            a page token is damaged or belongs to another search
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of all errors raised on purpose by this package."""


class DatabaseCorrupt(StorageError):
    """What is stored is not what was written."""


class DiskFailed(StorageError):
    """SQLite could not read or write its files; `errno` says why, as far as it does."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class SnapshotCorrupt(StorageError):
    """A copy is not what was sent; the live database is untouched."""


class BackupUnfit(StorageError):
    """A backup is cut, damaged, or no backup that this version can read."""


class BackupInProgress(StorageError):
    """One backup at a time: this node makes one already."""


class BackupRoomMissing(StorageError):
    """The disk of the data directory has no room for a copy of the database."""


class WrongCluster(StorageError):
    """The database belongs to another cluster, or to the same one before its recovery."""


class SchemaVersionUnsupported(StorageError):
    """The database was written by a newer version of orchestrator: upgrade this node."""


class InconsistentChanges(StorageError):
    """Rows were staged that cannot be stored."""


class StorageClosed(StorageError):
    """The database is closed, or closed itself after a fatal error."""


class SearchTimeout(StorageError):
    """The search took too long: narrow it."""


class InvalidPageToken(StorageError):
    """The page token is damaged or belongs to another search."""


class QueryInvalid(StorageError):
    """The search can't be read; the message says where and why."""
