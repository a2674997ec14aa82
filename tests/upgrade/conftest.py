"""The previous release, installed once; clusters whose last words are part of the report of a test that fails."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.verify.attempts import Ran
from tests.cluster.conftest import _FAILED, pytest_runtest_makereport
from tests.cluster.ledger import Ledger
from tests.cluster.workload import within
from tests.upgrade.releases import HERE, MixedCluster, install, outside, previous_wheel

__all__ = ["pytest_runtest_makereport"]

StartMixed = Callable[..., Awaitable[MixedCluster]]


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the previous release."""
    return install(previous_wheel(), tmp_path_factory.mktemp("previous"))


@pytest.fixture
async def start_mixed(
    tmp_path: Path, old_python: Path, request: pytest.FixtureRequest
) -> AsyncIterator[StartMixed]:
    made: list[MixedCluster] = []

    async def start(*, prepared: Callable[[MixedCluster], None] = lambda cluster: None, **options: Any) -> MixedCluster:
        made.append(MixedCluster(tmp_path / f"cluster-{len(made)}", old_python, **options))
        prepared(made[-1])
        await made[-1].start()
        await made[-1].wait_ready()
        return made[-1]

    yield start
    for cluster in made:
        await cluster.stop(timeout_s=0)
        if request.node.stash.get(_FAILED, True):
            for node in cluster.nodes.values():
                print(f"--- the last lines of node {node.name} ({node.log_file})\n{node.log_tail()}")


@dataclass
class Told:
    """What a program said at its end."""

    ledger: Ledger = field(default_factory=Ledger)
    sdk: str = ""


@asynccontextmanager
async def program(python: str, prefix: str, endpoints: list[str], environment: dict[str, str]) -> AsyncIterator[Told]:
    """Runs `program.py` with this Python until the block ends; then its ledger is there."""
    told = Told()
    process = await asyncio.create_subprocess_exec(
        python, str(HERE / "program.py"), ",".join(endpoints), prefix, env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE)
    try:
        yield told
        output, _ = await within(process.communicate(b""), f"the program {prefix} to end", 90)
        assert process.returncode == 0, f"the program {prefix} has failed"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = json.loads(output)
    told.sdk = said["sdk"]
    for workflow_id, x in said["acknowledged"].items():
        told.ledger.acknowledge(workflow_id, {"total": 5 * x})
    for workflow_id, total in said["finished"].items():
        told.ledger.finish(workflow_id, {"total": total})
    told.ledger.ran = [Ran(**each) for each in said["ran"]]


def old_environment() -> dict[str, str]:
    return outside()
