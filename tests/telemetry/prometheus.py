"""Prometheus' own tool, which says whether it would take what we give it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest


class Promtool:
    """Calls it; what it complains about fails the test. Skips the test where it is missing, but in CI."""

    def __init__(self) -> None:
        self._path = shutil.which("promtool")
        if self._path is None:
            assert os.environ.get("CI") != "true", "promtool is missing: apt-get install prometheus"
            pytest.skip("promtool is missing: on Debian, apt-get install prometheus")

    def __call__(self, *arguments: str | Path, given: bytes = b"") -> str:
        assert self._path is not None
        call = [self._path, *map(str, arguments)]
        done = subprocess.run(call, input=given, capture_output=True, timeout=60, check=False)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, said
        return said


def samples(page: bytes) -> dict[str, float]:
    """By name and labels, as in `name{a=b,c=d}`; the partition is left out."""
    found = {}
    for line in page.decode().splitlines():
        if line.startswith("#"):
            continue
        series, _, value = line.rpartition(" ")
        name, _, labels = series.partition("{")
        own = [f"{key}={text}" for key, text in re.findall(r'(\w+)="([^"]*)"', labels) if key != "partition"]
        found[f"{name}{{{','.join(own)}}}" if own else name] = float(value)
    return found
