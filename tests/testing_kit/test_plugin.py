"""The fixture in a project of a user: beside other plugins for async tests, and at no cost to who does not use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TESTS = '''
import asyncio
import pytest
from orchestrator.testing import Cluster, every_leader_kill
from orchestrator_client import Workflow

workflow = Workflow("waits")
workflow.wait(duration_ms=86_400_000)

async def test_async(cluster):
    run = await cluster.client.start(workflow, {})
    await run.result()
    assert (await run.get()).status == "COMPLETED"

def test_plain(cluster):
    async def main():
        await cluster.advance(days=1)
        return cluster.leader
    assert cluster.run(main()) in cluster.nodes

class TestGroup:
    @pytest.mark.parametrize("number", [1, 2])
    async def test_method(self, cluster, number, tmp_path):
        await asyncio.sleep(3600 * number)
        assert tmp_path.exists()

@every_leader_kill(at_most=2)
async def test_kills(cluster):
    await (await cluster.client.start(workflow, {}, id="a")).result()

async def test_fails(cluster):
    assert cluster.leader == "nobody"
'''


def pytest_run(folder: Path, *arguments: str, plugin: bool = True) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    if plugin:  # as the entry point does, where the distribution is installed
        command += ["-p", "orchestrator.testing.plugin"]
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "client", "proto"))
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "no:asyncio", "-p", "no:anyio"],
        ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"],
        ["-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"],
    ],
    ids=["alone", "asyncio-auto", "asyncio-strict"],
)
def test_async_tests_run_in_the_cluster_whoever_else_wants_them(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    code, said = pytest_run(tmp_path, *arguments)
    assert code == 1, said
    assert "5 passed" in said and "1 failed" in said, said
    assert "assert 'n" in said, said
    assert "warning" not in said.lower(), said


def test_a_fixture_of_the_users_own_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef cluster():\n    return 'mine'\n", encoding="utf-8"
    )
    (tmp_path / "test_it.py").write_text("def test_it(cluster):\n    assert cluster == 'mine'\n", encoding="utf-8")
    code, said = pytest_run(tmp_path)
    assert code == 0, said


def test_who_does_not_use_it_imports_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n\ndef test_it():\n"
        "    ours = sorted(name for name in sys.modules if name.startswith('orchestrator'))\n"
        "    assert ours == ['orchestrator', 'orchestrator.testing', 'orchestrator.testing.plugin']\n"
        "    assert not {'grpc', 'apsw', 'msgspec', 'pysyncobj'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    code, said = pytest_run(tmp_path)
    assert code == 0, said


def test_the_fixture_explains_itself(tmp_path: Path) -> None:
    code, said = pytest_run(tmp_path, "--fixtures", "-q")
    assert "Three nodes, formed, in which the test runs" in said, said
    assert code in (0, 5)
