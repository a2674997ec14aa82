"""The library can pickle, compress and fork; in our subclass of it none of that is reached, by whatever path."""

from __future__ import annotations

import ast
import os
import pickle  # noqa: TID251 - to set the traps
import threading
import zlib
from pathlib import Path
from typing import Any

import pysyncobj.pickle  # type: ignore[import-untyped]  # the package has no types
import pysyncobj.syncobj  # type: ignore[import-untyped]  # the package has no types
import pysyncobj.tcp_connection  # type: ignore[import-untyped]  # the package has no types
import pytest

from tests.replication.cluster import Cluster, wait_until
from tests.replication.test_snapshots import SMALL, leave_behind

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "zlib", "gzip", "bz2", "lzma", "multiprocessing"}


def test_the_replicated_log_imports_nothing_that_unpickles_or_unpacks() -> None:
    for path in sorted((ROOT / "orchestrator" / "replication").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not FORBIDDEN & set(name.split(".")), f"{path.name} imports {name}"


async def test_a_cluster_that_does_everything_calls_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elections, entries, reads, a snapshot, a transfer, a change of the members, a restart."""
    called: list[str] = []

    def trap(owner: Any, name: str) -> None:
        def trapped(*_: Any, **__: Any) -> Any:
            called.append(f"{getattr(owner, '__name__', owner)}.{name}")
            raise AssertionError(f"{name} was called")

        monkeypatch.setattr(owner, name, trapped)

    for owner, names in (
        (pickle, ("loads", "dumps", "load", "dump", "Unpickler", "Pickler")),
        (pysyncobj.pickle, ("loads", "dumps", "to_bytes")),
        (zlib, ("compress", "decompress", "decompressobj", "compressobj")),
        (os, ("fork",)),
        (pysyncobj.tcp_connection.TcpConnection, ("__init__",)),
    ):
        for name in names:
            trap(owner, name)
    threads = set(threading.enumerate())
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        leader, follower = await leave_behind(cluster)
        await follower.start()
        await wait_until("the snapshot to be installed", lambda: follower.installs)
        await leader.log.barrier()
        assert await leader.log.transfer_leadership()
        other = await cluster.leader()
        gone = next(node for node in cluster.others(other) if node is not follower)
        await other.log.remove_member(gone.name)
        await cluster.put(b"after")
        await follower.kill()
        await follower.start()
        await cluster.put(b"again")
        ours = {thread.name for thread in threading.enumerate() if thread not in threads}
        assert all(name.startswith("journal") for name in ours), "the library started a thread"
    assert called == []


def test_the_traps_are_where_the_library_would_step() -> None:
    """What it pickles and unpacks with is what the test above has trapped."""
    source = Path(pysyncobj.tcp_connection.__file__).read_text(encoding="utf-8")
    assert "zlib.compress(" in source and "zlib.decompress(" in source
    assert pysyncobj.syncobj.pickle is pysyncobj.pickle
