"""The cluster in one terminal: it shows deaths, repairs them, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from orchestrator.cli import dev
from orchestrator.cli.dev import Development
from orchestrator.cli.local_cluster import LocalCluster, LocalClusterError
from tests.cli.fakes import FakeCluster


async def wait_text(stream: io.StringIO, text: str) -> None:
    try:
        async with asyncio.timeout(60):
            while text not in stream.getvalue():  # noqa: ASYNC110 - a terminal announces nothing
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"the screen never showed {text!r}; it showed:\n{stream.getvalue()[-2000:]}")


async def wait_words(cluster: FakeCluster, name: str) -> None:
    """That another node leads says nothing of how far this one has come."""
    async with asyncio.timeout(60):
        while "I am" not in cluster.nodes[name].log_tail():  # noqa: ASYNC110 - a file announces nothing
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("plain", [True, False])
async def test_a_node_that_dies_is_shown_and_started_again(tmp_path: Path, plain: bool) -> None:
    cluster, stream = FakeCluster(tmp_path), io.StringIO()
    cluster.lead("b")
    console = Console(file=stream, force_terminal=not plain, width=120, height=40)
    view = Development(cluster, restart=True, plain=plain, console=console, restart_after_s=0.2)
    running = asyncio.create_task(view.run())
    await wait_text(stream, "b leads in term 3")
    await wait_words(cluster, "a")
    await cluster.kill_node("a")
    await wait_text(stream, "a died: SIGKILL; its last words: I am a")
    await wait_text(stream, "a started again")
    view.stop()
    await running
    assert not any(node.running for node in cluster.nodes.values())
    assert "stopped; what they did is kept" in stream.getvalue()
    assert plain or "METRICS" in stream.getvalue()


async def test_a_node_that_dies_may_be_left_as_it_is(tmp_path: Path) -> None:
    cluster, stream = FakeCluster(tmp_path), io.StringIO()
    cluster.lead("b")
    console = Console(file=stream, force_terminal=True, width=120, height=40)
    view = Development(cluster, restart=False, plain=False, console=console, restart_after_s=0.0)
    running = asyncio.create_task(view.run())
    await wait_text(stream, "b leads in term 3")
    await cluster.kill_node("a")
    await wait_text(stream, "DEAD (SIGKILL)")
    await asyncio.sleep(0.6)
    assert not cluster.nodes["a"].running
    view.stop()
    await running


@pytest.mark.parametrize(("options", "endpoints"), [((), ""), (("--redis", "cache:6379"), "cache:6379")])
def test_its_nodes_have_a_store_and_may_have_a_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], endpoints: str
) -> None:
    made: list[LocalCluster] = []

    async def start(cluster: LocalCluster) -> None:
        made.append(cluster)
        raise LocalClusterError("that is enough")

    monkeypatch.setattr(LocalCluster, "start", start)
    asked = CliRunner().invoke(dev.dev, ["--plain", "--nodes", "1", "--data-dir", str(tmp_path), *options])
    assert "that is enough" in asked.output + asked.stderr
    [cluster] = made
    assert cluster._settings.get("redis_endpoints", "") == endpoints
    assert cluster._settings["blob_directory"] == str(tmp_path / "large-payloads")
