"""What a database says of the software: which behaviour level it stands at, and which release had it last.

Both are read before anything else, for an older release may be able to read nothing else of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import apsw
import msgspec

from orchestrator.codec.rows import ROW_FORMAT, encode_key
from orchestrator.engine.model import Meta, Table
from orchestrator.storage import schema
from orchestrator.storage.errors import DatabaseCorrupt

_LEVEL_AT = Meta.__struct_fields__.index("behaviour_level")


class Stamp(NamedTuple):
    level: int
    software: str  # the version of the release that had it last; "" if it is not known

    @property
    def last_opened(self) -> str:
        """For a sentence that begins with what was stamped."""
        return f", last opened by orchestrator {self.software}," if self.software else ""


def read_stamp(connection: apsw.Connection) -> Stamp:
    """Blocks. Raises DatabaseCorrupt."""
    if schema.is_blank(connection):
        return Stamp(Meta().behaviour_level, "")
    with schema.corruption_named():
        try:
            query = "SELECT body FROM resident WHERE table_number = ? AND key = ?"
            found = connection.execute(query, (int(Table.META), encode_key(()))).get
        except apsw.SQLError as error:
            raise DatabaseCorrupt(f"not a database of orchestrator: {error}") from error
    return Stamp(_level(found), str(schema.read_meta(connection).get(schema.SOFTWARE, "")))


def stamp_of(path: Path, vfs: str | None = None) -> Stamp:
    """Of a database that nobody has open. Blocks."""
    connection = schema.connect(str(path), vfs)
    try:
        return read_stamp(connection)
    finally:
        connection.close()


def write_stamp(connection: apsw.Connection, software: str) -> None:
    """This release has it from now on. Blocks."""
    if schema.read_meta(connection).get(schema.SOFTWARE) != software:
        with schema.corruption_named(), connection:
            schema.write_meta(connection, {schema.SOFTWARE: software})


def _level(row: bytes | None) -> int:
    if row is None:
        return Meta().behaviour_level
    if row[0] != ROW_FORMAT:
        return Meta().behaviour_level  # what refuses the row says more
    try:
        fields = msgspec.msgpack.decode(memoryview(row)[1:])
        # Trailing defaults are left out.
        return int(fields[_LEVEL_AT]) if len(fields) > _LEVEL_AT else Meta().behaviour_level
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DatabaseCorrupt(f"the database is damaged: its row of counters is none: {error}") from error
