"""Every error this package raises on purpose.

CodecError
├── RowVersionUnsupported      a row was written by a newer version: upgrade this node
├── RowCorrupt                 the bytes are no row of that table
├── EntryVersionUnsupported    a log entry was written by a newer version: upgrade this node
├── EntryCorrupt               the bytes are no log entry
└── ResultCorrupt              the bytes are no result
"""

from __future__ import annotations


class CodecError(Exception):
    """Base of all errors raised on purpose by this package."""


class RowVersionUnsupported(CodecError):
    """A row was written by a newer version of orchestrator: upgrade this node."""


class RowCorrupt(CodecError):
    """The bytes are no row of that table."""


class EntryVersionUnsupported(CodecError):
    """A log entry was written by a newer version of orchestrator: upgrade this node."""


class EntryCorrupt(CodecError):
    """The bytes are no log entry."""


class ResultCorrupt(CodecError):
    """The bytes are no result."""
