"""gRPC's calls over the simulated network: the servicers and the stubs are the real ones, the transport is not.

A server collects what the generated `add_...Servicer_to_server` functions register; a channel is what generated stubs
ask for. Deadlines, cancellation, and calls that a broken connection leaves without an answer are as gRPC has them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import msgspec

from orchestrator.testing.loop import Process
from orchestrator.testing.network import Listener, SimulatedNetwork

CONNECT_SECONDS = 1.0
# A call begins with its first message; one with a single answer ends with it.
_CALL, _MESSAGE, _END, _CANCEL, _ANSWER, _STATUS = range(6)
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class Aborted(Exception):
    """A servicer ended its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        super().__init__(details)
        self.code, self.details, self.metadata = code, details, metadata


class _Context:
    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        raise Aborted(code, details, trailing_metadata)


class _Framed(asyncio.Protocol):
    """Messages of [call, kind, content] on a connection, which brings each as it was written."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.frame_received(*_decode(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.ended()

    def send(self, call: int, kind: int, content: Any) -> bool:
        if self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(_encode((call, kind, content)))
        return True

    def frame_received(self, call: int, kind: int, content: Any) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        raise NotImplementedError


class SimulatedServer:
    """Give it to the generated registration functions, then `start` it."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}
        # What a servicer raised that was not meant for the wire.
        self.errors: list[str] = []
        # Calls that are not answered yet, by method.
        self.under_way: Counter[str] = Counter()
        self._listener: Listener | None = None

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Said again below, by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.methods.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def start(self, network: SimulatedNetwork, process: Process, machine: str, port: int) -> None:
        self._listener = network.listen(process, machine, port, lambda: _Served(self))

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()


