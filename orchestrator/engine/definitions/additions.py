"""Rules that came with a later behaviour level: for definitions that are new.

Those that were registered before them are kept, and so is what runs by them.
"""

from __future__ import annotations

from orchestrator.engine.behaviour import HIGHEST, STREAMS
from orchestrator.engine.blobs import KEY
from orchestrator.engine.definitions.elements import Element, subtree
from orchestrator.engine.definitions.errors import DefinitionInvalid, quoted
from orchestrator.engine.definitions.waits import check_event_waits


def check_new(elements: tuple[Element, ...], level: int = HIGHEST) -> None:
    """Of a definition that was read. Raises DefinitionInvalid."""
    check_event_waits(elements, level)
    check_references(elements, level)


def check_references(elements: tuple[Element, ...], level: int) -> None:
    """What a JOIN or a loop makes of references must not look like a marker: it could not be kept."""
    if level < STREAMS:
        return
    for element in subtree(elements):
        if element.reference == KEY:
            raise DefinitionInvalid(f"{element.path}.taskReferenceName", f"{quoted(KEY)} is a reserved name")
