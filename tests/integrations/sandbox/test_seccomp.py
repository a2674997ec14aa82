"""The filter of system calls, played through on both architectures: tests of processes see only their machine's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.integrations.sandbox import seccomp

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ALLOWED, REFUSED = 0x7FFF0000, 0x00050001
# Numbers on (x86_64, aarch64) of what must be refused.
FORBIDDEN = {
    "execve": (59, 221), "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131),
    "openat": (257, 56), "unlinkat": (263, 35), "renameat2": (316, 276), "socket": (41, 198), "connect": (42, 203),
    "ptrace": (101, 117), "process_vm_writev": (311, 271), "mount": (165, 40), "fchmodat": (268, 53), "bpf": (321, 280),
    "io_uring_setup": (425, 425), "io_setup": (206, 0), "setsid": (112, 157), "prctl": (157, 167),
}


def decide(program: list[seccomp._Instruction], architecture: int, number: int, argument: int = 0) -> int:
    """What the kernel makes of it, for the three kinds of instruction that there are."""
    data = {0: number, 4: architecture, 16: argument}
    at = loaded = 0
    while True:
        step = program[at]
        at += 1
        match step.code:
            case 0x20:
                loaded = data[step.value]
            case 0x15:
                at += step.if_true if loaded == step.value else step.if_false
            case 0x06:
                return step.value
            case other:
                raise AssertionError(f"no such instruction: {other}")


@pytest.mark.parametrize("machine", seccomp._ARCHITECTURES)
def test_only_what_is_listed_is_allowed(machine: str) -> None:
    column, architecture = seccomp._ARCHITECTURES[machine]
    listed = {numbers[column] for numbers in seccomp._ALLOWED.values()} - {-1}
    program = seccomp._filter(architecture, sorted(listed), seccomp._PRLIMIT[column])
    for number in range(600):
        if number != seccomp._PRLIMIT[column]:
            assert decide(program, architecture, number) == (ALLOWED if number in listed else REFUSED)
    for numbers in FORBIDDEN.values():
        assert decide(program, architecture, numbers[column]) == REFUSED
        assert decide(program, architecture, numbers[column] | 0x40000000) == REFUSED  # x32, the third way in


@pytest.mark.parametrize("machine", seccomp._ARCHITECTURES)
def test_limits_are_its_own_only(machine: str) -> None:
    column, architecture = seccomp._ARCHITECTURES[machine]
    program = seccomp._filter(architecture, [0], seccomp._PRLIMIT[column])
    assert decide(program, architecture, seccomp._PRLIMIT[column], 0) == ALLOWED
    assert decide(program, architecture, seccomp._PRLIMIT[column], 1234) == REFUSED


def test_another_architecture_has_no_calls() -> None:
    """On x86_64 a program may call as a 32-bit one does, where each number is another call."""
    program = seccomp._filter(seccomp._ARCHITECTURES["x86_64"][1], [0, 1, 5], 302)
    assert all(decide(program, 0x40000003, number) == REFUSED for number in range(600))


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not here")
    column = seccomp._ARCHITECTURES[machine][0]
    text = HEADERS[machine].read_text(encoding="utf-8")
    known: dict[str, int] = {}
    for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.MULTILINE):
        known.setdefault(name, int(number))
    named = {**seccomp._ALLOWED, **FORBIDDEN, "prlimit64": seccomp._PRLIMIT, "seccomp": seccomp._SECCOMP}
    assert {name: numbers[column] for name, numbers in named.items()} == {name: known.get(name, -1) for name in named}
