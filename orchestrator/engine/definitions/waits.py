"""What a WAIT for an event has to say, where a definition is new.

What was registered before there were events to wait for may have inputs of these names, and keeps them: there, a WAIT
that says half of it is one for a signal.
"""

from __future__ import annotations

from orchestrator.engine.behaviour import HIGHEST, STREAMS
from orchestrator.engine.definitions.elements import Element, subtree
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.fields import NAME_CHARACTERS_MAX
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.expressions import fields_of, is_null, text_of

_EVENT = ("event", "correlationKey")
_OTHERS = ("duration", "until", "signal")


def check_event_waits(elements: tuple[Element, ...], level: int = HIGHEST) -> None:
    """Raises DefinitionInvalid."""
    if level >= STREAMS:
        for element in subtree(elements):
            if element.type == TaskType.WAIT:
                _check(element)


def _check(element: Element) -> None:
    given = {key: raw for key, raw in fields_of(element.input).items() if not is_null(raw)}
    if not any(key in given for key in _EVENT):
        return
    for key in _EVENT:
        if key not in given:
            raise _invalid(element, key, "it is missing: a WAIT for an event has an event and a correlationKey")
        _check_name(element, key, given[key])
    for key in _OTHERS:
        if key in given:
            raise _invalid(element, key, "a WAIT for an event has none: its task definition says how long it may take")


def _check_name(element: Element, key: str, raw: bytes) -> None:
    if raw[:1] in (b"{", b"["):
        raise _invalid(element, key, "it must be a text or a number")
    text = text_of(raw)
    if "${" not in text and not 1 <= len(text) <= NAME_CHARACTERS_MAX:
        raise _invalid(element, key, f"it has 1 to {NAME_CHARACTERS_MAX} characters")


def _invalid(element: Element, key: str, message: str) -> DefinitionInvalid:
    return DefinitionInvalid(f"{element.input_path}.{key}", message)
