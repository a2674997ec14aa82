"""Secrets that tasks get when they are handed out. `Client.secrets` is the way to them; none answers with a value."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_api.v1 import secrets_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions
from orchestrator_client.connection import Connection


@dataclass(frozen=True)
class SecretInfo:
    """What is known of a secret, but for its value."""

    name: str
    # How often it was put.
    version: int
    # Of the key that it is sealed with.
    key_id: str
    created: datetime
    updated: datetime
    # Whether the node that answered has that key.
    readable: bool


@dataclass(frozen=True)
class Rotation:
    """What came of sealing all secrets with the newest key."""

    sealed: int
    total: int
    key_id: str


class Secrets:
    """The secrets of a client's namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._namespace = connection.namespace

    async def put(self, name: str, value: str) -> int:
        """Puts a secret, or another value in its place, and answers its version. Tasks get it from now on."""
        request = pb.PutSecretRequest(namespace=self._namespace, name=name, value=value.encode())
        reply = await self._connection.call(lambda node: node.secrets.PutSecret, request, mutating=True)
        return int(reply.version)

    async def get(self, name: str) -> SecretInfo:
        """What is known of it. Raises NotFound if there is none."""
        request = pb.GetSecretRequest(namespace=self._namespace, name=name)
        reply = await self._connection.call(lambda node: node.secrets.GetSecret, request)
        return _info(reply.secret)

    async def list(self, *, page_size: int = 100, stale_ok: bool = False) -> AsyncIterator[SecretInfo]:
        """All of them, by name."""
        request = pb.ListSecretsRequest(
            namespace=self._namespace, page=PageRequest(size=page_size), read=ReadOptions(stale_ok=stale_ok)
        )
        while True:
            reply = await self._connection.call(lambda node: node.secrets.ListSecrets, request)
            for secret in reply.secrets:
                yield _info(secret)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def delete(self, name: str) -> None:
        """Removes it. Tasks that name it fail from then on."""
        request = pb.DeleteSecretRequest(namespace=self._namespace, name=name)
        await self._connection.call(lambda node: node.secrets.DeleteSecret, request, mutating=True)

    async def rotate(self) -> Rotation:
        """Seals all secrets of all namespaces with the first key of the leader."""
        reply = await self._connection.call(lambda node: node.secrets.RotateSecrets, pb.RotateSecretsRequest())
        return Rotation(reply.sealed, reply.total, reply.key_id)


def _info(secret: pb.Secret) -> SecretInfo:
    return SecretInfo(
        name=secret.name,
        version=secret.version,
        key_id=secret.key_id,
        created=_time(secret.create_time),
        updated=_time(secret.update_time),
        readable=secret.readable,
    )


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
