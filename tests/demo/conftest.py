"""The demo's modules lie in one folder and import each other by name, as its scripts do."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "client" / "examples" / "orders"))


@pytest.fixture(autouse=True)
def children_find_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a checkout that is not installed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / part) for part in (".", "client", "proto")))
