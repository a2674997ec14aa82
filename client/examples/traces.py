"""One trace from a caller through the cluster into its workers: pip install orchestrator-cluster[otel], and

    python client/examples/traces.py          while `orchestrator dev` runs in another terminal

Each span is a line when it ends. With OTEL_EXPORTER_OTLP_ENDPOINT they go to a collector instead.
"""

from __future__ import annotations

import asyncio
import os
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

import orchestrator_client
from orchestrator_client import Client, TaskContext, Worker, Workflow, task

tracer = trace.get_tracer("shop")


@task
async def charge(order: str, ctx: TaskContext) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("the bank is busy")       # a span of its own, with the exception
    with tracer.start_as_current_span("call the bank"):  # as an instrumented HTTP client makes one
        return f"receipt of {order}"


@task
async def ship(receipt: str) -> str:
    return f"parcel with {receipt}"


shop = Workflow("traced", version=1)
receipt = shop.step(charge, shop.input.order)
shop.returns(parcel=shop.step(ship, receipt))


def line(span: ReadableSpan) -> str:
    parent = f"{span.parent.span_id:016x}" if span.parent else "-" * 16
    return f"{span.context.trace_id:032x} {parent} {span.context.span_id:016x} {span.name}\n"


def export_spans() -> TracerProvider:
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
    trace.set_tracer_provider(provider)
    return provider


async def main(endpoints: str) -> None:
    tls, shown = orchestrator_client.TLS.from_environment(), os.environ.get("ORCHESTRATOR_TOKEN_FILE")
    async with Client(endpoints, tls=tls, token_file=shown) as client:
        worker = Worker(client, tasks=[charge, ship])
        working = asyncio.create_task(worker.run())
        with tracer.start_as_current_span("checkout"):
            await client.start_and_wait(shop, {"order": "order-1"})
        await worker.stop()
        await working


if __name__ == "__main__":
    spans = export_spans()
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:7400,localhost:7401,localhost:7402"))
    spans.shutdown()
