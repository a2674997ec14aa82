"""System work: what the engine hands to a node's own session instead of a worker's, and what comes of it.

Each kind of work has a queue, in the namespace SYSTEM_NAMESPACE and no domain. It is leased, fenced and given up like
any worker's task, so it runs on all nodes and survives each of them.
"""

from __future__ import annotations

import logging
import traceback
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec


class Kind(StrEnum):
    """The queues of system work. `parameters` of each are a JSON object."""

    SCRIPT = "system/script"  # {"expression": "...", "body": true if it is a function's body}; `$` is the input
    JQ = "system/jq"  # {"expression": "..."}
    # {"schema": {...}}: checks the input against it; {"quiet": true}: what it finds is told without values
    SCHEMA = "system/schema"
    HTTP = "system/http"  # {}
    GRPC = "system/grpc"  # {}


CALLS = (Kind.HTTP, Kind.GRPC)
"""Those that wait for others; the rest is computed on the node."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. `input` and `parameters` are JSON objects."""

    kind: str
    namespace: str
    workflow_id: str
    task_id: str
    name: str
    reference: str
    input: bytes
    parameters: bytes
    idempotency_key: str
    fencing_token: int
    timeout_ms: int = 0  # 0: the kind's own
    trace: tuple[tuple[str, str], ...] = ()  # headers that tell whoever is called of the trace it is a part of
    has_secrets: bool = False  # there are values in the input that nobody may read in a log


class Source(NamedTuple):
    """A script or a query as such, without anything to be evaluated on. `body`: it is that of a function."""

    kind: Kind
    text: str
    body: bool = False


class Ended(StrEnum):
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    FAILED_WITH_TERMINAL_ERROR = "FAILED_WITH_TERMINAL_ERROR"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. `output` is a JSON object or empty; `outcome_unknown`: it failed, but may have taken effect."""

    ended: Ended
    output: bytes = b""
    reason: str = ""
    error_code: str = ""
    outcome_unknown: bool = False


class Executor(Protocol):
    """Does one kind of work. Cancelled when the attempt is not wanted any more."""

    async def execute(self, work: Work) -> Outcome:
        """Never raises but CancelledError: what goes wrong is an outcome."""

    async def close(self) -> None:
        """Ends what it holds: processes, connections."""


def unexpected(logger: logging.Logger, what: str, work: Work, error: Exception) -> str:
    """Logs a bug, and answers the reason for it. Errors may quote values: with secrets only their places are told."""
    where = {"namespace": work.namespace, "workflow_id": work.workflow_id, "task_id": work.task_id}
    if not work.has_secrets:
        logger.error("%s failed unexpectedly", what, exc_info=error, extra=where)
        return f"{type(error).__name__}: {error}"
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed unexpectedly: %s\n%s", what, type(error).__name__, places, extra=where)
    return type(error).__name__
