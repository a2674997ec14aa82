"""What all tests share."""

from __future__ import annotations

import os

import pytest

from orchestrator.cli import local_cluster


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run side by side take their ports from ranges of their own: a node that is down holds none of its."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker is not None and count is not None:
        share = len(local_cluster.FREE_PORTS) // int(count)
        first = local_cluster.FREE_PORTS.start + share * int(worker.removeprefix("gw"))
        local_cluster.FREE_PORTS = range(first, first + share)
