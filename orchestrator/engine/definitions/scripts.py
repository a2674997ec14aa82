"""`${...}` in scripts that stand in the input of a task: references are resolved there as anywhere, and what is
JavaScript's own, a template literal, is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Container

from orchestrator.engine.expressions import TASK_FIELDS, WORKFLOW_FIELDS

_SPACE = r"[ \t\r\n]*"
_MENTION = re.compile(rf"(\$?)\$\{{(?:{_SPACE}([^.\[\]{{}}$\s]+){_SPACE}\.{_SPACE}([A-Za-z]+))?")
# Of tasks that only a dynamic fork will bring.
_FIELDS_OF_UNKNOWN = frozenset({"input", "output"})


def spare(script: str, references: Container[str], may_be_others: bool) -> str:
    """The script as a template: each `${` that begins no reference is escaped.

    `may_be_others`: besides `references`.
    """

    def spared(found: re.Match[str]) -> str:
        escape, text = found.group(1), found.group()
        return text if _is_reference(found, references, may_be_others) else f"{escape}${text[len(escape) :]}"

    return _MENTION.sub(spared, script)


def has_references(script: str, references: Container[str]) -> bool:
    """Whether it may be another one when it is run."""
    return any(not found.group(1) and _is_reference(found, references, True) for found in _MENTION.finditer(script))


def _is_reference(found: re.Match[str], references: Container[str], may_be_others: bool) -> bool:
    root, field = found.group(2), found.group(3)
    if root is None:
        return False
    if root == "workflow":
        return field in WORKFLOW_FIELDS
    if root in references:
        return field in TASK_FIELDS
    return may_be_others and field in _FIELDS_OF_UNKNOWN
