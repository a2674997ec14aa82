"""The tables of orchestrator/README.md and telemetry/METRICS.md say what the code says: no name is missing or invented.

    REWRITE=1 .venv/bin/python -m pytest tests/architecture/test_tables.py

writes the table of metrics anew; the others hold sentences, which people write.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.engine import attempts, limits
from orchestrator.engine.definitions import elements, operators, parse, tasks
from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.definitions.parse import validate_task, validate_workflow
from orchestrator.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "orchestrator" / "README.md"
METRICS_PAGE = ROOT / "orchestrator" / "telemetry" / "METRICS.md"


def section(name: str, page: Path = PAGE) -> str:
    """What stands between `<!-- name -->` and `<!-- /name -->`."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{page} has no section {name!r}"
    return found[1]


def rows(name: str) -> list[list[str]]:
    """The cells of each row of a section's table, its heading left out."""
    lines = [line for line in section(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- definitions ------------------------------------------------------------------------------------------------------

TASK = {"name": "t", "taskReferenceName": "t", "type": "SIMPLE"}
WORKFLOW = {"name": "w", "tasks": [TASK]}
# Values that do something; a field takes the first that it accepts.
VALUES: list[Any] = [
    7, "x", False, "PARALLEL", "RETRY", "TIME_OUT_WF", "LINEAR_BACKOFF", True, ["x"], {"x": 1}, [TASK | {"name": "u"}],
    TASK | {"taskReferenceName": "u"}, {"name": "u", "retryCount": 1}, 1,
]
# Fields whose values depend on other fields, tested with the types they belong to, and the one that has a single value.
ELSEWHERE = {"asyncComplete", "schemaVersion", "enforceSchema", "type"}
ELSEWHERE |= {"rateLimitFrequencyInSeconds", "rateLimitConfig", "inputSchema", "outputSchema"}
ELSEWHERE |= {"onStateChange", "workflowStatusListenerEnabled", "workflowStatusListenerSink", "taskStatusListenerSink"}
ELSEWHERE |= elements._OF_ANY


def document(owner: str, field: str, value: Any) -> bytes:
    if owner == "workflow":
        return msgspec.json.encode(WORKFLOW | {field: value})
    if owner == "task":
        return msgspec.json.encode(WORKFLOW | {"tasks": [TASK | {field: value}]})
    return msgspec.json.encode({"name": "t", field: value})


def read(owner: str, text: bytes) -> object:
    """What the engine takes from a document; the text itself is for readers."""
    if owner == "task definition":
        return validate_task(text).definition
    return msgspec.structs.replace(validate_workflow(text), document=b"")


def state(owner: str, field: str) -> str:
    """What becomes of a field that is set: built, UNIMPLEMENTED or for readers only."""
    plain = read(owner, msgspec.json.encode({"name": "t"} if owner == "task definition" else WORKFLOW))
    effects = set()
    for value in VALUES:
        try:
            effects.add(read(owner, document(owner, field, value)) != plain)
        except DefinitionUnimplemented:
            return "unimplemented"
        except DefinitionInvalid:
            continue
    assert effects, f"no value fits {owner}.{field}"
    return "built" if True in effects else "readers"


FIELDS = {
    "workflow": {*parse._KNOWN, *parse._UNBUILT},
    "task": {*elements._KNOWN, *elements._UNBUILT},
    "task definition": {*tasks._KNOWN},
}


@pytest.mark.parametrize("owner", FIELDS)
def test_every_field_of_a_definition_is_in_its_column(owner: str) -> None:
    [cells] = [row for row in rows("definitions") if row[0] == owner]
    columns = {"built": names(cells[1]), "unimplemented": names(cells[2]), "readers": names(cells[3])}
    listed = [name for column in columns.values() for name in column]
    assert sorted(listed) == sorted(FIELDS[owner])
    for column, fields in columns.items():
        wrong = [field for field in fields if field not in ELSEWHERE and state(owner, field) != column]
        assert not wrong, f"not {column} for a {owner}: {wrong}"


@pytest.mark.parametrize("key", ["inputSchema", "outputSchema"])
def test_a_schema_that_can_not_be_enforced_is_refused_only_if_it_is_to_be(key: str) -> None:
    elsewhere = {"name": "x", "type": "AVRO"}
    assert validate_workflow(msgspec.json.encode(WORKFLOW | {key: elsewhere, "enforceSchema": False}))
    assert validate_task(msgspec.json.encode({"name": "t", key: elsewhere}))
    with pytest.raises(DefinitionUnimplemented):
        validate_task(msgspec.json.encode({"name": "t", key: elsewhere, "enforceSchema": True}))


COMPENSATION_TYPES_UNBUILT = operators.COMPENSATION_TYPES & operators.UNBUILT_TYPES


@pytest.mark.parametrize(("row", "built", "unbuilt"), [
    ("task `type`", {*TaskType, *operators.ALIASES} - operators.UNBUILT_TYPES - {TaskType.SCHEMA_CHECK},
     operators.UNBUILT_TYPES),
    ("`compensateWith.type`", operators.COMPENSATION_TYPES - operators.UNBUILT_TYPES, COMPENSATION_TYPES_UNBUILT),
    ("`evaluatorType`", {"value-param"} | operators.JAVASCRIPT, operators.EVALUATORS_UNBUILT),
])
def test_every_type_is_in_its_column(row: str, built: set[str], unbuilt: set[str]) -> None:
    [cells] = [cells for cells in rows("definitions") if cells[0] == row]
    assert sorted(names(cells[1])) == sorted(built)
    assert sorted(names(cells[2])) == sorted(unbuilt)


# --- what shows it ----------------------------------------------------------------------------------------------------


def shown() -> list[list[str]]:
    lines = [line for line in section("shown").splitlines() if line.startswith("|") and not line.startswith("|--")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] != "shown by"]


def test_every_type_of_task_has_a_test_that_shows_it() -> None:
    first = [names(row[0])[0] for row in shown() if names(row[0])]
    built = {*TaskType, *operators.ALIASES} - operators.UNBUILT_TYPES - {TaskType.SCHEMA_CHECK}
    assert sorted(first) == sorted(built)


def test_every_call_has_a_test_that_shows_it() -> None:
    listed = [name for row in shown() for name in names(row[1]) if name[0].isupper()]
    protos = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "proto/orchestrator_api/v1").glob("*.proto"))
    assert sorted(listed) == sorted(re.findall(r"^  rpc (\w+)\(", protos, re.MULTILINE))


