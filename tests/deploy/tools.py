"""Programs of others that the tests of this folder call. Where changes are checked (`CI`) they must be there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def found(*names: str, where: str = "") -> str:
    """The first of them; without any the test is skipped, and fails in CI. `where`: a folder that is looked in, too."""
    searched = os.pathsep.join(filter(None, [where, os.environ["PATH"]]))
    for name in names:
        if path := shutil.which(name, path=searched):
            return path
    said = f"not installed: {' or '.join(names)}"
    if os.environ.get("CI"):
        pytest.fail(said)
    pytest.skip(said)
