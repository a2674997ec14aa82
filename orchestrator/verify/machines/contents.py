"""Whether all nodes hold the same rows and the same history at the same index: read from copies of their files."""

from __future__ import annotations

import asyncio
import shutil
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import Applied, connect, read_applied

INDEXES = ("orchestrator_commit_index", "orchestrator_applied_index", "orchestrator_flushed_index")
SETTLED_S = 120.0
TRIES = 10
_POLL_S = 0.02


class ContentsDiffer(Exception):
    """The message says which nodes, and how; or that they could not be compared."""


async def same_content(cluster: LocalCluster, *, scan: bool, timeout_s: float = SETTLED_S) -> None:
    """Returns if they do; the nodes stand still meanwhile, and nobody may be at work. Raises ContentsDiffer.

    With `scan` the rows are counted anew, and not only the hash that was kept of them is looked at.
    """
    for _ in range(TRIES):
        await _until(lambda: _settled(cluster), "all nodes to have applied and stored the same entries", timeout_s)
        for name in cluster.nodes:
            cluster.pause(name)
        try:
            await _until(lambda: asyncio.to_thread(_all_stand_still, cluster),
                         "all threads of all nodes to stand still", timeout_s)
            for node in cluster.nodes.values():
                _copy(node.data_dir, node.directory / "look")
        finally:
            for name in cluster.nodes:
                cluster.resume(name)
        found = {name: await asyncio.to_thread(_look, node.directory / "look", scan)
                 for name, node in cluster.nodes.items()}
        if len({applied.index for applied, _ in found.values()}) == 1:
            _compare(found)
            return
    raise ContentsDiffer("the nodes never stood still at one index")


async def _until(probe: Callable[[], Awaitable[bool]], what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not await probe():
        if time.monotonic() > deadline:
            raise ContentsDiffer(f"waited {timeout_s:.0f} s in vain for {what}")
        await asyncio.sleep(_POLL_S)


async def _settled(cluster: LocalCluster) -> bool:
    pages = await asyncio.gather(*(asyncio.to_thread(_indexes, node) for node in cluster.nodes.values()))
    return len({value for page in pages for value in page}) == 1


def _indexes(node: LocalNode) -> list[float]:
    """Of a node that does not answer none is known, which is no index that another one has."""
    try:
        with urllib.request.urlopen(f"http://{node.metrics_address}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
    except OSError:
        return [-1.0, float("nan")]
    found = {line.split("{")[0].split(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}
    return [found.get(name, 0.0) for name in INDEXES]


def _all_stand_still(cluster: LocalCluster) -> bool:
    """The signal is sent at once, and obeyed when a thread comes to its turn."""
    threads = [thread for node in cluster.nodes.values() if node.process is not None
               for thread in Path(f"/proc/{node.process.pid}/task").iterdir()]
    return all("State:\tT" in (thread / "status").read_text() for thread in threads)


def _copy(data_dir: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name in ("state.db", "state.db-wal"):
        if (data_dir / name).exists():
            shutil.copy(data_dir / name, target / name)


def _look(directory: Path, scan: bool) -> tuple[Applied, int]:
    connection = connect(str(directory / "state.db"), None)
    try:
        applied = read_applied(connection)
        return applied, content_hash(connection) if scan else applied.content_hash
    finally:
        connection.close()
        shutil.rmtree(directory)


def _compare(found: dict[str, tuple[Applied, int]]) -> None:
    for name, (applied, scanned) in found.items():
        if applied.content_hash != scanned:
            raise ContentsDiffer(f"node {name}: its rows are not those that its hash counts")
    if len({(scanned, applied.chain_hash) for applied, scanned in found.values()}) != 1:
        raise ContentsDiffer(f"the nodes differ at one index: {found}")
