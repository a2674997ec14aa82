"""Memory and metrics of the processes that are measured."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster

SETTLE_S = 120.0
POLL_S = 0.2


def own_bytes_of_status(text: str) -> int:
    """What a process has in memory that is no file's, in the text of /proc/PID/status."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return int(value.split()[0]) * 1024
    raise ValueError("a status without RssAnon")


def own_bytes(pid: int) -> int:
    return own_bytes_of_status(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))


def node_bytes(cluster: LocalCluster) -> dict[str, int]:
    """Of each node that runs."""
    return {
        node.name: own_bytes(node.process.pid)
        for node in cluster.nodes.values()
        if node.process is not None and node.running
    }


def metrics_of_page(page: str) -> dict[str, float]:
    """By name; of several series of one name the sum, but no buckets."""
    values: dict[str, float] = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            if not name.endswith("_bucket"):
                values[name] = values.get(name, 0.0) + float(value)
    return values


def log_costs(before: dict[str, float], after: dict[str, float]) -> str:
    """What a node, by its metrics, did for the log in between; empty if nothing."""

    def since(name: str) -> float:
        return after.get(f"orchestrator_{name}", 0.0) - before.get(f"orchestrator_{name}", 0.0)

    entries, commands = since("entry_commands_count"), since("entry_commands_sum")
    workflows = since("workflows_started_total")
    if not (entries and commands and workflows):
        return ""
    apply_us = 1e6 * since("apply_seconds_sum") / commands
    commits = since("commit_seconds_count")
    commit = f", {1000 * since('commit_seconds_sum') / commits:.2f} ms to commit one" if commits else ""
    return (
        f"{commands / workflows:.1f} commands a workflow, {commands / entries:.1f} commands an entry, "
        f"{apply_us:.0f} us to apply a command{commit}"
    )


async def metrics(cluster: LocalCluster, name: str) -> dict[str, float]:
    """Of a node that runs. Raises OSError."""

    def read() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{cluster.nodes[name].metrics_address}/metrics", timeout=10) as page:
            return metrics_of_page(page.read().decode())

    return await asyncio.to_thread(read)


async def all_metrics(cluster: LocalCluster) -> dict[str, dict[str, float]]:
    """Of each node that runs."""
    running = [node.name for node in cluster.nodes.values() if node.running and not node.paused]
    return {name: await metrics(cluster, name) for name in running}


async def settled(cluster: LocalCluster) -> None:
    """Returns once all nodes have applied and stored the same entries. Raises TimeoutError."""
    names = ("orchestrator_commit_index", "orchestrator_applied_index", "orchestrator_flushed_index")
    deadline = time.monotonic() + SETTLE_S
    while len(found := {of[name] for of in (await all_metrics(cluster)).values() for name in names}) > 1:
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {SETTLE_S:.0f} s the nodes are still from {min(found):.0f} to {max(found):.0f}")
        await asyncio.sleep(POLL_S)
