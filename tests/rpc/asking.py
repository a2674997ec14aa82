"""A client's end of the stream of asks; and starts and waits by it or by calls of their own, whichever a test says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from orchestrator_api.v1 import asks_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.errors_pb2 import ErrorStatus
from tests.rpc.bench import Stubs, soon
from tests.rpc.statuses import DETAILS_KEY

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Asker:
    """The stream, frame by frame."""

    def __init__(self, stubs: Stubs) -> None:
        self.call = stubs.asks.Ask()
        self.numbers = itertools.count(1)
        self.frames = 0

    async def hello(self) -> pb.AskWelcome:
        await self.say(hello=pb.AskHello(client="a test"))
        frame = await soon("the welcome", self.call.read())
        assert frame.WhichOneof("frame") == "welcome", frame
        return frame.welcome

    async def say(self, **frame: Any) -> None:
        await soon("the server to read", self.call.write(pb.AskRequest(**frame)))

    async def ask(self, *asks: pb.Ask) -> list[int]:
        """All in one frame; answers their numbers."""
        for ask in asks:
            ask.number = next(self.numbers)
        await self.say(asks=pb.Asks(asks=asks))
        return [ask.number for ask in asks]

    async def start(self, *requests: workflows_pb2.StartWorkflowRequest) -> list[int]:
        return await self.ask(*(pb.Ask(start=request) for request in requests))

    async def wait(self, *requests: workflows_pb2.WaitWorkflowRequest) -> list[int]:
        return await self.ask(*(pb.Ask(wait=request) for request in requests))

    async def outcome(self, request: workflows_pb2.StartWorkflowRequest, **fields: Any) -> int:
        (number,) = await self.ask(pb.Ask(outcome=pb.AskOutcome(start=request, **fields)))
        return number

    async def cancel(self, *numbers: int) -> None:
        await self.say(cancels=pb.AskCancels(numbers=numbers))

    async def answers(self, count: int) -> dict[int, pb.Answer]:
        """By number, the last of each."""
        found: dict[int, pb.Answer] = {}
        total = 0
        while total < count:
            frame = await soon("answers", self.call.read())
            assert frame is not grpc.aio.EOF, f"the stream ended: {await self.call.code()}"
            self.frames += 1
            total += len(frame.answers.answers)
            found |= {answer.number: answer for answer in frame.answers.answers}
        assert total == count, found
        return found

    async def answer(self, number: int) -> pb.Answer:
        """The next one, which must be to this ask."""
        return (await self.answers(1))[number]

    async def done(self) -> None:
        """Says no more, and sees the stream end well."""
        await self.call.done_writing()
        assert await soon("the end", self.call.read()) is grpc.aio.EOF
        assert await soon("the status", self.call.code()) is grpc.StatusCode.OK


def refusal(answer: pb.Answer) -> grpc.aio.AioRpcError:
    """As the call of the same name fails."""
    assert answer.WhichOneof("answer") == "refused", answer
    status: ErrorStatus = answer.refused
    metadata = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(_CODES[status.code], grpc.aio.Metadata(), metadata, status.message)


class Way:
    """How a test starts and waits."""

    def __init__(self, stubs: Stubs, *, streams: bool) -> None:
        self._stubs = stubs
        self._streams = streams

    def start(self, request: workflows_pb2.StartWorkflowRequest) -> asyncio.Task[Any]:
        return self._begun(self._stubs.workflows.StartWorkflow, pb.Ask(start=request), request)

    def wait(self, request: workflows_pb2.WaitWorkflowRequest) -> asyncio.Task[Any]:
        return self._begun(self._stubs.workflows.WaitWorkflow, pb.Ask(wait=request), request)

    def _begun(self, method: Callable[[Any], Any], ask: pb.Ask, request: Any) -> asyncio.Task[Any]:
        async def call() -> Any:
            return await method(request)

        return asyncio.ensure_future(self._asked(ask) if self._streams else call())

    async def _asked(self, ask: pb.Ask) -> Any:
        asker = Asker(self._stubs)
        await asker.hello()
        (number,) = await asker.ask(ask)
        answer = await asker.answer(number)
        asker.call.cancel()
        match answer.WhichOneof("answer"):
            case "started":
                return answer.started
            case "workflow":
                return workflows_pb2.WaitWorkflowResponse(workflow=answer.workflow)
            case _:
                raise refusal(answer)
