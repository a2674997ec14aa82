"""What nothing uses is deleted an hour later, from a real directory; and nothing else, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import behaviour, commands, limits
from orchestrator.engine.blob_commands import DeleteBlobs, HeldBlob, HoldBlobs
from orchestrator.engine.blob_rows import BlobState
from orchestrator.engine.blobs import BlobRef, marker_of, ref_to
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import AnyCommand
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, BlobsHeld
from orchestrator.integrations.blobs.directory import DirectoryStore
from orchestrator.integrations.blobs.store import BlobStore, StoreUnavailable
from orchestrator.replication.errors import NotLeader
from orchestrator.services import blob_collector
from orchestrator.services.blob_collector import BlobCollector
from tests.engine.driver import Driver, simple, workflow


class Bench:
    """A state and a directory; `before` is called with each command, and may fail it."""

    def __init__(self, root: Path) -> None:
        self.driver = Driver(level=behaviour.STREAMS)
        self.driver.register(workflow("one", simple("a")))
        self.store: Any = DirectoryStore(root, off_loop=asyncio.to_thread, entropy=os.urandom)
        self.failures: list[str] = []
        self.before: Any = lambda command: None
        self.said: list[AnyCommand] = []

    def collector(self, store: BlobStore | None = None) -> BlobCollector:
        return BlobCollector(
            self.submit, lambda: self.driver.machine, store or self.store, lambda: self.driver.now_ms,
            self.failures.append)

    async def submit(self, command: AnyCommand) -> AnyResult:
        error = self.before(command)
        if error is not None:
            raise error
        self.said.append(command)
        return self.driver.do(command)

    async def keep(self, content: bytes) -> BlobRef:
        await self.store.prepare()
        ref = ref_to(self.store.store_id, content)
        assert self.driver.do(HoldBlobs((HeldBlob(ref.store, ref.sha256, ref.size),))) == BlobsHeld()
        await self.store.put(ref, content)
        return ref

    async def used(self, content: bytes, workflow_id: str = "w") -> BlobRef:
        ref = await self.keep(content)
        self.driver.start("one", workflow_id, b'{"big":%b}' % marker_of(ref))
        return ref

    def delete(self, workflow_id: str = "w") -> None:
        self.driver.now_ms += 1
        self.driver.ok(commands.TerminateWorkflow("default", workflow_id, "", TerminateCompensation.SKIP))
        self.driver.ok(commands.DeleteWorkflow("default", workflow_id, DeleteEffects.KEEP))

    def state_of(self, ref: BlobRef) -> BlobState | None:
        number = self.driver.state.blobs.number_of(ref.store, ref.sha256)
        return self.driver.state.resident[Table.BLOB][number,].state if number else None

    async def is_there(self, ref: BlobRef) -> bool:
        return bool(await self.store.version(ref))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_an_hour_after_the_last_use_it_is_gone(bench: Bench) -> None:
    used, other, held = await bench.used(b"x"), await bench.used(b"y", "w2"), await bench.keep(b"z")
    collector = bench.collector()
    bench.driver.wait(limits.BLOB_UNUSED_MS)
    assert not await collector.round()
    assert (await bench.is_there(used), await bench.is_there(held)) == (True, False)
    bench.delete()
    bench.driver.wait(limits.BLOB_UNUSED_MS - 1)
    await collector.round()
    assert await bench.is_there(used)
    bench.driver.wait(1)
    await collector.round()
    assert (bench.state_of(used), await bench.is_there(used)) == (None, False)
    assert (bench.state_of(other), await bench.is_there(other)) == (BlobState.LIVE, True)
    said = len(bench.said)
    await collector.round()
    assert len(bench.said) == said, "nothing is left to be said"


async def test_what_is_used_again_in_time_stays(bench: Bench) -> None:
    ref = await bench.keep(b"x")
    bench.driver.wait(limits.BLOB_UNUSED_MS)

    def somebody_is_quicker(command: AnyCommand) -> None:
        if isinstance(command, DeleteBlobs) and not bench.driver.state.hot_count:
            bench.driver.start("one", "w", b'{"big":%b}' % marker_of(ref))

    bench.before = somebody_is_quicker
    await bench.collector().round()
    assert (bench.state_of(ref), await bench.is_there(ref)) == (BlobState.LIVE, True)


async def test_another_leader_goes_on_with_what_one_has_begun(bench: Bench) -> None:
    ref = await bench.keep(b"x")
    bench.driver.wait(limits.BLOB_UNUSED_MS)
    bench.before = lambda command: None if isinstance(command, DeleteBlobs) else NotLeader(None)
    with pytest.raises(NotLeader):
        await bench.collector().round()
    assert (bench.state_of(ref), await bench.is_there(ref)) == (BlobState.DELETING, False)
    bench.before = lambda command: None
    await bench.collector().round()
    assert bench.state_of(ref) is None


class Slow:
    """The store, to a leader that is held up before it deletes."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def delete(self, ref: BlobRef, version: str | None = None) -> None:
        self.reached.set()
        await self.go_on.wait()
        await self._store.delete(ref, version)


async def test_a_leader_that_wakes_up_late_deletes_nothing_that_was_put_since(bench: Bench) -> None:
    await bench.keep(b"x")
    bench.driver.wait(limits.BLOB_UNUSED_MS)
    slow = Slow(bench.store)
    old = asyncio.ensure_future(bench.collector(slow).round())
    await asyncio.wait_for(slow.reached.wait(), 10)
    await bench.collector().round()
    ref = await bench.used(b"x")
    slow.go_on.set()
    await old
    assert (bench.state_of(ref), await bench.store.get(ref)) == (BlobState.LIVE, b"x")


async def test_a_store_that_is_away_is_asked_again(bench: Bench, tmp_path: Path) -> None:
    ref = await bench.keep(b"x")
    bench.driver.wait(limits.BLOB_UNUSED_MS)
    (tmp_path / "store-id").rename(tmp_path / "away")
    assert not await bench.collector().round()
    assert bench.failures == [StoreUnavailable.__name__]
    assert bench.state_of(ref) is BlobState.LIVE
    (tmp_path / "away").rename(tmp_path / "store-id")
    await bench.collector().round()
    assert bench.state_of(ref) is None


async def test_what_is_in_another_store_is_left_alone(bench: Bench) -> None:
    bench.driver.ok(HoldBlobs((HeldBlob("another", "0" * 64, 5),)))
    ref = await bench.keep(b"x")
    bench.driver.wait(limits.BLOB_UNUSED_MS)
    await bench.collector().round()
    assert (bench.state_of(ref), bench.driver.state.blobs.live) == (None, 1)


async def test_many_go_command_by_command(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_collector, "PER_COMMAND", 2)
    for number in range(5):
        await bench.keep(b"%d" % number)
    bench.driver.wait(limits.BLOB_UNUSED_MS)
    collector = bench.collector()
    assert [await collector.round() for _ in range(3)] == [True, True, False]
    assert not bench.driver.state.resident[Table.BLOB]