@pytest.mark.parametrize("row", shown(), ids=lambda row: row[0])
def test_what_shows_it_is_there(row: list[str]) -> None:
    file, *tests = names(row[-1])
    text = (ROOT / file).read_text(encoding="utf-8")
    for test in tests:
        assert f"def {test}(" in text


# --- metrics ----------------------------------------------------------------------------------------------------------


UNITS = ("seconds", "bytes", "entries", "commands", "lines")


def metrics_table() -> str:
    """All that a node adds to what Prometheus knows of every process."""
    lines = ["| metric | type | unit | labels | meaning |", "|---|---|---|---|---|"]
    registry = Metrics(node="a", version="0").registry
    for collector in registry._collector_to_names:
        # Those of the process have no labels of their own.
        for family in collector.describe() if hasattr(collector, "_labelnames") else ():
            kind = "state" if family.type == "stateset" else family.type
            name = f"{family.name}_total" if kind == "counter" else family.name
            unit = next((unit for unit in UNITS if f"_{unit}" in family.name), "1")
            labels = " ".join(f"`{label}`" for label in (*registry.labels_of(collector), *collector._labelnames))
            lines.append(f"| `{name}` | {kind} | {unit} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def test_every_metric_is_in_the_table() -> None:
    expected = metrics_table()
    if os.environ.get("REWRITE"):
        old, marker = METRICS_PAGE.read_text(encoding="utf-8"), "<!-- metrics -->\n"
        new = old.replace(f"{marker}{section('metrics', METRICS_PAGE)}", f"{marker}{expected}")
        METRICS_PAGE.write_text(new, encoding="utf-8")
    assert section("metrics", METRICS_PAGE) == expected, "to write it anew: REWRITE=1, see the top of this file"


# --- limits -----------------------------------------------------------------------------------------------------------


def quantity(name: str) -> str:
    value: int = getattr(limits, name)
    if not name.endswith("_BYTES"):
        return f"{value:,}"
    return f"{value // 2**20} MiB" if value % 2**20 == 0 else f"{value // 2**10} KiB"


def test_every_limit_is_what_the_table_says() -> None:
    assert {names(row[0])[0]: row[1] for row in rows("limits")} == {
        names(row[0])[0]: quantity(names(row[0])[0]) for row in rows("limits")
    }


# --- errors -----------------------------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[Path, str, list[str]]]:
    """(file, function, its arguments as they are written) of every call in the engine and the gRPC services."""
    for path in [*(ROOT / "orchestrator/engine").rglob("*.py"), *(ROOT / "orchestrator/rpc").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield path, node.func.id, [ast.unparse(argument) for argument in node.args]


def reasons() -> set[tuple[str, str]]:
    """(reason, canonical code) of every refusal that the code can utter."""
    found = set()
    for path, function, arguments in calls():
        if function in ("refuse", "Rejected", "RpcFailure") and len(arguments) > 1:
            code, reason = arguments[0].rpartition(".")[2], arguments[1]
            if re.fullmatch(r"'[A-Z_]+'", reason):
                found.add((reason.strip("'"), code))
        elif function == "not_found" and path.parts[-2] == "rpc" and arguments[0].startswith("'"):
            found.add((f"{arguments[0].strip(chr(39)).upper()}_NOT_FOUND", "NOT_FOUND"))
    # Two helpers give a failure a closer reason after it was made.
    text = (ROOT / "orchestrator/rpc/definitions.py").read_text(encoding="utf-8")
    codes = {"failure": "INVALID_ARGUMENT", "unbuilt": "UNIMPLEMENTED"}
    found |= {(reason, codes[name]) for name, reason in re.findall(r'(\w+)\.reason = "([A-Z_]+)"', text)}
    return found


def test_every_reason_is_in_the_table() -> None:
    found = reasons()
    assert ("NOT_LEADER", "UNAVAILABLE") in found
    assert ("DEFINITION_UNIMPLEMENTED", "UNIMPLEMENTED") in found
    listed = [(name, row[1]) for row in rows("errors") for name in names(row[0])]
    assert len(listed) == len(set(listed))
    assert set(listed) == found


def test_every_error_code_of_an_attempt_is_named() -> None:
    codes = {value for name, value in vars(attempts).items() if name == value}
    assert "WORKER_LOST" in codes
    assert set(names(section("attempts"))) == codes
