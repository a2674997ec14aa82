"""Clusters of real processes; what their nodes said last is part of the report of a test that fails."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.ledger import Ledger

StartCluster = Callable[..., Awaitable[LocalCluster]]
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "call":
        item.stash[_FAILED] = report.failed


@pytest.fixture
async def start_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[StartCluster]:
    """Makes a cluster whose nodes agree on a leader; its processes are gone when the test is over."""
    made: list[LocalCluster] = []

    async def start(nodes: int = 3, **settings: int | str) -> LocalCluster:
        made.append(LocalCluster(tmp_path / f"cluster-{len(made)}", nodes, node_settings=settings))
        await made[-1].start()
        await made[-1].wait_ready()
        return made[-1]

    yield start
    for cluster in made:
        # At once: nothing looks at it any more, and a graceful stop is looked at where it is meant.
        await cluster.stop(timeout_s=0)
        if request.node.stash.get(_FAILED, True):
            for node in cluster.nodes.values():
                print(f"--- the last lines of node {node.name} ({node.log_file})\n{node.log_tail()}")


@pytest.fixture
async def cluster(start_cluster: StartCluster) -> LocalCluster:
    return await start_cluster()


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.endpoints) as made:
        yield made


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def chance() -> random.Random:
    """What a test leaves to chance; SEED=… repeats it."""
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}")
    return random.Random(seed)
