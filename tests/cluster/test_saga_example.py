"""The saga of README.md as its tour tells it: real nodes, the program as a user runs it, a leader killed half-way."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


async def test_the_money_goes_back_though_the_leader_died(cluster: LocalCluster, client: Client) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "client" / "examples" / "saga.py", ",".join(cluster.endpoints),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("client", "proto"))},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await program.stdout.readline() == b"charge 1200 for order-1\n"
            await cluster.kill_node(await cluster.wait_leader())
            await client.signal("order-1", "packed")
            assert await program.stdout.readline() == b"refund 1200 for order-1, receipt 17\n"
            ending = (await program.stdout.read()).decode()
            assert await program.wait() == 0
        assert "all trucks are out" in ending
        assert ending.endswith("; compensation COMPLETE\n")
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
