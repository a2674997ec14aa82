"""What is still to be undone, in a file that outlives this process: written before each fault, and after its end.

`orchestrator verify --undo FILE` does what is left of it. Passwords and tokens are not in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class RecordUnusable(Exception):
    """The file is not such a record; the message says why."""


@dataclass
class Left:
    """What a record says is to be done."""

    run: dict[str, Any]
    # Newest first, by their numbers.
    commands: dict[int, str] = field(default_factory=dict)
    # Definitions and executions are still there.
    made: bool = True


class Record:
    """Open for adding. Each line is on the disk before the call returns."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._next = 1
        self._fd = -1

    def begin(self, **run: Any) -> None:
        """A new file; `run` is what `--undo` has to know. Raises FileExistsError."""
        self._fd = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._add({"run": run})
        directory = os.open(self.file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def open(self) -> Left:
        """One that is there already. Raises RecordUnusable."""
        left = read(self.file)
        self._fd = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        return left

    def will_undo(self, command: str) -> int:
        """To be called before the fault; answers a number for `undone`."""
        number, self._next = self._next, self._next + 1
        self._add({"undo": number, "command": command})
        return number

    def undone(self, number: int) -> None:
        self._add({"undone": number})

    def removed(self) -> None:
        """Definitions and executions are gone."""
        self._add({"removed": True})

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Nothing is left to be done."""
        self.close()
        self.file.unlink()

    def _add(self, line: dict[str, Any]) -> None:
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        os.fsync(self._fd)


def read(file: Path) -> Left:
    """Raises RecordUnusable."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordUnusable(f"{file} can't be read: {error.strerror}") from error
    # The last may be half a line: its fault was not begun.
    try:
        documents = [json.loads(line) for line in lines[:-1]]
        left = Left(documents[0]["run"])
        commands: dict[int, str] = {}
        for document in documents[1:]:
            if "undo" in document:
                commands[document["undo"]] = document["command"]
            elif "undone" in document:
                commands.pop(document["undone"], None)
            elif document.get("removed"):
                left.made = False
    except (ValueError, LookupError, TypeError) as error:
        raise RecordUnusable(f"{file} is not a record of what is to be undone: {error!r}") from error
    left.commands = dict(sorted(commands.items(), reverse=True))
    return left
