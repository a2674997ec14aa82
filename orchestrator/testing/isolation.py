"""What the interpreter does at moments of its own is kept out of a simulation, and nothing of one is left behind."""

from __future__ import annotations

import contextlib
import gc
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

GARBAGE_COLLECTIONS = 3
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only the shared memory of SQLite's logs, in a directory of our own


@contextlib.contextmanager
def isolated(name: str) -> Iterator[Path]:
    """What runs inside repeats itself exactly, and nothing is left of it; gives a directory for SQLite."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    # Collections would come at other moments each time, and end what a killed process has left. What is there already
    # stays, so that the one at the end looks at this run only.
    collects = gc.isenabled()
    gc.freeze()
    gc.disable()
    try:
        yield scratch
    finally:
        sweep()
        gc.unfreeze()
        if collects:
            gc.enable()
        shutil.rmtree(scratch, ignore_errors=True)


def sweep() -> None:
    """Lets go what killed processes have left."""
    with without_last_words():
        # Tasks that are found are closed, and only the next time are they, and what they held, let go.
        for _ in range(GARBAGE_COLLECTIONS):
            gc.collect()


@contextlib.contextmanager
def without_last_words() -> Iterator[None]:
    """What ends meanwhile was killed: that it was not awaited, or fails as it ends, is nobody's concern."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda left: None
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.unraisablehook = hook
