"""Definitions in all the forms that a caller may have them in, brought to the form that the wire takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator_client.errors import InvalidRequest
from orchestrator_client.tasks import Task
from orchestrator_client.workflow import Workflow

Definition = Workflow | Task[..., Any] | Mapping[str, Any] | str | Path
"""A workflow, a task, a document, or the path of a JSON or YAML file with one document or a list of them."""


@dataclass
class Sorted:
    """The documents of workflows and of tasks among some definitions."""

    workflows: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_tasks(self, documents: Iterable[dict[str, Any]]) -> None:
        for document in documents:
            self.tasks[document["name"]] = document


def sort(definitions: Iterable[Definition]) -> Sorted:
    """Workflows bring the definitions of their tasks along."""
    found = Sorted()
    for definition in definitions:
        if isinstance(definition, Workflow):
            found.workflows.append(definition.to_dict())
            found.add_tasks(definition.task_definitions())
        elif isinstance(definition, Task):
            found.add_tasks(definition.definitions())
        elif isinstance(definition, Mapping):
            _add_document(found, dict(definition), "the definition")
        else:
            for document in load_file(Path(definition)):
                _add_document(found, document, str(definition))
    return found


def load_file(path: Path) -> list[dict[str, Any]]:
    """The documents in a JSON file, or a YAML file if its name ends so."""
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() in (".yaml", ".yml"):
        content = _load_yaml(text, path)
    else:
        try:
            content = [json.loads(text)]
        except ValueError as error:
            raise InvalidRequest(f"{path} is not JSON: {error}") from None
    documents = [item for part in content for item in (part if isinstance(part, list) else [part])]
    for document in documents:
        if not isinstance(document, dict):
            raise InvalidRequest(f"{path}: a definition is an object, not {type(document).__name__}")
    return documents


def _load_yaml(text: str, path: Path) -> list[Any]:
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore] # stubs are apart  # noqa: PLC0415 - optional
    except ImportError:
        raise InvalidRequest(f"{path} is YAML, which needs the package PyYAML: pip install PyYAML") from None
    try:
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{path} is not YAML: {error}") from None


def _add_document(found: Sorted, document: dict[str, Any], where: str) -> None:
    if not document.get("name"):
        raise InvalidRequest(f"{where} has no name")
    # Only a workflow has tasks; only a task has neither them nor a version.
    if "tasks" in document:
        found.workflows.append(document)
    else:
        found.add_tasks([document])
