"""A gRPC server for tests whose methods nobody has stubs of: made from descriptors, answers as a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

SERVICE = "shop.Orders"
_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _Field.TYPE_STRING, "int64": _Field.TYPE_INT64, "bool": _Field.TYPE_BOOL, "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE, "int32": _Field.TYPE_INT32,
}


def message(name: str, **fields: str) -> descriptor_pb2.DescriptorProto:
    """Fields by name: a type, a full name of a message after a dot, or `*` and one of these for a repeated field."""
    made = descriptor_pb2.DescriptorProto(name=name)
    for number, (field, kind) in enumerate(fields.items(), start=1):
        repeated, kind = kind.startswith("*"), kind.lstrip("*")
        added = made.field.add(name=field, number=number, json_name=_camel(field))
        added.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        if kind.startswith("."):
            added.type, added.type_name = _Field.TYPE_MESSAGE, kind
        else:
            added.type = _TYPES[kind]
    return made


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def shop(**more: str) -> list[descriptor_pb2.FileDescriptorProto]:
    """The files of the service; `more`: fields that orders have besides."""
    money = descriptor_pb2.FileDescriptorProto(name="shop/money.proto", package="shop", syntax="proto3")
    money.message_type.append(message("Money", currency="string", units="int64"))
    orders = descriptor_pb2.FileDescriptorProto(name="shop/orders.proto", package="shop", syntax="proto3")
    orders.dependency.extend(["shop/money.proto", "google/protobuf/timestamp.proto"])
    fields = {"order_id": "string", "price": ".shop.Money", "tags": "*string", "at": ".google.protobuf.Timestamp"}
    orders.message_type.append(message("Order", **fields, **more))
    receipt = {"order_id": "string", "paid": "bool", "total": "int64", "at": ".google.protobuf.Timestamp",
               "note": "string"}
    orders.message_type.append(message("Receipt", **receipt))
    service = orders.service.add(name="Orders")
    service.method.add(name="Place", input_type=".shop.Order", output_type=".shop.Receipt")
    service.method.add(name="Watch", input_type=".shop.Order", output_type=".shop.Receipt", server_streaming=True)
    return [money, orders]


def descriptor_set(files: Sequence[descriptor_pb2.FileDescriptorProto]) -> bytes:
    return descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()


Answer = Callable[[Any, Any], Awaitable[dict[str, Any]]]
"""(order, context) -> fields of the receipt"""


async def paid(order: Any, context: Any) -> dict[str, Any]:
    return {"order_id": order.order_id, "paid": True, "total": order.price.units}


class GrpcServer:
    """`reflects`: the versions of reflection that it speaks."""

    def __init__(
        self,
        answer: Answer = paid,
        *,
        reflects: Sequence[str] = ("v1", "v1alpha"),
        credentials: grpc.ServerCredentials | None = None,
        files: Sequence[descriptor_pb2.FileDescriptorProto] | None = None,
        tells_imports: bool = True,
    ) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, dict[str, str | bytes]]] = []  # (order, metadata)
        self.reflections = 0
        self._reflects = reflects
        self._credentials = credentials
        self._files = files or shop()
        self._tells_imports = tells_imports
        self._server: grpc.aio.Server
        self.port = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        pool = DescriptorPool()
        timestamp = descriptor_pb2.FileDescriptorProto.FromString(timestamp_pb2.DESCRIPTOR.serialized_pb)
        for file in (timestamp, *self._files):
            pool.Add(file)
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers((self._orders(pool), *self._reflections(pool)))
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _orders(self, pool: DescriptorPool) -> grpc.GenericRpcHandler:
        order = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
        receipt = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Receipt"))

        async def place(request: Any, context: Any) -> Any:
            self.calls.append((request, dict(context.invocation_metadata())))
            return receipt(**await self.answer(request, context))

        handler = grpc.unary_unary_rpc_method_handler(
            place, request_deserializer=order.FromString, response_serializer=lambda reply: reply.SerializeToString()
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Place": handler})

    def _reflections(self, pool: DescriptorPool) -> list[grpc.GenericRpcHandler]:
        servicer = reflection.aio.ReflectionServicer([SERVICE], pool)

        async def info(requests: Any, context: Any) -> Any:
            self.reflections += 1
            async for reply in servicer.ServerReflectionInfo(requests, context):
                # The file that was asked for comes first; some servers tell what it imports, too, and some do not.
                if not self._tells_imports:
                    del reply.file_descriptor_response.file_descriptor_proto[1:]
                yield reply

        handler = grpc.stream_stream_rpc_method_handler(
            info,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return [
            grpc.method_handlers_generic_handler(
                f"grpc.reflection.{version}.ServerReflection", {"ServerReflectionInfo": handler}
            )
            for version in self._reflects
        ]
