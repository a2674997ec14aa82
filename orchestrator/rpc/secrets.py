"""SecretService: values are sealed here, before they become a command, and no call answers with one."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from orchestrator.engine import limits, queries
from orchestrator.engine.expressions.secret_names import NAME_RULE, is_secret_name
from orchestrator.engine.resident import SecretRow
from orchestrator.engine.results import Done, SecretStored
from orchestrator.engine.secret_commands import DeleteSecret, PutSecret, ResealSecret
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.definitions import page_of
from orchestrator.rpc.errors import RpcFailure, answers, invalid, not_found
from orchestrator.rpc.requests import identity_of, namespace_of, required
from orchestrator.rpc.views import timestamp
from orchestrator.sealing.errors import NoKeys, SealingError
from orchestrator_api.v1 import secrets_pb2 as pb
from orchestrator_api.v1 import secrets_pb2_grpc as pb_grpc


class SecretServicer(pb_grpc.SecretServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        # A version is sealed with its value: one put after the other, so that each knows which is the next.
        self._putting = asyncio.Lock()

    @answers
    async def PutSecret(self, request: pb.PutSecretRequest, context: Any) -> Any:
        namespace, name = namespace_of(request.namespace), _name(request.name)
        _check_value(request.value)
        backend = self.backend
        async with self._putting:
            backend.require_leading()
            row = queries.secret(backend.state(), namespace, name)
            version = 1 if row is None else row.version + 1
            try:
                key_id, sealed = backend.secrets.seal(namespace, name, version, request.value)
            except NoKeys as error:
                raise _no_keys(backend, error) from None
            command = PutSecret(namespace, name, version, key_id, sealed)
            stored = await backend.submit(command, SecretStored, identity_of(request.request))
        return pb.PutSecretResponse(version=stored.version)

    @answers
    async def GetSecret(self, request: pb.GetSecretRequest, context: Any) -> Any:
        name = required("name", request.name)
        await self.backend.read_point(request.read)
        row = queries.secret(self.backend.state(), namespace_of(request.namespace), name)
        if row is None:
            raise not_found("secret", name)
        return pb.GetSecretResponse(secret=self._shown(row))

    @answers
    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        rows = {row.name: row for row in queries.secrets_of(self.backend.state(), namespace_of(request.namespace))}
        page, token = page_of([(name, name.encode()) for name in rows], request.page)
        return pb.ListSecretsResponse(secrets=[self._shown(rows[name.decode()]) for name in page], next_token=token)

    @answers
    async def DeleteSecret(self, request: pb.DeleteSecretRequest, context: Any) -> Any:
        command = DeleteSecret(namespace_of(request.namespace), required("name", request.name))
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.DeleteSecretResponse()

    @answers
    async def RotateSecrets(self, request: pb.RotateSecretsRequest, context: Any) -> Any:
        backend = self.backend
        async with self._putting:
            backend.require_leading()
            await backend.read_point(pb.GetSecretRequest().read)
            try:
                key_id = backend.secrets.sealing_id()
            except NoKeys as error:
                raise _no_keys(backend, error) from None
            rows = queries.every_secret(backend.state())
            old = [row for row in rows if row.key_id != key_id]
            for row in old:
                await self._reseal(row)
        return pb.RotateSecretsResponse(sealed=len(old), total=len(rows), key_id=key_id)

    async def _reseal(self, row: SecretRow) -> None:
        try:
            value = self.backend.secrets.open(row)
            key_id, sealed = self.backend.secrets.seal(row.namespace, row.name, row.version, value)
        except SealingError as error:
            message = f"the secret '{row.name}' of the namespace '{row.namespace}' can't be sealed anew: {error}"
            metadata = {"secret": row.name, "namespace": row.namespace, "key_id": row.key_id}
            raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "SECRET_UNREADABLE", message, metadata) from None
        await self.backend.submit(ResealSecret(row.namespace, row.name, row.version, key_id, sealed), Done)

    def _shown(self, row: SecretRow) -> pb.Secret:
        return pb.Secret(
            name=row.name,
            version=row.version,
            key_id=row.key_id,
            create_time=timestamp(row.created_ms),
            update_time=timestamp(row.updated_ms),
            readable=not self.backend.secrets.why_closed(row),
        )


def _name(name: str) -> str:
    if not is_secret_name(required("name", name)):
        raise invalid("name", NAME_RULE)
    return name


def _check_value(value: bytes) -> None:
    if not value:
        raise invalid("value", "is empty")
    if len(value) > limits.SECRET_BYTES:
        raise invalid("value", f"has {len(value)} bytes; the limit is {limits.SECRET_BYTES}", str(limits.SECRET_BYTES))
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("value", "is not text in UTF-8; encode it, as base64 for example") from None


def _no_keys(backend: Backend, error: NoKeys) -> RpcFailure:
    message = f"the node {backend.node!r} leads and can't seal a secret: {error}"
    return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "SECRET_KEYS_MISSING", message, {"node": backend.node})
