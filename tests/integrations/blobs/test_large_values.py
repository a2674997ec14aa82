"""What a node with a store says of it, before anybody needs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import large_values
from orchestrator.config import Config
from orchestrator.large_values import LargeValues
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World
from tests.replication.cluster import wait_until


def values_of(tmp_path: Path, **settings: str) -> LargeValues:
    config = Config(node="a", data_dir=tmp_path, **settings)  # type: ignore[arg-type]  # they are texts
    return LargeValues(config, World(store_calls=asyncio.to_thread), Metrics(node="a", version="0"))


async def test_a_directory_that_is_not_there_is_told_until_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(large_values, "AGAIN_SECONDS", 0.01)
    shared = tmp_path / "shared"
    values = values_of(tmp_path, blob_store="directory", blob_directory=str(shared))
    running = asyncio.create_task(values.run())
    await wait_until("a warning", lambda: "large payloads are refused" in caplog.text)
    shared.mkdir()
    await wait_until("the store", lambda: "large payloads have a store" in caplog.text)
    assert caplog.text.count("large payloads are refused") == 1
    await asyncio.wait_for(running, 10)
    await values.close()


async def test_without_a_store_there_is_nothing_to_do(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    assert values.access is None and values.link is None
    await asyncio.wait_for(values.run(), 10)
    await values.close()
