"""The record of what was done by whom: a JSON object per line, in a file or in the log. Never what was in a request.

A line that can't be written is kept, and said in the log meanwhile; as long as there is one, nothing is to be done
that has to be recorded.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

LOGGER = "orchestrator.audit"
# What was under way when writing began to fail; nothing new begins.
_KEPT_MAX = 10_000

logger = logging.getLogger(__name__)
_records = logging.getLogger(LOGGER)


class AuditUnavailable(Exception):
    """What is done now could not be recorded."""


class AuditLog:
    """Appends to the file, which may be renamed at any time: the next line goes into a new one. None: to the log."""

    def __init__(self, path: Path | None, *, node: str, wall_ms: Callable[[], int]) -> None:
        self._path = path
        self._node = node
        self._wall_ms = wall_ms
        self._file: BinaryIO | None = None
        self._unwritten: deque[bytes] = deque(maxlen=_KEPT_MAX)
        self.on_failure: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Raises OSError if the file can't be written to."""
        if self._path is not None:
            self._reopen(self._path)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def unwritten(self) -> int:
        """Lines that could not be written yet."""
        return len(self._unwritten)

    def require(self) -> None:
        """Raises AuditUnavailable while there is something that could not be written."""
        try:
            self._write()
        except OSError as error:
            raise AuditUnavailable(f"the audit log can't be written: {error.strerror}") from None

    def record(self, **fields: Any) -> None:
        """Writes one line. Fields that are empty are left out."""
        moment = datetime.fromtimestamp(self._wall_ms() / 1000, UTC)
        line = {"time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "node": self._node}
        line |= {name: value for name, value in fields.items() if value not in ("", None, [])}
        if self._path is None:
            _records.info("%s", fields.get("method", ""), extra=_as_extra(line))
            return
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._unwritten.append(text.encode("utf-8", "replace") + b"\n")
        try:
            self._write()
        except OSError as error:
            self.on_failure()
            logger.error("the audit log can't be written: %s; it would say: %s", error.strerror, text)

    def _write(self) -> None:
        if self._path is None:
            return
        file = self._present(self._path)
        while self._unwritten:
            line = self._unwritten[0]
            written = file.write(line)
            if written != len(line):
                self._cut_off(file, written)
            self._unwritten.popleft()

    @staticmethod
    def _cut_off(file: BinaryIO, written: int) -> None:
        """A disk that is full takes a part of a line: half a line would spoil the next one."""
        os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - written))
        raise OSError(28, "there was room for a part of a line only")

    def _present(self, path: Path) -> BinaryIO:
        """The file that is there under its name now."""
        file = self._file
        if file is not None:
            try:
                there, ours = path.stat(), os.fstat(file.fileno())
            except FileNotFoundError:
                return self._reopen(path)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return file
        return self._reopen(path)

    def _reopen(self, path: Path) -> BinaryIO:
        self.close()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        return self._file


def _as_extra(line: Mapping[str, Any]) -> dict[str, Any]:
    """Time and node are said by the log itself."""
    return {name: value for name, value in line.items() if name not in ("time", "node")}
