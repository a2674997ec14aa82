"""Each peer that is installed does what it is measured for, and leaves nothing behind; the others are skipped."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.peers.catalogue import PEERS, installations
from tests.benchmarks.peers.children import descendants
from tests.benchmarks.peers.peer import Peer, check, parcel

CALLS = 8
LIMIT_S = 120


@pytest.fixture
def directory() -> Iterator[Path]:
    """Below no directory that only its owner may enter, as that of pytest is: Postgres does not run as root."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-peer-") as made:
        yield Path(made)


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
async def test_a_peer_runs_workflows_and_is_gone_afterwards(peer: Peer, directory: Path) -> None:
    if obstacle := peer.obstacle():
        pytest.skip(obstacle)
    async with asyncio.timeout(LIMIT_S):
        async with peer.start(directory, CALLS) as running:
            await asyncio.gather(*(running.call(number) for number in range(CALLS)))
            roots = [child.pid for child in (*running.servers, *running.workers, *running.callers)]
            tree = descendants(roots)
            assert tree >= set(roots)
            spent = running.spent()
        assert not descendants(tree)
    assert list(spent) == ["server", "workers", "generator"]
    # What a server in C does in a few milliseconds is below the kernel's ticks.
    assert spent["workers"] > 0 and spent["generator"] > 0


def test_names_are_those_of_the_command_line() -> None:
    assert all(name == peer.name for name, peer in PEERS.items())


def test_what_several_peers_need_is_installed_once() -> None:
    needed = installations([*PEERS, *PEERS])
    assert len({each.name for each in needed}) == len(needed) > 0


def test_the_answer_of_another_workflow_is_an_error() -> None:
    check(7, parcel(7))
    for answer in (parcel(8), None, {}):
        with pytest.raises(RuntimeError, match="workflow 7 answered"):
            check(7, answer)
