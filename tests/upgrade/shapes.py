"""What commands, messages, rows and results look like: by position, as their bytes have them."""

from __future__ import annotations

from enum import Enum
from typing import Any, get_args

import msgspec

from orchestrator.codec.rows import ROW_TYPES
from orchestrator.engine import commands, messages, results
from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.command import Command
from orchestrator.engine.model import Table

Shape = dict[str, Any]


def shape(kind: type[Any]) -> Shape:
    fields = [
        [field.name, str(field.type), "required" if field.required else repr(field.default)]
        for field in msgspec.structs.fields(kind)
    ]
    return {"tag": kind.__struct_config__.tag, "fields": fields}


def _inside(kinds: list[type[Any]]) -> dict[str, type[Any]]:
    """The structs and enumerations that fields are of."""
    found: dict[str, type[Any]] = {}

    def look(annotation: Any) -> None:
        for each in get_args(annotation):
            look(each)
        if isinstance(annotation, type) and annotation.__qualname__ not in found:
            if issubclass(annotation, Enum):
                found[annotation.__qualname__] = annotation
            elif issubclass(annotation, msgspec.Struct):
                found[annotation.__qualname__] = annotation
                for field in msgspec.structs.fields(annotation):
                    look(field.type)

    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            look(field.type)
    return found


def of_this_checkout() -> Shape:
    kinds: dict[str, list[type[Any]]] = {
        "commands": Command.__subclasses__(),
        "messages": list(get_args(messages.AnyMessage)),
        "rows": list(ROW_TYPES.values()),
        "results": list(get_args(results.AnyResult)),
    }
    made: Shape = {name: {kind.__name__: shape(kind) for kind in found} for name, found in kinds.items()}
    inside = {"RequestIdentity": commands.RequestIdentity}
    inside |= _inside([kind for found in kinds.values() for kind in found])
    made["structs"] = {name: shape(kind) for name, kind in inside.items() if not issubclass(kind, Enum)}
    made["enumerations"] = {
        name: {member.name: member.value for member in kind} for name, kind in inside.items() if issubclass(kind, Enum)
    }
    made["enumerations"]["Table"] = {member.name: member.value for member in Table}
    made["level"] = HIGHEST
    return made
