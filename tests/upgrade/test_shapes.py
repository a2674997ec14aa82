"""Commands, messages and rows are still what the previous release reads, or nobody meets them below their level."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.engine import behaviour
from tests.upgrade import shapes
from tests.upgrade.mixed import missing
from tests.upgrade.releases import DATA

OLD: dict[str, Any] = json.loads((DATA / "shapes.json").read_text())
NEW: dict[str, Any] = json.loads(json.dumps(shapes.of_this_checkout()))
COMMANDS_SINCE = {kind.__name__: level for kind, level in behaviour.COMMANDS_SINCE.items()}
FIELDS_SINCE = {kind.__name__: fields for kind, fields in behaviour.FIELDS_SINCE.items()}
# Structs inside of others have all their fields in the bytes.
GROWING = ("commands", "messages", "rows", "results")


def faults(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for group in GROWING:
        found += [f"{group}: {name} is gone" for name in old[group].keys() - new[group].keys()]
        for name in old[group].keys() & new[group].keys():
            found += [f"{group}: {name}: {fault}" for fault in _grown(old[group][name], new[group][name])]
    found += [f"structs{fault}" for fault in missing(old["structs"], new["structs"])]
    found += [f"enumerations{fault}" for fault in missing(old["enumerations"], new["enumerations"])]
    return found


def _grown(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    count = len(old["fields"])
    found = [f"its tag was {old['tag']}"] if old["tag"] != new["tag"] else []
    if new["fields"][:count] != old["fields"]:
        found.append(f"its first fields were {old['fields']}")
    added = [name for name, _, default in new["fields"][count:] if default == "required"]
    return found + [f"its new field {name} has no default" for name in added]


def unlisted(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What of commands is new and needs no level."""
    added = new["commands"].keys() - old["commands"].keys()
    found = [name for name in added if COMMANDS_SINCE.get(name, 0) <= old["level"]]
    for name in old["commands"].keys() & new["commands"].keys():
        later = new["commands"][name]["fields"][len(old["commands"][name]["fields"]) :]
        since = FIELDS_SINCE.get(name, {})
        found += [f"{name}.{field}" for field, _, _ in later if since.get(field, 0) <= old["level"]]
    return found


def test_what_the_previous_release_knows_is_as_it_was() -> None:
    assert faults(OLD, NEW) == []


def test_what_is_new_in_commands_has_the_level_that_it_came_with() -> None:
    """See the recipe in orchestrator/engine/DESIGN.md."""
    assert unlisted(OLD, NEW) == []
    assert NEW["level"] >= OLD["level"] >= behaviour.LOWEST


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(NEW))
    inside: Any = copied
    for step in path[:-1]:
        inside = inside[step]
    if path[-1] == "append":
        inside.append(value)
    else:
        inside[path[-1]] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows", "Meta", "fields", "append"), ["more", "int", "required"]),
        (("rows", "Meta", "fields", 0), ["log_time", "int", "0"]),
        (("commands", "PauseWorkflow", "tag"), 9),
        (("messages", "TaskLeased"), {"tag": 1, "fields": []}),
        (("enumerations", "TaskStatus", "COMPLETED"), 99),
        (("structs", "RequestIdentity", "fields", "append"), ["more", "int", "0"]),
    ],
)
def test_a_change_that_the_previous_release_does_not_bear_is_noticed(path: tuple[Any, ...], value: Any) -> None:
    assert faults(OLD, changed(path, value))


def test_a_new_field_of_a_command_is_noticed() -> None:
    assert unlisted(OLD, changed(("commands", "PauseWorkflow", "fields", "append"), ["why", "str", "''"])) == [
        "PauseWorkflow.why"
    ]
    assert unlisted(OLD, changed(("commands", "Another"), {"tag": 999, "fields": []})) == ["Another"]
