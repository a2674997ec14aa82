"""Paths that lead into values which are kept outside the log: what is inside of those is not known here.

Such a value can be passed on, not looked into. Where an expression would have to, whoever resolves it hears of it, and
fails what it was for, rather than going on with null.
"""

from __future__ import annotations

from typing import Final

from orchestrator.engine.blobs import marked, references_in
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import elements_of, fields_of
from orchestrator.engine.expressions.template_model import Function, Reference, Step, Wildcard

_MARK: Final = b'"$blob"'


def leads_into(value: bytes, steps: tuple[Step, ...]) -> bool:
    """Whether a path from the value leads through one that is kept outside the log."""
    if _MARK not in value:
        return False
    found = [value]
    for step in steps:
        if any(marked(one) is not None for one in found):
            return True
        if step is Wildcard.DESCEND:
            # It looks at everything below.
            return any(_MARK in one for one in found)
        if isinstance(step, Function):
            return False
        found = [child for one in found for child in _children(one, step)]
    return False


def _children(value: bytes, step: Step) -> list[bytes]:
    first = value[:1]
    if first == b"{":
        fields = fields_of(value)
        if isinstance(step, Wildcard):
            return list(fields.values())
        return [fields[step]] if isinstance(step, str) and step in fields else []
    if first != b"[":
        return []
    elements = elements_of(value)
    if isinstance(step, Wildcard):
        return elements
    return [elements[step]] if isinstance(step, int) and -len(elements) <= step < len(elements) else []


def is_outside(value: bytes) -> bool:
    """Whether any of the value is kept outside the log."""
    return _MARK in value and bool(references_in(value))


def name_of(reference: Reference) -> str:
    """As it is written, about."""
    written = f"{reference.root}.{reference.field}" if reference.root else reference.field
    for step in reference.steps:
        if isinstance(step, str):
            written += f".{step}"
        else:
            text = step.value if isinstance(step, Wildcard | Function) else ""
            written += f"[{step}]" if isinstance(step, int) else "." + text.lstrip(".")
    return "${" + written + "}"


def crossed(name: str) -> LimitExceeded:
    """`name`: of the reference, or of the field, for people."""
    return LimitExceeded(
        f"{name} looks into a value that is kept outside the log: values over the limit can only be passed on whole"
    )
