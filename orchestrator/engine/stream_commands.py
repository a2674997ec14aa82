"""The command about entries of streams. As all commands it is encoded by position (see ``commands``)."""

from __future__ import annotations

import msgspec

from orchestrator.engine.command import Command


class StreamEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """An entry as it was read."""

    entry_id: str  # the stream's own, "ms-seq"
    event_id: str  # its publisher's; "": the entry's own
    payload: bytes  # a JSON object
    source: str = ""
    correlation_id: str = ""
    trace: str = ""  # see model.Execution
    # Why it can't be an event; the payload is then what was found, as a JSON object.
    invalid: str = ""


class ReceiveEvents(Command, frozen=True, tag=166):
    """The leader has read entries of a stream that event handlers handle.

    They are in the order of the stream, and none is left out between the stream's cursor and the last of them, but for
    those that are gone from the stream: what comes later and stands before what was taken up counts as taken up.
    """

    namespace: str
    event: str  # redis:STREAM
    entries: tuple[StreamEntry, ...]
    # The stream has lost its entries, and what it has now may have smaller ids: the cursor goes back to its beginning.
    restarted: bool = False
