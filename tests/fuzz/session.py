"""One node, for as long as it is told, under messages and bytes at random; and what must hold then.

It lives, and does its work; no call was answered INTERNAL or UNKNOWN, neither as the client hears nor as the node
counts; its log has no error; its memory is bounded; nothing was unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool, message_factory

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.rpc.server import SERVICES
from orchestrator_api.v1 import workers_pb2, workflows_pb2, workflows_pb2_grpc
from orchestrator_api.v1.common_pb2 import Payload
from tests.fuzz import wire
from tests.fuzz.messages import DEFINITION, Messages

CALL_S = 0.5
ENDING_S = 10
CALLS_AT_ONCE = 16
TRACE_LINES = 40
RSS_TIMES, RSS_MORE = 2, 400 << 20
_WRONG = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
# What takes the only node out of service is asked too seldom to be worth the exception.
_LEFT_OUT = frozenset({"RemoveMember", "ReplaceMember", "AddMember", "DrainNode"})
_CALLS = re.compile(r'^orchestrator_grpc_calls_total\{.*code="(\w+)".*\} (\S+)$', re.MULTILINE)
_BAD_LINE = re.compile(r"^\S+ (ERROR|CRITICAL) |Traceback|failed unexpectedly|was never retrieved")


def is_made_up(error: grpc.aio.AioRpcError) -> bool:
    """Whether the client's gRPC says so by itself: the call had ended before the client had said everything.

    The status that the node sent is lost to it. What came over the wire has the status in its debug string.
    """
    return (error.details() == "Internal error from Core"
            and error.debug_error_string().startswith('Failed "execute_batch"'))


class FuzzedCluster(LocalCluster):
    def _command(self, node: LocalNode) -> list[str]:
        return [sys.executable, "-m", "tests.fuzz.node", "--config", str(node.config_file), "--die-with-parent",
                str(os.getpid())]

    def _child_environment(self) -> dict[str, str]:
        return super()._child_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Fuzz:
    """Against the only node of a cluster."""

    def __init__(self, cluster: LocalCluster, seed: int) -> None:
        self._node = next(iter(cluster.nodes.values()))
        self._cluster = cluster
        self._seed = seed
        self._dice = random.Random(seed)
        self._messages = Messages(self._dice)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, seconds: float) -> None:
        """Everything in turn, until the time is over; at least a round."""
        try:
            await self._run(seconds)
        except Exception as error:
            error.add_note(await self._what_became_of_the_node())
            raise

    async def _what_became_of_the_node(self) -> str:
        """One that does not take connections any more is about to end, or says why it does not."""
        process = self._node.process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, ENDING_S)
        ended = "runs" if process.poll() is None else f"has ended with exit code {process.poll()}"
        lines = self._node.log_file.read_text(errors="replace").splitlines()
        # Nearly all of them are about calls.
        lines = [line for line in lines if " audit: " not in line][-TRACE_LINES:]
        said = f"seed {self._seed}; answers {dict(self.answers)}; the node {ended}; its log ends, calls left out:"
        return "\n".join([said, *lines])

    async def _run(self, seconds: float) -> None:
        before = self._rss()
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(str(self._node.grpc_address), options=options) as channel:
            await self._define(channel)
            deadline = time.monotonic() + seconds
            while True:
                await self._calls(channel)
                await asyncio.gather(*(self._stream(channel) for _ in range(4)))
                await self._bytes()
                assert self._node.running, "the node has ended"
                if time.monotonic() > deadline:
                    break
            await self._works(channel)
            said = await self._said_itself()
        after = self._rss()
        lines = self._node.log_file.read_text(errors="replace").splitlines()
        bad = [number for number, line in enumerate(lines) if _BAD_LINE.search(line)]
        # With the trace that follows.
        assert not bad, "\n".join("\n".join(lines[number : number + TRACE_LINES]) for number in bad[:3])
        assert not self.wrong, "\n".join(self.wrong[:20])
        assert said and not {code for code in said if grpc.StatusCode[code] in _WRONG}, f"it counts as answers {said}"
        assert after < RSS_TIMES * before + RSS_MORE, f"{before >> 20} MB became {after >> 20} MB"

    async def _define(self, channel: grpc.aio.Channel) -> None:
        """Something that starts may meet."""
        request, method = self._request("DefinitionService", "RegisterWorkflows")
        request.definition_json.append(DEFINITION)
        request.overwrite = True
        await self._unary(channel, method, request)

    def _request(self, service: str, method: str) -> tuple[Any, Any]:
        found = descriptor_pool.Default().FindServiceByName(f"orchestrator.v1.{service}").methods_by_name[method]
        return message_factory.GetMessageClass(found.input_type)(), found

    async def _calls(self, channel: grpc.aio.Channel) -> None:
        """One message to each unary method, and to each that streams its answers."""
        methods = [method for name in SERVICES for method in descriptor_pool.Default().FindServiceByName(name).methods
                   if not method.client_streaming and method.name not in _LEFT_OUT]
        self._dice.shuffle(methods)
        gate = asyncio.Semaphore(CALLS_AT_ONCE)

        async def call(method: Any, request: Any) -> None:
            async with gate:
                await self._unary(channel, method, request)

        asked = [self._messages.fill(message_factory.GetMessageClass(method.input_type)()) for method in methods]
        await asyncio.gather(*(call(method, request) for method, request in zip(methods, asked, strict=True)))

    async def _unary(self, channel: grpc.aio.Channel, method: Any, request: Any) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer = message_factory.GetMessageClass(method.output_type).FromString
        try:
            if method.server_streaming:
                stream = channel.unary_stream(path, lambda each: each.SerializeToString(), answer)
                async for _ in stream(request, timeout=CALL_S):
                    pass
            else:
                unary = channel.unary_unary(path, lambda each: each.SerializeToString(), answer)
                await unary(request, timeout=CALL_S)
            self.answers["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self._note(method.name, error, request)

    def _note(self, method: str, error: grpc.aio.AioRpcError, request: Any) -> None:
        self.answers[error.code().name] += 1
        if error.code() in _WRONG and not is_made_up(error):
            self.wrong.append(f"{method} answered {error.code().name}, {error.details()}, to {str(request)[:1_000]!r}")

    async def _stream(self, channel: grpc.aio.Channel) -> None:
        """Frames at random, mostly after a hello that is right."""
        service, name = self._dice.choice((("WorkerService", "Work"), ("AskService", "Ask")))
        method = descriptor_pool.Default().FindServiceByName(f"orchestrator.v1.{service}").methods_by_name[name]
        make = message_factory.GetMessageClass(method.input_type)
        sent = [self._messages.fill(make()) for _ in range(self._dice.randrange(1, 12))]
        if self._dice.random() < 0.8:
            hello = make()
            hello.hello.SetInParent()
            if isinstance(hello, workers_pb2.WorkRequest):
                hello.hello.MergeFrom(workers_pb2.WorkHello(worker_id="w", task_names=["t"], slots=3))
            sent.insert(0, hello)
        opened = channel.stream_stream(f"/{method.containing_service.full_name}/{name}",
                                       lambda each: each.SerializeToString(),
                                       message_factory.GetMessageClass(method.output_type).FromString)
        try:
            async for _ in opened(iter_async(sent), timeout=CALL_S):
                pass
            self.answers["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self._note(name, error, sent)

    async def _bytes(self) -> None:
        dice = self._dice
        grpc_port, peer_port = self._node.grpc_address, self._node.peer_address
        hello = wire.stranger(self._cluster_id(), list(self._cluster.nodes))
        await asyncio.gather(
            *(wire.say(*grpc_port, wire.noise(dice)) for _ in range(4)),
            *(wire.say(*grpc_port, wire.http2(dice)) for _ in range(12)),
            *(wire.say(*peer_port, wire.noise(dice)) for _ in range(4)),
            *(wire.say(*peer_port, wire.peer(dice, hello)) for _ in range(12)),
        )

    def _cluster_id(self) -> str:
        found = re.search(r'"cluster_id": "(\w+)"', (self._node.data_dir / "node.json").read_text())
        assert found is not None
        return found[1]

    async def _works(self, channel: grpc.aio.Channel) -> None:
        """It takes a start and shows it."""
        service: Any = workflows_pb2_grpc.WorkflowServiceStub(channel)
        request = workflows_pb2.StartWorkflowRequest(
            name="fuzzed", version=1, workflow_id=f"end-{self._dice.random()}", input=Payload(inline=b'{"x": 1}'))
        await self._define(channel)
        await service.StartWorkflow(request, timeout=20)
        shown = await service.GetWorkflow(workflows_pb2.GetWorkflowRequest(workflow_id=request.workflow_id), timeout=20)
        assert shown.workflow.workflow_id == request.workflow_id

    async def _said_itself(self) -> dict[str, float]:
        """By code, the calls that the node counts: what it has answered, whatever the client has heard."""
        def read() -> str:
            with urllib.request.urlopen(f"http://{self._node.metrics_address}/metrics", timeout=20) as page:
                return str(page.read().decode())

        said: Counter[str] = Counter()
        for code, number in _CALLS.findall(await asyncio.to_thread(read)):
            said[code] += float(number)
        return said

    def _rss(self) -> int:
        assert self._node.process is not None
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self._node.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


async def iter_async(items: list[Any]) -> Any:
    for item in items:
        yield item
