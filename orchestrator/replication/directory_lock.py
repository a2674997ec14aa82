"""One process in a data directory at a time: two would write over each other's journal."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from orchestrator.replication.errors import DirectoryInUse

FILE_NAME = "lock"


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Raises DirectoryInUse. The lock ends with the process, however that does; no directory, no lock."""
    if not data_dir.is_dir() or not any(data_dir.iterdir()):
        # What is wrong with it is said by who looks for a node in it.
        yield
        return
    with (data_dir / FILE_NAME).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryInUse(f"{data_dir} is in use by another process: stop the node that runs there") from None
        yield
