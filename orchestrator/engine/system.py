"""System work: attempts that the nodes' own sessions execute instead of a worker.

Each kind has a queue of its own, for the executions of all namespaces and in no domain. From there on it is handed out
like any other attempt. The names of its queues, and its namespace, are nobody else's.
"""

from __future__ import annotations

from typing import Final

from orchestrator.engine.definitions.fields import SYSTEM_PREFIX
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.model import TaskAttempt

NAMESPACE: Final = "$system"
RESERVED_NAMESPACES = "$"
"""What the names of namespaces that are not the users' begin with."""
_QUEUES: Final = {"HTTP": "system/http", "GRPC": "system/grpc"}
"""By the type of the task."""
_SCRIPT: Final = "system/script"
_JQ: Final = "system/jq"
SCHEMA: Final = "system/schema"

# An evaluation has its own, shorter limit; this is for a node that forgets one.
EVALUATION_MS = 60_000


def is_queue(name: str) -> bool:
    """Whether the name is that of a queue of system work: no worker's task may be called so."""
    return name.startswith(SYSTEM_PREFIX)


def queue_for(node: TaskNode) -> str:
    """The queue in which attempts of it wait; empty if workers execute it."""
    return _QUEUES.get(node.type, "")


def evaluated_in(attempt: TaskAttempt) -> str:
    """The queue in which what the attempt needs is evaluated."""
    if attempt.is_looked_at:
        return SCHEMA
    return _JQ if attempt.type == TaskType.JSON_JQ_TRANSFORM else _SCRIPT
