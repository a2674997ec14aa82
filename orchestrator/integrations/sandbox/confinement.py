"""What holds an evaluator process: limits that the kernel enforces, whatever an engine is made to do.

Everything an engine needs is loaded before. After `confine`, no file, socket or pipe can be opened any more, since
no descriptor is left; what is not allowed to be read can't be read by a broken engine either.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys

from orchestrator.integrations.sandbox.protocol import MIB, clock_ms
from orchestrator.integrations.sandbox.seccomp import confine_system_calls

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# Beside what an evaluation may use: the request's and the answer's text, and what Python makes of them.
_HEADROOM_BYTES = 64 * MIB
_NICENESS = 5
# How much later than an engine's own limit the kernel ends the process: engines notice late in long built-in calls.
_ALARM_AFTER_MS = 250


def die_with_parent(parent: int) -> None:
    """This process is killed when `parent`, whose main thread must have started it, ends in any way.

    Elsewhere than on Linux it ends when its socket does, at the latest when a running evaluation meets its limit.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(0)


def give_way() -> None:
    """Whatever is evaluated, a node's heartbeats come first."""
    os.nice(_NICENESS)
    try:
        # Where the processes of a session are scheduled as a group, only the group's own value counts among others.
        with open("/proc/self/autogroup", "w", encoding="ascii") as group:  # noqa: PTH123 - one more module to load
            group.write(str(_NICENESS))
    except OSError:
        pass  # there are no such groups here


class Memory:
    """How much this process has mapped, which can still be asked when nothing can be opened any more."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else None

    def mapped_bytes(self) -> int:
        """Elsewhere than on Linux, the most that it ever had in use."""
        if self._statm is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(os.pread(self._statm, 128, 0).split()[0]) * resource.getpagesize()


def confine(memory: Memory, memory_bytes: int) -> bool:
    """From now on: bounded memory, nothing to open, no dumps, no privileges to gain, no other system calls.

    Returns whether this machine can do the last.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Elsewhere there is no telling how much a process has mapped already, nor is the limit kept.
        _lower(resource.RLIMIT_AS, memory.mapped_bytes() + memory_bytes + _HEADROOM_BYTES)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _open_descriptors())
    return confine_system_calls()


def _lower(which: int, limit: int) -> None:
    hard = resource.getrlimit(which)[1]
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(which, (bound, bound))


def _open_descriptors() -> int:
    """The lowest number that is free: none at or above it can be opened once it is the limit."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    return free


class Deadline:
    """Ends this process if the block uses more of the processor, or takes much longer on the clock.

    The kernel does it, by default actions of signals: Python's own handlers would wait for the engine to return.
    """

    def __init__(self, time_ms: int) -> None:
        self._seconds = (time_ms + _ALARM_AFTER_MS) / 1000
        self._clock_seconds = clock_ms(time_ms) / 1000
        self._hard = resource.getrlimit(resource.RLIMIT_CPU)[1]

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, self._seconds)
        signal.setitimer(signal.ITIMER_REAL, self._clock_seconds)
        # In whole seconds only, but held against a timer that was set anew.
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = usage.ru_utime + usage.ru_stime
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + self._seconds) + 1, self._hard))

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
