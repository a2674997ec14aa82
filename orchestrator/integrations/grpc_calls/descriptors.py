"""Descriptors of a server's files as a pool of their own: what its methods take and answer.

Pools are apart from each other and from the process' own, so two servers may give one name two meanings.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

FILES_MAX = 1_000
BYTES_MAX = 4 << 20

# A set that was made without its imports needs these all the same, and they are the same everywhere.
_WELL_KNOWN = {
    module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb
    for module in (
        any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
    )
}


class DescriptorsInvalid(Exception):
    """They are no descriptors, or some are missing."""


class MethodInvalid(Exception):
    """There is no such method, or it can't be called here."""


def pool_of_set(data: bytes) -> DescriptorPool:
    """Of what `protoc --include_imports --descriptor_set_out` writes. Raises DescriptorsInvalid."""
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(data)
    except DecodeError:
        raise DescriptorsInvalid("this is no FileDescriptorSet") from None
    return pool_of({file.name: file for file in files.file})


def pool_of(files: Mapping[str, descriptor_pb2.FileDescriptorProto]) -> DescriptorPool:
    """Of files by their names. Raises DescriptorsInvalid."""
    if not files:
        raise DescriptorsInvalid("it has no files")
    pool = DescriptorPool()
    done: set[str] = set()
    for name in files:
        _add(pool, name, files, done)
    return pool


def _add(
    pool: DescriptorPool, first: str, files: Mapping[str, descriptor_pb2.FileDescriptorProto], done: set[str]
) -> None:
    """A file after those that it imports."""
    waiting, above = [first], set[str]()
    while waiting:
        name = waiting[-1]
        file = files.get(name) or well_known(name)
        if file is None:
            raise DescriptorsInvalid(f"{name} is imported and not there (protoc has --include_imports)")
        missing = [other for other in file.dependency if other not in done]
        if name in done or not missing:
            waiting.pop()
            above.discard(name)
            if name not in done:
                _build(pool, file)
                done.add(name)
            continue
        above.add(name)
        if above.intersection(missing):
            raise DescriptorsInvalid(f"{name} and {above.intersection(missing).pop()} import each other")
        waiting.extend(missing)


def _build(pool: DescriptorPool, file: descriptor_pb2.FileDescriptorProto) -> None:
    try:
        pool.Add(file)
        pool.FindFileByName(file.name)
    except (TypeError, KeyError, ValueError) as error:
        raise DescriptorsInvalid(f"{file.name}: {error}") from error


def well_known(name: str) -> descriptor_pb2.FileDescriptorProto | None:
    """One of the files that come with protobuf; None if it is not."""
    data = _WELL_KNOWN.get(name)
    return None if data is None else descriptor_pb2.FileDescriptorProto.FromString(data)


def method_of(pool: DescriptorPool, service: str, method: str) -> MethodDescriptor | None:
    """None if the pool has no such method. Raises MethodInvalid for one that streams."""
    try:
        found = pool.FindServiceByName(service).methods_by_name.get(method)
    except KeyError:
        return None
    if found is not None and (found.client_streaming or found.server_streaming):
        raise MethodInvalid(f"{service}/{method} streams: only unary methods can be called")
    return found
