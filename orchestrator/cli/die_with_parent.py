"""Ties this process to the one that started it, so that nothing a terminal or a test started is ever left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_WATCH_INTERVAL_SECONDS = 0.5


def die_with_parent(parent: int) -> None:
    """From now on this process is killed when `parent`, which must have started it, ends in any way.

    Linux ties the signal to the parent's *thread*: it must start its children from one that lives as long as it does.
    The kernel's signal reaches a process that is stopped (SIGSTOP) too, which no pipe and no polling could.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), name="die-with-parent", daemon=True).start()
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_INTERVAL_SECONDS)
    os._exit(0)
