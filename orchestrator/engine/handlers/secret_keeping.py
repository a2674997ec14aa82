"""Secrets are put, replaced, sealed anew and deleted. What their values are nobody here can tell."""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.errors import refuse
from orchestrator.engine.expressions.secret_names import NAME_RULE, is_secret_name
from orchestrator.engine.model import RowKey, Table
from orchestrator.engine.resident import SecretRow
from orchestrator.engine.results import AnyResult, Code, Done, SecretStored
from orchestrator.engine.secret_commands import DeleteSecret, PutSecret, ResealSecret
from orchestrator.engine.step import Step


def put_secret(step: Step, command: PutSecret) -> AnyResult:
    if not is_secret_name(command.name):
        refuse(Code.INVALID_ARGUMENT, "SECRET_INVALID", f"name: {NAME_RULE}", field="name")
    if len(command.sealed) > limits.SEALED_BYTES:
        message = f"a secret may have {limits.SECRET_BYTES} bytes"
        refuse(Code.INVALID_ARGUMENT, "SECRET_INVALID", message, field="value", limit=str(limits.SECRET_BYTES))
    rows = _rows(step)
    key = (command.namespace, command.name)
    old = rows.get(key)
    if command.version != (1 if old is None else old.version + 1):
        message = f"the secret '{command.name}' was changed by somebody else at the same time: put it again"
        refuse(Code.FAILED_PRECONDITION, "SECRET_CHANGED", message, secret=command.name)
    if old is None:
        _check_room(rows, command.namespace)
    created_ms = step.now if old is None else old.created_ms
    row = SecretRow(*key, command.version, command.key_id, command.sealed, created_ms, step.now)
    step.write(Table.SECRET, key, row)
    return SecretStored(command.version)


def delete_secret(step: Step, command: DeleteSecret) -> AnyResult:
    key = (command.namespace, command.name)
    if key not in step.state.resident[Table.SECRET]:
        refuse(Code.NOT_FOUND, "SECRET_NOT_FOUND", f"no secret '{command.name}'", secret=command.name)
    step.write(Table.SECRET, key, None)
    return Done()


def reseal_secret(step: Step, command: ResealSecret) -> AnyResult:
    key = (command.namespace, command.name)
    old = _rows(step).get(key)
    if old is not None and old.version == command.version and old.key_id != command.key_id:
        step.write(Table.SECRET, key, replace(old, key_id=command.key_id, sealed=command.sealed))
    return Done()


def _rows(step: Step) -> dict[RowKey, SecretRow]:
    return cast(dict[RowKey, SecretRow], step.state.resident[Table.SECRET])


def _check_room(rows: dict[RowKey, SecretRow], namespace: str) -> None:
    # Rare, and there are few: counting them costs less than a counter that has to be kept.
    if len(rows) >= limits.SECRETS_IN_ALL:
        message = f"there are {limits.SECRETS_IN_ALL} secrets in all namespaces, which is the limit"
        refuse(Code.RESOURCE_EXHAUSTED, "SECRETS_FULL", message)
    if sum(key[0] == namespace for key in rows) >= limits.SECRETS:
        message = f"the namespace '{namespace}' has {limits.SECRETS} secrets, which is the limit"
        refuse(Code.RESOURCE_EXHAUSTED, "SECRETS_FULL", message)
