"""Asking a server what its methods are: the reflection service, in its version 1 or the one before."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2 as pb

from orchestrator.integrations.grpc_calls.descriptors import (
    BYTES_MAX,
    FILES_MAX,
    DescriptorsInvalid,
    MethodInvalid,
    pool_of,
    well_known,
)

# Their messages are the same.
_VERSIONS = ("v1", "v1alpha")


class NoReflection(Exception):
    """The server does not tell."""


async def reflected(
    channel: grpc.aio.Channel, service: str, metadata: tuple[tuple[str, str | bytes], ...], timeout_s: float
) -> DescriptorPool:
    """The pool with the service. Raises NoReflection, MethodInvalid, DescriptorsInvalid, AioRpcError.

    `timeout_s` is each question's; what bounds all of them is the caller's affair.
    """
    for version in _VERSIONS:
        try:
            return await _Asking(channel, version, metadata, timeout_s).pool(service)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
    raise NoReflection("the server has no reflection: register a service with its descriptor set")


class _Asking:
    """A call for each question.

    The service has one stream for all, which here ends with its first question: gRPC for asyncio says INTERNAL of a
    stream that was refused before a message could be written to it, and sends those of a single message with the call.
    """

    def __init__(
        self, channel: grpc.aio.Channel, version: str, metadata: tuple[tuple[str, str | bytes], ...], timeout_s: float
    ) -> None:
        self._ask: Any = channel.unary_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._files: dict[str, FileDescriptorProto] = {}
        self._bytes = 0

    async def pool(self, service: str) -> DescriptorPool:
        answer = await self._answer(pb.ServerReflectionRequest(file_containing_symbol=service))
        if answer.WhichOneof("message_response") != "file_descriptor_response":
            raise MethodInvalid(f"the server has no service {service}")
        self._take(answer.file_descriptor_response)
        while missing := self._missing():
            await self._fetch(missing)
        return pool_of(self._files)

    async def _fetch(self, name: str) -> None:
        answer = await self._answer(pb.ServerReflectionRequest(file_by_filename=name))
        if answer.WhichOneof("message_response") == "file_descriptor_response":
            self._take(answer.file_descriptor_response)
        if name not in self._files:
            raise DescriptorsInvalid(f"the server does not tell what is in {name}")

    def _missing(self) -> str:
        """A file that is imported and not there; "" if there is none."""
        for file in self._files.values():
            for name in file.dependency:
                if name not in self._files and well_known(name) is None:
                    return str(name)
        return ""

    async def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        stream = self._ask(request, metadata=self._metadata, timeout=self._timeout_s)
        try:
            answer = await stream.read()
        finally:
            stream.cancel()
        if answer is grpc.aio.EOF:
            raise DescriptorsInvalid("the server's reflection ended without an answer")
        return answer  # type: ignore[no-any-return]  # the stream's types are not known

    def _take(self, answer: pb.FileDescriptorResponse) -> None:
        for data in answer.file_descriptor_proto:
            self._bytes += len(data)
            try:
                file = FileDescriptorProto.FromString(data)
            except DecodeError:
                raise DescriptorsInvalid("the server's reflection answers no descriptors") from None
            self._files[file.name] = file
        if len(self._files) > FILES_MAX or self._bytes > BYTES_MAX:
            raise DescriptorsInvalid(f"the server's reflection has more than {FILES_MAX} files or {BYTES_MAX} bytes")
