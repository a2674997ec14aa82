"""ClusterService.Backup: what is sent, in which order, how fast, and to whom it is not."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import google_crc32c
import pytest

from orchestrator.rpc import backups
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.backups import backup_parts
from orchestrator.rpc.errors import RpcFailure
from orchestrator.storage.backups import OpenBackup
from orchestrator_api.v1 import cluster_pb2 as pb
from tests.rpc.bench import Bench, soon
from tests.storage.test_backup_file import HEADER

PIECES = [b"a" * 1000, b"b" * 500]
SHA256 = hashlib.sha256(b"".join(PIECES)).digest()


class Source:
    def __init__(self) -> None:
        self.is_open = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBackup]:
        self.is_open = True
        try:
            yield OpenBackup(HEADER, SHA256, self._pieces)
        finally:
            self.is_open = False

    async def _pieces(self) -> AsyncIterator[bytes]:
        for piece in PIECES:
            yield piece


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def backend(bench: Bench, source: Source) -> Backend:
    bench.driver.index = 5
    return dataclasses.replace(bench.backend(), backups=source)


async def sent(backend: Backend, **request: int) -> list[pb.BackupResponse]:
    return [part async for part in backup_parts(backend, pb.BackupRequest(**request))]


async def test_a_header_then_chunks_then_a_trailer(backend: Backend, source: Source) -> None:
    header, *chunks, trailer = await sent(backend, index_min=5)
    assert (header.header.index, header.header.cluster_id, header.header.format_version) == (9, "c", 1)
    assert header.header.content_hash.hex() == HEADER.content_hash
    assert [chunk.chunk.offset for chunk in chunks] == [0, 1000]
    assert [chunk.chunk.data for chunk in chunks] == PIECES
    assert all(google_crc32c.value(chunk.chunk.data) == chunk.chunk.crc32c for chunk in chunks)
    assert trailer.trailer.sha256 == SHA256 and not source.is_open


async def test_who_goes_away_takes_the_backup_with_it(backend: Backend, source: Source) -> None:
    parts = backup_parts(backend, pb.BackupRequest())
    await anext(parts)
    assert source.is_open
    await parts.aclose()
    assert not source.is_open


async def test_who_has_not_got_so_far_says_so(
    backend: Backend, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "BEHIND_SECONDS", 0.01)
    with pytest.raises(RpcFailure, match="5 entries of the 6") as raised:
        await sent(backend, index_min=6)
    assert raised.value.reason == "NODE_BEHIND" and not source.is_open


async def test_a_blank_node_has_nothing_to_back_up(
    bench: Bench, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "BEHIND_SECONDS", 0.01)
    bench.driver.index = 0
    with pytest.raises(RpcFailure) as raised:
        await sent(backend)
    assert raised.value.reason == "NODE_BEHIND"


async def test_it_is_not_sent_faster_than_asked(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Loop:
        """Its clock goes by what was slept."""

        def time(self) -> float:
            return sum(waited)

        def call_later(self, *_: Any) -> Any:
            return self

        def cancel(self) -> None:
            """Nobody waits for it."""

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(backups.asyncio, "get_running_loop", Loop)
    monkeypatch.setattr(backups.asyncio, "sleep", sleep)
    await sent(backend, bytes_per_second_max=250)
    assert waited == [pytest.approx(4.0), pytest.approx(2.0)]


async def test_who_takes_nothing_is_given_up(
    backend: Backend, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "STALLED_SECONDS", 0.01)

    async def stalls() -> None:
        async for _ in backup_parts(backend, pb.BackupRequest()):
            await asyncio.Event().wait()

    task = asyncio.create_task(stalls())
    with pytest.raises(asyncio.CancelledError):
        await soon("the call to be ended", task)


async def test_a_node_without_backups_says_so(bench: Bench) -> None:
    with pytest.raises(RpcFailure) as raised:
        await sent(bench.backend())
    assert raised.value.reason == "UNIMPLEMENTED"
