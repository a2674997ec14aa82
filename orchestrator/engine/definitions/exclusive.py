"""What an EXCLUSIVE_JOIN names: tasks that may be where it looks for them."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.engine.definitions.elements import Element
from orchestrator.engine.definitions.errors import DefinitionInvalid, quoted
from orchestrator.engine.definitions.model import TaskType


def check_exclusive_joins(elements: tuple[Element, ...]) -> None:
    """`elements`: all that may refer to each other. Raises DefinitionInvalid."""
    placed = dict(_loops(elements, ""))
    for element, loop in placed.values():
        if element.type != TaskType.EXCLUSIVE_JOIN:
            continue
        if not element.join_on and not element.instead:
            raise DefinitionInvalid(f"{element.path}.joinOn", "an EXCLUSIVE_JOIN needs a task to take the output of")
        for key, references in (("joinOn", element.join_on), ("defaultExclusiveJoinTask", element.instead)):
            for position, reference in enumerate(references):
                path = f"{element.path}.{key}[{position}]"
                if reference not in placed:
                    raise DefinitionInvalid(path, f"there is no task with the reference name {quoted(reference)}")
                if placed[reference][1] != loop:
                    raise DefinitionInvalid(path, f"{quoted(reference)} is not in the same loop")


def _loops(elements: tuple[Element, ...], loop: str) -> Iterator[tuple[str, tuple[Element, str]]]:
    """Each reference, with its element and the innermost loop around it; "": none."""
    for element in elements:
        yield element.reference, (element, loop)
        for branch in element.branches():
            yield from _loops(branch, element.reference if branch is element.body else loop)