class _Served(_Framed):
    """The server's side of a connection."""

    def __init__(self, server: SimulatedServer) -> None:
        super().__init__()
        self._server = server
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._incoming: dict[int, asyncio.Queue[bytes | None]] = {}

    def frame_received(self, call: int, kind: int, content: Any) -> None:
        if kind == _CALL:
            method, first = content
            queue = self._incoming[call] = asyncio.Queue()
            queue.put_nowait(first)
            self._calls[call] = asyncio.get_running_loop().create_task(self._serve(call, method, queue), name=method)
        elif kind == _CANCEL:
            if call in self._calls:
                self._calls[call].cancel()
        elif call in self._incoming:
            self._incoming[call].put_nowait(content if kind == _MESSAGE else None)

    def ended(self) -> None:
        for task in self._calls.values():
            task.cancel()

    async def _serve(self, call: int, method: str, queue: asyncio.Queue[bytes | None]) -> None:
        handler = self._server.methods.get(method)
        status: tuple[int, str, list[tuple[str, Any]]] = (0, "", [])
        self._server.under_way[method] += 1
        try:
            if handler is None:
                raise Aborted(grpc.StatusCode.UNIMPLEMENTED, method, ())
            if not handler.request_streaming and not handler.response_streaming:
                request = handler.request_deserializer(await queue.get())
                response = await handler.unary_unary(request, _Context())
                self.send(call, _ANSWER, handler.response_serializer(response))
                return
            async for response in self._responses(handler, self._requests(queue, handler), _Context()):
                self.send(call, _MESSAGE, handler.response_serializer(response))
        except Aborted as aborted:
            status = (aborted.code.value[0], aborted.details, [tuple(pair) for pair in aborted.metadata])
        except Exception as error:  # noqa: BLE001 - as gRPC does
            self._server.errors.append(f"{method}: {error!r}")
            status = (grpc.StatusCode.UNKNOWN.value[0], repr(error), [])
        finally:
            del self._calls[call], self._incoming[call]
            self._server.under_way[method] -= 1
        self.send(call, _STATUS, status)

    @staticmethod
    async def _requests(queue: asyncio.Queue[bytes | None], handler: Any) -> AsyncIterator[Any]:
        while (data := await queue.get()) is not None:
            yield handler.request_deserializer(data)

    @staticmethod
    async def _responses(handler: Any, requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
        if handler.request_streaming:
            async for response in handler.stream_stream(requests, context):
                yield response
        else:
            async for response in handler.unary_stream(await anext(requests), context):
                yield response


class _Calls(_Framed):
    """The client's side of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, asyncio.Queue[tuple[int, Any]]] = {}

    def frame_received(self, call: int, kind: int, content: Any) -> None:
        if call in self.calls:
            self.calls[call].put_nowait((kind, content))

    def ended(self) -> None:
        for queue in self.calls.values():
            queue.put_nowait((_STATUS, (grpc.StatusCode.UNAVAILABLE.value[0], "the connection broke", [])))


class SimulatedChannel:
    """A channel from a process to an address, `machine:port`, as stubs want it."""

    def __init__(self, network: SimulatedNetwork, process: Process, machine: str, address: str) -> None:
        self._network = network
        self._process = process
        self._machine = machine
        host, _, port = address.rpartition(":")
        self._place = (host, int(port))
        self._connection: _Calls | None = None
        self._connecting = asyncio.Lock()
        self._numbers = itertools.count(1)

    def unary_unary(self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        async def invoke(request: Any, timeout: float | None) -> Any:  # noqa: ASYNC109 - stubs call it so
            call = Call(self, method, request_serializer, response_deserializer)
            try:
                async with asyncio.timeout(timeout):
                    await call.write(request)
                    response = await call.read()
                    if response is grpc.aio.EOF:
                        raise call.error(grpc.StatusCode.INTERNAL, "an answer without a message")
                    return response
            except TimeoutError:
                raise call.error(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded") from None
            finally:
                call.cancel()

        return lambda request, timeout=None: invoke(request, timeout)

    def stream_stream(self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        return lambda: Call(self, method, request_serializer, response_deserializer)

    def unary_stream(self, method: str, request_serializer: Any, response_deserializer: Any, **_: Any) -> Any:
        return lambda request: StreamedCall(self, method, request_serializer, response_deserializer, request)

    async def close(self) -> None:
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.abort()

    async def begin(self, method: str, first: bytes) -> tuple[_Calls, int]:
        """A call on the connection, which is made if there is none. Raises OSError, TimeoutError."""
        async with self._connecting:
            connection = self._connection
            if connection is None or connection.transport is None or connection.transport.is_closing():
                async with asyncio.timeout(CONNECT_SECONDS):
                    made = await self._network.connect(self._process, self._machine, self._place, _Calls)
                assert isinstance(made, _Calls)
                connection = self._connection = made
        number = next(self._numbers)
        connection.calls[number] = asyncio.Queue()
        connection.send(number, _CALL, (method, first))
        return connection, number


class Call:
    """One call under way."""

    def __init__(
        self,
        channel: SimulatedChannel,
        method: str,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._channel = channel
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize
        self._connection: _Calls | None = None
        self._number = 0
        self._over = False

    def error(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> grpc.aio.AioRpcError:
        pairs = grpc.aio.Metadata(*[tuple(pair) for pair in metadata])
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), pairs, details)

    async def write(self, request: Any) -> None:
        if self._connection is None:
            try:
                self._connection, self._number = await self._channel.begin(self._method, self._serialize(request))
            except (OSError, TimeoutError) as error:
                self._over = True
                raise self.error(grpc.StatusCode.UNAVAILABLE, f"can't connect: {error!r}") from None
            return
        if self._over:
            raise asyncio.InvalidStateError("the call is over")
        self._connection.send(self._number, _MESSAGE, self._serialize(request))

    async def done_writing(self) -> None:
        if self._connection is not None:
            self._connection.send(self._number, _END, None)

    async def read(self) -> Any:
        """The next message, or EOF. Raises AioRpcError."""
        if self._over or self._connection is None:
            return grpc.aio.EOF
        kind, content = await self._connection.calls[self._number].get()
        if kind == _MESSAGE:
            return self._deserialize(content)
        self._finish()
        if kind == _ANSWER:
            return self._deserialize(content)
        code, details, metadata = content
        if code == 0:
            return grpc.aio.EOF
        raise self.error(_CODES[code], details, metadata)

    def cancel(self) -> None:
        if not self._over and self._connection is not None:
            self._connection.send(self._number, _CANCEL, None)
            self._finish()

    def _finish(self) -> None:
        self._over = True
        if self._connection is not None:
            self._connection.calls.pop(self._number, None)


class StreamedCall(Call):
    """A call of one request and many responses; it is sent with the first read."""

    def __init__(
        self,
        channel: SimulatedChannel,
        method: str,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        request: Any,
    ) -> None:
        super().__init__(channel, method, serialize, deserialize)
        self._request = request

    async def read(self) -> Any:
        """The next message, or EOF. Raises AioRpcError."""
        if self._connection is None and not self._over:
            await self.write(self._request)
            await self.done_writing()
        return await super().read()
