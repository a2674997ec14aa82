"""The system calls that an evaluator process may make: those of computing and of its socket, on Linux.

Descriptors are not needed to remove a file by its name, to start a program or to signal the node, so that a limit of
descriptors does not keep a broken engine from that; this does. What is not listed fails with EPERM and does no harm.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from typing import NamedTuple

# name -> its numbers on (x86_64, aarch64); -1: there is no such call.
_ALLOWED = {
    "read": (0, 63), "pread64": (17, 67), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "poll": (7, -1), "ppoll": (271, 73), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233), "futex": (202, 98), "membarrier": (324, 283), "rseq": (334, 293),
    "set_robust_list": (273, 99), "sched_yield": (24, 124),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "setitimer": (38, 103), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, -1),
    "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164), "getrandom": (318, 278),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "exit": (60, 93), "exit_group": (231, 94),
}
# Of its own limits only: of another process it would be the node's.
_PRLIMIT = (302, 261)
_SECCOMP = (317, 277)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_OF_NUMBER, _OF_ARCHITECTURE, _OF_FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_SET_MODE_FILTER, _ALL_THREADS = 1, 1


class _Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    value: int


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine_system_calls() -> bool:
    """For all threads, and for good; privileges must have been given up. False if this machine can't do it."""
    found = _ARCHITECTURES.get(platform.machine()) if sys.platform == "linux" and sys.byteorder == "little" else None
    if found is None:
        return False
    column, architecture = found
    allowed = sorted(numbers[column] for numbers in _ALLOWED.values() if numbers[column] >= 0)
    program = _filter(architecture, allowed, _PRLIMIT[column])
    text = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    call = ctypes.CDLL(None, use_errno=True).syscall
    argument = ctypes.byref(_Program(len(program), text))
    return bool(call(ctypes.c_long(_SECCOMP[column]), _SET_MODE_FILTER, _ALL_THREADS, argument) == 0)


def _filter(architecture: int, allowed: list[int], prlimit: int) -> list[_Instruction]:
    """Jumps count the instructions that are skipped."""
    count = len(allowed)
    return [
        _Instruction(_LOAD, 0, 0, _OF_ARCHITECTURE),
        _Instruction(_JUMP_IF_EQUAL, 0, count + 5, architecture),  # on another one the numbers mean other calls
        _Instruction(_LOAD, 0, 0, _OF_NUMBER),
        *(_Instruction(_JUMP_IF_EQUAL, count - index + 2, 0, number) for index, number in enumerate(allowed)),
        _Instruction(_JUMP_IF_EQUAL, 0, 3, prlimit),
        _Instruction(_LOAD, 0, 0, _OF_FIRST_ARGUMENT),
        _Instruction(_JUMP_IF_EQUAL, 0, 1, 0),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _REFUSE),
    ]
