"""The stream of asks of a scripted node: each ask is what the call of the same name does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from orchestrator_api.v1 import asks_pb2 as pb
from orchestrator_api.v1 import asks_pb2_grpc, workflows_pb2
from orchestrator_api.v1.errors_pb2 import ErrorStatus


class _Refused(Exception):
    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        super().__init__(details)
        self.status = ErrorStatus.FromString(dict(metadata).get("grpc-status-details-bin", b""))
        self.status.code, self.status.message = code.value[0], details


class _ContextOfAsk:
    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        raise _Refused(code, details, trailing_metadata)


class FakeAsks(asks_pb2_grpc.AskServiceServicer):
    """A part of a node."""

    # Whether what is waited for is told to have started before it ends.
    tells_of_starts = True
    # An older server knows of no such stream.
    serves_asks = True
    # How the stream ends instead of bringing an answer; None: it brings it.
    refuses_answers: Any = None

    async def Ask(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        node: Any = self
        if not self.serves_asks:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown service")
        await node.admit(context)
        answers: asyncio.Queue[pb.Answer | None] = asyncio.Queue()
        asked: dict[int, asyncio.Task[None]] = {}

        async def read() -> None:
            async for request in requests:
                for number in request.cancels.numbers:
                    asked[number].cancel()
                for ask in request.asks.asks:
                    asked[ask.number] = asyncio.ensure_future(self._answer(ask, answers))
            answers.put_nowait(None)

        reading = asyncio.ensure_future(read())
        try:
            yield pb.AskResponse(welcome=pb.AskWelcome(asks_max=1_000))
            while (answer := await answers.get()) is not None:
                if self.refuses_answers is not None:
                    await node.refuse(context, self.refuses_answers)
                yield pb.AskResponse(answers=pb.Answers(answers=[answer]))
        finally:
            reading.cancel()
            for task in asked.values():
                task.cancel()

    async def _answer(self, ask: pb.Ask, answers: asyncio.Queue[pb.Answer | None]) -> None:
        node: Any = self
        context = _ContextOfAsk()
        try:
            match ask.WhichOneof("ask"):
                case "start":
                    started = await node.StartWorkflow(ask.start, context)
                    answer = pb.Answer(number=ask.number, started=started)
                case "wait":
                    answer = pb.Answer(number=ask.number, workflow=await self._waited(ask.wait, context))
                case "outcome":
                    started = await node.StartWorkflow(ask.outcome.start, context)
                    if self.tells_of_starts:
                        answers.put_nowait(pb.Answer(number=ask.number, started=started))
                    wait = workflows_pb2.WaitWorkflowRequest(
                        workflow_id=started.workflow_id, wait_ms=ask.outcome.wait_ms
                    )
                    answer = pb.Answer(number=ask.number, workflow=await self._waited(wait, context))
                case other:
                    raise AssertionError(f"the ask is {other}")
        except _Refused as refused:
            answer = pb.Answer(number=ask.number, refused=refused.status)
        answers.put_nowait(answer)

    async def _waited(self, request: workflows_pb2.WaitWorkflowRequest, context: Any) -> workflows_pb2.Workflow:
        node: Any = self
        answer: workflows_pb2.WaitWorkflowResponse = await node.WaitWorkflow(request, context)
        return answer.workflow
