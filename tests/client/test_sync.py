"""The blocking face, and what importing the package needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator_client
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client import Client, NotFound, Run, SyncClient, SyncRun, SyncWorker, task
from orchestrator_client.sync import LoopThread
from tests.client.fake_cluster import FakeCluster


@pytest.fixture
def server() -> Iterator[tuple[FakeCluster, LoopThread]]:
    """A scripted cluster on a loop of its own, as another process would be."""
    thread = LoopThread()

    async def start() -> FakeCluster:
        fake = FakeCluster()
        await fake.start()
        return fake

    fake = thread.call(start())
    yield fake, thread
    thread.call(fake.stop())
    thread.stop()


def test_the_client_without_await(server: tuple[FakeCluster, LoopThread]) -> None:
    fake, thread = server
    with SyncClient(fake.addresses, deadline_s=10) as client:
        run = client.start("order", {"id": "1"}, id="order-1")
        assert isinstance(run, SyncRun)
        assert run.get().status == "RUNNING"
        watch = client.watch("order-1")
        assert next(watch).status == "RUNNING"
        thread.call(fake.end("order-1", output=Payload(inline=b'{"x": 1}')))
        assert [execution.status for execution in watch] == ["COMPLETED"]
        assert run.result(timeout_s=5).x == 1
        assert [execution.workflow_id for execution in client.search()] == ["order-1"]
        assert client.leader().address == fake.nodes[0].address
        with pytest.raises(NotFound):
            client.run("nowhere").wait()


def test_the_worker_without_await(server: tuple[FakeCluster, LoopThread]) -> None:
    fake, thread = server

    @task
    def double(n: int) -> int:
        return 2 * n

    async def serve() -> pb.TaskResult:
        stream = await fake.stream()
        stream.welcome()
        given = pb.Assignment(workflow_id="w", task_id="t", fencing_token=1, name="double")
        given.input.inline = b'{"n": 4}'
        stream.assign(given)
        (result,) = await stream.results(1)
        stream.judge(result)
        return result

    serving = thread.submit(serve())
    with SyncClient(fake.addresses) as client:
        worker = SyncWorker(client, [double])
        worker.start()
        assert serving.result(10).output.inline == b'{"result":8}'
        worker.stop()


def test_the_blocking_face_is_complete() -> None:
    for inner, face in ((Client, SyncClient), (Run, SyncRun)):
        for name in vars(inner):
            assert name.startswith("_") or hasattr(face, name), f"{face.__name__} has no {name}"


def test_a_call_from_the_clients_own_loop_is_refused() -> None:
    thread = LoopThread()

    async def call() -> None:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            thread.call(asyncio.sleep(0))

    thread.call(call())
    thread.stop()
    assert "orchestrator-client" not in [each.name for each in threading.enumerate()]


def test_the_package_needs_grpcio_and_protobuf_only(tmp_path: Path) -> None:
    absent = "orchestrator redis pysyncobj prometheus_client yaml msgspec apsw click rich uvloop google.rpc".split()
    absent.append("opentelemetry")
    (tmp_path / "order.yaml").write_text("name: a")
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
for name in {absent!r}:
    sys.modules[name] = None
import pathlib
import orchestrator_client
from orchestrator_client.definitions import load_file
try:
    load_file(pathlib.Path({str(tmp_path / "order.yaml")!r}))
except orchestrator_client.InvalidRequest as error:
    assert "pip install PyYAML" in str(error), error
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_all_public_names_are_there() -> None:
    for name in orchestrator_client.__all__:
        assert hasattr(orchestrator_client, name)
    assert sorted(orchestrator_client.__all__, key=str) == sorted(set(orchestrator_client.__all__), key=str)
