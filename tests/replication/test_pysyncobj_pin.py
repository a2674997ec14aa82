"""What is overridden here was read in exactly this file: another PySyncObj needs another reading."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

import pysyncobj.syncobj  # type: ignore[import-untyped]  # the package has no types

from orchestrator.replication import core, state

SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"


def test_the_library_is_the_one_that_was_read() -> None:
    assert hashlib.sha256(Path(inspect.getfile(pysyncobj.syncobj)).read_bytes()).hexdigest() == SHA256


def test_every_private_method_overridden_exists_in_the_library() -> None:
    """A misspelt override would silently leave the library's own method in force."""
    ours = {
        name
        for cls in (core.SyncObj, state.SyncObj)
        for name, value in vars(cls).items()
        if name.startswith("_SyncObj__") and callable(value)
    }
    assert ours
    assert ours <= set(vars(pysyncobj.syncobj.SyncObj))


def test_nothing_that_pickles_forks_or_polls_is_left() -> None:
    for name in (
        "onMessageReceived",
        "sendAppendEntries",
        "applyLogEntries",
        "tryLogCompaction",
        "loadDumpFile",
        "doApplyCommand",
        "changeCluster",
        "doChangeCluster",
    ):
        assert f"_SyncObj__{name}" in vars(core.SyncObj), name
    assert "_onTick" in vars(core.SyncObj)
