"""How often and how long a task is tried, and how that is written in Conductor's task definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator_client.schema_refs import SchemaRef, enforced


def seconds(ms: int) -> int | float:
    """Conductor counts in seconds; the server takes decimals down to a millisecond."""
    return ms // 1000 if ms % 1000 == 0 else ms / 1000


@dataclass(frozen=True)
class Retry:
    """A retry policy; `attempts` counts the first one too. Make one with the class methods."""

    logic: str
    attempts: int
    delay_ms: int = 0
    max_ms: int = 0
    jitter_ms: int = 0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"a task is tried at least once, so attempts can't be {self.attempts}")
        if min(self.delay_ms, self.max_ms, self.jitter_ms) < 0:
            raise ValueError("a delay can't be negative")
        if self.max_ms and self.max_ms < self.delay_ms:
            raise ValueError(f"max_ms ({self.max_ms}) is below the first delay ({self.delay_ms})")

    @classmethod
    def exponential(cls, *, first_ms: int = 200, max_ms: int = 30_000, attempts: int = 5, jitter_ms: int = 0) -> Retry:
        """Each delay is twice the one before, up to `max_ms`."""
        return cls("EXPONENTIAL_BACKOFF", attempts, first_ms, max_ms, jitter_ms)

    @classmethod
    def linear(cls, *, first_ms: int = 200, max_ms: int = 30_000, attempts: int = 5, jitter_ms: int = 0) -> Retry:
        """Each delay is longer than the one before by the same amount, up to `max_ms`."""
        return cls("LINEAR_BACKOFF", attempts, first_ms, max_ms, jitter_ms)

    @classmethod
    def fixed(cls, *, delay_ms: int, attempts: int = 5, jitter_ms: int = 0) -> Retry:
        """The same delay each time."""
        return cls("FIXED", attempts, delay_ms, 0, jitter_ms)

    @classmethod
    def none(cls) -> Retry:
        """One attempt."""
        return cls("FIXED", 1)

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "retryCount": self.attempts - 1,
            "retryLogic": self.logic,
            "retryDelaySeconds": seconds(self.delay_ms),
        }
        if self.logic == "LINEAR_BACKOFF":
            fields["backoffScaleFactor"] = 1
        if self.max_ms:
            fields["maxRetryDelaySeconds"] = seconds(self.max_ms)
        if self.jitter_ms:
            fields["backoffJitterMs"] = self.jitter_ms
        return fields


STEP_RETRY = Retry.exponential()
COMPENSATION_RETRY = Retry.exponential(first_ms=1_000, max_ms=60_000, attempts=20)


@dataclass(frozen=True)
class TaskOptions:
    """The limits of a task; None is no limit. A timed-out attempt is retried as a failed one is."""

    retry: Retry = STEP_RETRY
    # One attempt, from its start.
    timeout_ms: int | None = None
    # Silence of one attempt; set it, and only the task's own `ctx.heartbeat()` counts as a sign of life.
    response_timeout_ms: int | None = None
    # All attempts together.
    total_timeout_ms: int | None = None
    # How many attempts are with workers at once, in the whole cluster.
    concurrent_limit: int | None = None
    # How many are handed out in any span of so long; for both or neither.
    rate_limit: int | None = None
    rate_window_ms: int | None = None
    # The queue in which its attempts wait: only workers that serve it get them.
    execution_namespace: str | None = None
    isolation_group: str | None = None
    # Names of values, such as secrets, that the cluster's nodes have and workers get: `ctx.runtime_metadata`.
    runtime_metadata: Sequence[str] = ()
    description: str = ""
    # What the cluster sees to: an input that violates its schema never comes to a worker, an output fails the task.
    input_schema: SchemaRef | None = None
    output_schema: SchemaRef | None = None
    # More fields of Conductor's task definition, as they are.
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = ("concurrent_limit", "rate_limit", "rate_window_ms")
        for name in ("timeout_ms", "response_timeout_ms", "total_timeout_ms", *limits):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, or None for no limit; it is {value}")
        if isinstance(self.runtime_metadata, str) or not all(self.runtime_metadata):
            raise ValueError(f"runtime_metadata is a list of non-empty names, not {self.runtime_metadata!r}")
        if (self.rate_limit is None) != (self.rate_window_ms is None):
            raise ValueError("rate_limit and rate_window_ms go together")
        if self.timeout_ms and self.response_timeout_ms and self.response_timeout_ms >= self.timeout_ms:
            raise ValueError(
                f"response_timeout_ms ({self.response_timeout_ms}) must be below timeout_ms ({self.timeout_ms})"
            )
        if self.timeout_ms and self.total_timeout_ms and self.timeout_ms > self.total_timeout_ms:
            raise ValueError(
                f"timeout_ms ({self.timeout_ms}) can't be above total_timeout_ms ({self.total_timeout_ms})"
            )

    def definition(self, name: str) -> dict[str, Any]:
        """Conductor's task definition, with everything about retries said explicitly."""
        document: dict[str, Any] = {"name": name}
        if self.description:
            document["description"] = self.description
        document |= self.retry.to_dict()
        document["timeoutPolicy"] = "RETRY"
        document["timeoutSeconds"] = seconds(self.timeout_ms or 0)
        # 0 is never: a lost worker is noticed by its session, which is much faster.
        document["responseTimeoutSeconds"] = seconds(self.response_timeout_ms or 0)
        if self.total_timeout_ms:
            document["totalTimeoutSeconds"] = seconds(self.total_timeout_ms)
        if self.concurrent_limit:
            document["concurrentExecLimit"] = self.concurrent_limit
        if self.rate_limit and self.rate_window_ms:
            document["rateLimitPerFrequency"] = self.rate_limit
            document["rateLimitFrequencyInSeconds"] = seconds(self.rate_window_ms)
        if self.execution_namespace:
            document["executionNameSpace"] = self.execution_namespace
        if self.isolation_group:
            document["isolationGroupId"] = self.isolation_group
        if self.runtime_metadata:
            document["runtimeMetadata"] = list(self.runtime_metadata)
        return document | enforced(self.input_schema, self.output_schema) | self.extra
