"""Every field of Conductor's definitions is honoured, refused, or said to be for readers only; none is ignored."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.engine.definitions import elements, operators, parse
from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.definitions.parse import validate_task, validate_workflow
from tests.architecture.test_tables import FIELDS, names, rows

TESTS = Path(__file__).parents[1]

# CONDUCTOR.md 1.1, 1.2 and 1.3.
CONDUCTOR = {
    "task definition": (
        "name description ownerEmail baseType executionNameSpace isolationGroupId retryCount retryLogic"
        " retryDelaySeconds backoffScaleFactor maxRetryDelaySeconds backoffJitterMs timeoutSeconds totalTimeoutSeconds"
        " responseTimeoutSeconds pollTimeoutSeconds timeoutPolicy concurrentExecLimit rateLimitPerFrequency"
        " rateLimitFrequencyInSeconds inputTemplate inputKeys outputKeys taskStatusListenerEnabled runtimeMetadata"
        " inputSchema outputSchema enforceSchema"
    ),
    "workflow": (
        "name version description tasks inputParameters outputParameters failureWorkflow failureWorkflowVersion"
        " schemaVersion restartable workflowStatusListenerEnabled workflowStatusListenerSink ownerApp ownerEmail"
        " timeoutPolicy timeoutSeconds variables inputTemplate inputSchema outputSchema enforceSchema metadata"
        " rateLimitConfig cacheConfig maskedFields"
    ),
    "task": (
        "name taskReferenceName description type inputParameters startDelay optional permissive asyncComplete"
        " retryCount taskDefinition joinOn joinMode joinStatus forkTasks decisionCases defaultCase evaluatorType"
        " expression caseValueParam caseExpression loopCondition loopOver items subWorkflowParam sink"
        " dynamicTaskNameParam dynamicForkTasksParam dynamicForkTasksInputParamName dynamicForkJoinTasksParam"
        " defaultExclusiveJoinTask scriptExpression rateLimited cacheConfig onStateChange metadata"
    ),
}
UNIMPLEMENTED = {
    "workflow": {"cacheConfig"},
    "task": {"cacheConfig"},
}


def document(owner: str, fields: dict[str, Any]) -> tuple[Any, bytes]:
    task = {"name": "t", "taskReferenceName": "t"}
    if owner == "task definition":
        return validate_task, msgspec.json.encode({"name": "t", **fields})
    whole = {"name": "w", "tasks": [{**task, **fields} if owner == "task" else task]}
    return validate_workflow, msgspec.json.encode(whole if owner == "task" else {**whole, **fields})


@pytest.mark.parametrize("owner", CONDUCTOR)
def test_every_field_of_conductors_is_known(owner: str) -> None:
    """It has its place in the table of definitions: built, UNIMPLEMENTED, or for readers only."""
    assert not set(CONDUCTOR[owner].split()) - FIELDS[owner]


@pytest.mark.parametrize(
    ("owner", "field"), [(owner, field) for owner, fields in UNIMPLEMENTED.items() for field in sorted(fields)]
)
def test_what_is_not_built_is_refused_and_asks_for_nothing_when_empty(owner: str, field: str) -> None:
    """UNIMPLEMENTED at registration, with its path; null, false, 0 and what is empty asks for nothing."""
    for value in ({"key": "x"}, "x", ["x"], 7, True):
        validate, text = document(owner, {field: value})
        with pytest.raises(DefinitionUnimplemented) as refused:
            validate(text)
        assert refused.value.path.endswith(field)
    for nothing in (None, "", [], {}, 0, False):
        validate, text = document(owner, {field: nothing})
        validate(text)


def test_nothing_else_is_unbuilt() -> None:
    """The list of what is refused is complete."""
    unbuilt = {"workflow": parse._UNBUILT, "task": elements._UNBUILT}
    assert {owner: set(fields) for owner, fields in unbuilt.items()} == UNIMPLEMENTED


@pytest.mark.parametrize("owner", CONDUCTOR)
def test_what_nobody_knows_is_refused(owner: str) -> None:
    """A typing error is no field: retrycount is not retryCount."""
    for field in ("retrycount", "timeOutSeconds", "retries"):
        validate, text = document(owner, {field: 1})
        with pytest.raises(DefinitionInvalid, match="there is no such field"):
            validate(text)


def test_what_a_sub_workflow_is_asked_for() -> None:
    """subWorkflowParam {name, version, taskToDomain, workflowDefinition, idempotencyKey, idempotencyStrategy,
    priority}"""
    expected = "name version taskToDomain workflowDefinition idempotencyKey idempotencyStrategy priority"
    assert sorted(operators._SUB_WORKFLOW) == sorted(expected.split())
    param = {"name": "x", "retries": 1}
    validate, text = document("task", {"type": "SUB_WORKFLOW", "subWorkflowParam": param})
    with pytest.raises(DefinitionInvalid, match=r"subWorkflowParam\.retries"):
        validate(text)


def mentions() -> set[str]:
    """The words of all tests but those that only read definitions."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__) or path.parent.name in ("architecture", "definitions"):
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                value = node.value if isinstance(node.value, str) else node.value.decode("utf-8", "replace")
                found.update(re.findall(r"\w+", value))
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
    return found


def test_every_field_that_is_built_is_used_by_a_test_of_what_it_does() -> None:
    """Reading a field is not honouring it."""
    used = mentions()
    built = {name for row in rows("definitions") if row[0] in FIELDS for name in names(row[1])}
    assert not built - used
