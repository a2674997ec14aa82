"""The rules of task definitions, and seconds read from their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.definitions.fields import is_inert, milliseconds_of
from orchestrator.engine.definitions.model import (
    NO_LIMITS,
    RetryLogic,
    RetryPolicy,
    TaskLimits,
    TimeoutPolicy,
    Timeouts,
)
from orchestrator.engine.definitions.parse import DefinitionInvalid, validate_task


def task(**fields: Any) -> bytes:
    return json.dumps({"name": "t", **fields}).encode()


def test_defaults_are_those_of_conductor() -> None:
    definition = validate_task(task()).definition
    assert definition.retry == RetryPolicy(3, RetryLogic.FIXED, 60_000, 1.0, 0, 0)
    assert definition.timeouts == Timeouts(0, 0, 3_600_000, 0, TimeoutPolicy.TIME_OUT_WF)
    assert not definition.states_retry


def test_every_field_is_read() -> None:
    definition = validate_task(
        b'{"name":"t","retryCount":5,"retryLogic":"LINEAR_BACKOFF","retryDelaySeconds":0.2,"backoffScaleFactor":3,'
        b'"maxRetryDelaySeconds":30,"backoffJitterMs":250,"timeoutSeconds":1.5e1,"totalTimeoutSeconds":60,'
        b'"responseTimeoutSeconds":0.500,"pollTimeoutSeconds":7,"timeoutPolicy":"RETRY","inputTemplate":{"a":1.0}}'
    ).definition
    assert definition.retry == RetryPolicy(5, RetryLogic.LINEAR_BACKOFF, 200, 3.0, 30_000, 250)
    assert definition.timeouts == Timeouts(15_000, 60_000, 500, 7_000, TimeoutPolicy.RETRY)
    assert definition.input.source == b'{"a":1.0}'


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "name"),
        ({"retryCount": -1}, "retryCount"),
        ({"retryLogic": "RANDOM"}, "retryLogic"),
        ({"retryDelaySeconds": -1}, "retryDelaySeconds"),
        ({"backoffScaleFactor": 0}, "backoffScaleFactor"),
        ({"backoffScaleFactor": 1.5}, "backoffScaleFactor"),
        ({"timeoutSeconds": 10, "responseTimeoutSeconds": 11}, "responseTimeoutSeconds"),
        ({"timeoutSeconds": 10, "totalTimeoutSeconds": 9}, "timeoutSeconds"),
        ({"timeoutPolicy": "IGNORE"}, "timeoutPolicy"),
        ({"inputTemplate": []}, "inputTemplate"),
        ({"inputTemplate": {"a": "${workflow.what}"}}, "inputTemplate.a"),
        ({"retry_count": 1}, "retry_count"),
        ({"executionNameSpace": 1}, "executionNameSpace"),
        ({"isolationGroupId": "x" * 200}, "isolationGroupId"),
        ({"runtimeMetadata": "KEY"}, "runtimeMetadata"),
        ({"runtimeMetadata": [str(number) for number in range(101)]}, "runtimeMetadata"),
        ({"runtimeMetadata": ["KEY", 1]}, "runtimeMetadata[1]"),
        ({"runtimeMetadata": ["KEY", ""]}, "runtimeMetadata[1]"),
        ({"runtimeMetadata": ["x" * 201]}, "runtimeMetadata[0]"),
    ],
)
def test_a_broken_rule_is_refused_at_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_task(task(**fields))
    assert refused.value.path == path


@pytest.mark.parametrize(
    "fields",
    [
        {"concurrentExecLimit": 0, "rateLimitPerFrequency": 0, "rateLimitFrequencyInSeconds": 1},
        {"isolationGroupId": None, "executionNameSpace": "", "baseType": "", "runtimeMetadata": []},
        {"inputKeys": ["a"], "outputKeys": [], "description": "x", "ownerEmail": "a@b.c", "createTime": 0},
        {"timeoutSeconds": 10},
        {"inputSchema": {"name": "x"}},
        {"taskStatusListenerEnabled": True, "baseType": "x"},
        {"runtimeMetadata": [str(number) for number in range(100)]},
        {"runtimeMetadata": ["x" * 200, "x" * 200]},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert validate_task(task(**fields)).name == "t"


@given(st.integers(0, 2**40))
def test_seconds_are_exact(milliseconds: int) -> None:
    whole, fraction = divmod(milliseconds, 1000)
    assert milliseconds_of(f"{whole}.{fraction:03}".encode()) == milliseconds
    assert milliseconds_of(f"{milliseconds}e-3".encode()) == milliseconds
    assert milliseconds_of(f"{milliseconds}E+3".encode()) == milliseconds * 1_000_000


@pytest.mark.parametrize("text", [b"0.0005", b"1e-4", b'"1"', b"true", b"1e999", b"9" * 50])
def test_what_is_no_number_of_milliseconds(text: bytes) -> None:
    assert milliseconds_of(text) is None


def test_inert_values() -> None:
    assert all(is_inert(value) for value in (b"null", b'""', b"[]", b"{}", b"false", b"0", b"0.0", b"-0"))
    assert not any(is_inert(value) for value in (b"1", b"true", b'" "', b"[0]", b'{"a":null}', b"0.1"))


def test_limits_are_read_and_none_is_none() -> None:
    given = {"concurrentExecLimit": 2, "rateLimitPerFrequency": 3, "rateLimitFrequencyInSeconds": 0.5}
    assert validate_task(task(**given)).definition.limits == TaskLimits(2, 3, 500)
    assert validate_task(task(rateLimitPerFrequency=3)).definition.limits == TaskLimits(0, 3, 1_000)
    assert validate_task(task(rateLimitPerFrequency=3, rateLimitFrequencyInSeconds=0)).definition.limits is NO_LIMITS
