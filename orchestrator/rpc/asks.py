"""AskService: many starts and waits over one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from orchestrator.rpc.ask_stream import AskConnection
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.caller import CALLER
from orchestrator.rpc.errors import abort
from orchestrator_api.v1 import asks_pb2 as pb
from orchestrator_api.v1 import asks_pb2_grpc as pb_grpc


class AskServicer(pb_grpc.AskServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def Ask(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.AskResponse]:
        connection = AskConnection(self.backend, CALLER.get())
        try:
            async with aclosing(connection.serve(request_iterator)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:  # noqa: BLE001 - it becomes the status of the call
            await abort(context, error, self.backend.addresses)
