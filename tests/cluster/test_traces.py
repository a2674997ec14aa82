"""Traces over real processes: a node exports its spans to a collector, and whoever it calls goes on with the trace."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload, TraceContext
from orchestrator_client import Client
from tests.cluster.conftest import StartCluster
from tests.cluster.workload import PATIENCE_S, within
from tests.integrations.http_server import HttpServer, reply

ROOT = Path(__file__).parents[2]
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALL = {
    "name": "call", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "get", "taskReferenceName": "get", "type": "HTTP",
               "inputParameters": {"uri": "${workflow.input.uri}", "method": "GET"}}],
}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self.services: set[str] = set()
        self._more = asyncio.Event()
        self.server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    async def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: object) -> object:
        for of_node in request.resource_spans:
            attributes = {one.key: one.value.string_value for one in of_node.resource.attributes}
            self.services.add(attributes["service.name"])
            self.spans.update((span.name, span) for scope in of_node.scope_spans for span in scope.spans)
        self._more.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def wait_for(self, *names: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self.spans.keys() >= set(names):
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(f"of the spans {names} there are {sorted(self.spans)}") from None


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    await made.server.start()
    yield made
    await made.server.stop(None)


async def test_what_a_node_does_and_calls_is_a_part_of_the_callers_trace(
    start_cluster: StartCluster, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    cluster = await start_cluster(1)
    async with HttpServer(lambda received: reply(200, "done")) as called, Client(cluster.endpoints) as client:
        await client.register(CALL)
        # As any client may, with an SDK or without.
        start = pb.StartWorkflowRequest(
            name="call", workflow_id="w", input=Payload(inline=b'{"uri":"%s/"}' % called.uri.encode()),
            trace=TraceContext(traceparent=f"00-{TRACE_ID}-{PARENT_ID}-01", tracestate="vendor=a", baggage="u=42"),
        )
        await client.connection.call(lambda node: node.workflows.StartWorkflow, start, mutating=True)
        assert (await client.wait("w", PATIENCE_S)).status == "COMPLETED"
    await collector.wait_for("commit StartWorkflow", "process system/http", "commit CompleteTask")
    for span in collector.spans.values():
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID), span.name
    assert collector.services == {"orchestrator"}
    [received] = called.received
    working = collector.spans["process system/http"]
    assert received.header("traceparent") == [f"00-{TRACE_ID}-{working.span_id.hex()}-01"]
    assert (received.header("tracestate"), received.header("baggage")) == (["vendor=a"], [])
    await check_example(cluster)


async def check_example(cluster: LocalCluster) -> None:
    """It shows one trace, retry included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "ORCHESTRATOR_"))}
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "client", "proto"))
    running = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "client/examples/traces.py"), ",".join(cluster.endpoints),
        stdout=asyncio.subprocess.PIPE, env={**environment, "PYTHONPATH": paths},
    )
    said, _ = await within(running.communicate(), "the example to end")
    lines = [line.split(" ", 3) for line in said.decode().splitlines()]
    assert running.returncode == 0 and len({trace_id for trace_id, *_ in lines}) == 1, lines
    names = {span: name for _, _, span, name in lines}
    assert Counter((name, names.get(parent, "")) for _, parent, _, name in lines) == {
        ("checkout", ""): 1, ("start traced", "checkout"): 1, ("process charge", "start traced"): 2,
        ("call the bank", "process charge"): 1, ("process ship", "start traced"): 1,
    }
