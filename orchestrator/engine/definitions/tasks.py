"""Task definitions: how a task is retried, when it times out, and what its input starts from."""

from __future__ import annotations

import msgspec

from orchestrator.engine.definitions.fields import NAME_CHARACTERS_MAX, Fields
from orchestrator.engine.definitions.model import (
    NO_LIMITS,
    RetryLogic,
    RetryPolicy,
    TaskLimits,
    TimeoutPolicy,
    Timeouts,
)
from orchestrator.engine.definitions.schemas import NO_SCHEMAS, Schemas, read_schemas
from orchestrator.engine.expressions import Template, parse_template

_KNOWN = (
    "name retryCount retryLogic retryDelaySeconds backoffScaleFactor maxRetryDelaySeconds backoffJitterMs"
    " timeoutSeconds totalTimeoutSeconds responseTimeoutSeconds pollTimeoutSeconds timeoutPolicy inputTemplate"
    " inputSchema outputSchema enforceSchema concurrentExecLimit rateLimitPerFrequency rateLimitFrequencyInSeconds"
    # For readers only.
    " description ownerEmail ownerApp inputKeys outputKeys createTime updateTime createdBy updatedBy"
    " taskStatusListenerEnabled baseType"
    # Where its attempts wait.
    " executionNameSpace isolationGroupId"
    # What goes with them.
    " runtimeMetadata"
).split()
_RETRY_FIELDS = (
    "retryCount retryLogic retryDelaySeconds backoffScaleFactor maxRetryDelaySeconds backoffJitterMs"
).split()

COMPENSATION_RETRY = RetryPolicy(count=19, logic=RetryLogic.EXPONENTIAL_BACKOFF, delay_ms=1000, max_delay_ms=60_000)
OPERATOR_RETRY = RetryPolicy(count=0)
CALL_RETRY = RetryPolicy(count=0, forgives_losses=True)
OPERATOR_TIMEOUTS = Timeouts(response_ms=0)

RUNTIME_METADATA_MAX = 100

EMPTY = Template(b"{}")


class TaskDefinition(msgspec.Struct, frozen=True):
    """A task definition with its defaults filled in."""

    name: str
    retry: RetryPolicy = RetryPolicy()
    states_retry: bool = False  # whether it says anything about retries
    timeouts: Timeouts = Timeouts()
    input: Template = EMPTY
    limits: TaskLimits = NO_LIMITS
    schemas: Schemas = NO_SCHEMAS
    queue_suffix: str = ""  # of the queue's name, behind that of the task
    runtime_metadata: tuple[str, ...] = ()  # names of the values that its workers get


def read_task(raw: bytes, path: str, name: str = "", is_inline: bool = False) -> TaskDefinition:
    """`name`: what it is called if the document, being part of another, does not say."""
    fields = Fields(raw, path, _KNOWN)
    own_name = fields.task_name("name", name)
    return TaskDefinition(
        name=own_name,
        retry=_read_retry(fields),
        states_retry=any(fields.has(key) for key in _RETRY_FIELDS),
        timeouts=_read_timeouts(fields, is_inline),
        input=parse_template(fields.object("inputTemplate"), fields.at("inputTemplate")),
        limits=_read_limits(fields),
        schemas=read_schemas(fields, enforced=False),
        queue_suffix=_read_queue(fields, name or own_name),
        runtime_metadata=_read_runtime_metadata(fields),
    )


def _read_queue(fields: Fields, task_name: str) -> str:
    """`[@executionNameSpace][-isolationGroupId]`, as in the names of Conductor's queues."""
    namespace, group = fields.text("executionNameSpace"), fields.text("isolationGroupId")
    suffix = (f"@{namespace}" if namespace else "") + (f"-{group}" if group else "")
    if len(task_name) + len(suffix) > NAME_CHARACTERS_MAX and suffix:
        key = "isolationGroupId" if group else "executionNameSpace"
        raise fields.invalid(key, f"{task_name}{suffix}: the name of a queue may have {NAME_CHARACTERS_MAX} characters")
    return suffix


def _read_runtime_metadata(fields: Fields) -> tuple[str, ...]:
    """Each name once."""
    names = fields.texts("runtimeMetadata")
    if len(names) > RUNTIME_METADATA_MAX:
        raise fields.invalid("runtimeMetadata", f"there may be {RUNTIME_METADATA_MAX} names")
    for position, name in enumerate(names):
        if not name:
            raise fields.invalid(f"runtimeMetadata[{position}]", "it must be a non-empty string")
        if len(name) > NAME_CHARACTERS_MAX:
            raise fields.invalid(f"runtimeMetadata[{position}]", f"a name may have {NAME_CHARACTERS_MAX} characters")
    return tuple(dict.fromkeys(names))


def _read_retry(fields: Fields) -> RetryPolicy:
    return RetryPolicy(
        count=fields.integer("retryCount", 3),
        logic=fields.choice("retryLogic", RetryLogic, RetryLogic.FIXED),
        delay_ms=fields.seconds("retryDelaySeconds", 60_000),
        scale_factor=float(fields.integer("backoffScaleFactor", 1, least=1)),
        max_delay_ms=fields.seconds("maxRetryDelaySeconds", 0),
        jitter_ms=fields.integer("backoffJitterMs", 0),
    )


def _read_limits(fields: Fields) -> TaskLimits:
    at_once = fields.integer("concurrentExecLimit", 0)
    in_window = fields.integer("rateLimitPerFrequency", 0)
    window_ms = fields.seconds("rateLimitFrequencyInSeconds", NO_LIMITS.window_ms)
    if not window_ms:
        in_window = 0
    return TaskLimits(at_once, in_window, window_ms) if at_once or in_window else NO_LIMITS


def _read_timeouts(fields: Fields, is_inline: bool) -> Timeouts:
    timeouts = Timeouts(
        task_ms=fields.seconds("timeoutSeconds", 0),
        total_ms=fields.seconds("totalTimeoutSeconds", 0),
        response_ms=fields.seconds("responseTimeoutSeconds", 3_600_000),
        poll_ms=fields.seconds("pollTimeoutSeconds", 0),
        policy=fields.choice("timeoutPolicy", TimeoutPolicy, TimeoutPolicy.TIME_OUT_WF),
    )
    # The default may be longer than the timeout: then it never comes to it. Inline ones are not looked at by Conductor.
    if fields.has("responseTimeoutSeconds") and not is_inline and 0 < timeouts.task_ms < timeouts.response_ms:
        raise fields.invalid("responseTimeoutSeconds", "it must not be more than timeoutSeconds")
    if timeouts.total_ms and timeouts.task_ms > timeouts.total_ms:
        raise fields.invalid("timeoutSeconds", "it must not be more than totalTimeoutSeconds")
    return timeouts
