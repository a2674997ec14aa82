"""Rows of values that are kept outside the log: what is known of each, wherever its content is.

As other resident rows (see ``resident``) they are immutable values, encoded by position. Which executions use a value
is in their headers (`model.Execution.blobs`): few use many, and a header that is read anew brings its uses with it.
"""

from __future__ import annotations

from enum import IntEnum

from orchestrator.engine.model import Row


class BlobState(IntEnum):
    """What may be done with a value."""

    LIVE = 1  # it may be referred to
    DELETING = 2  # it is being deleted from its store: nothing may refer to it any more


class BlobRow(Row, frozen=True):
    """A value in a store. Its number is never given again; what is put anew has another one."""

    number: int
    store: str
    sha256: str  # lower-case hexadecimal digits
    size: int  # bytes
    state: BlobState
    uses: int = 0  # executions that refer to it
    changed_ms: int = 0  # since when it is in this state; or, LIVE, since when nothing uses it
    behind: int = 0  # LIVE, and was used: messages from this number on were sent when nothing used it any more
