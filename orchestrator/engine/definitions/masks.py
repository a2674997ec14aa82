"""A workflow's `maskedFields`: what readers are not shown."""

from __future__ import annotations

from orchestrator.engine.definitions.fields import NAME_CHARACTERS_MAX, Fields

MASKS_MAX = 100


def read_masks(fields: Fields) -> tuple[str, ...]:
    """Dotted paths, each once, sorted."""
    paths = fields.texts("maskedFields")
    if len(paths) > MASKS_MAX:
        raise fields.invalid("maskedFields", f"there may be {MASKS_MAX} of them")
    for position, path in enumerate(paths):
        if not all(path.split(".")):
            raise fields.invalid(f"maskedFields[{position}]", "it must be names with a dot between them")
        if len(path) > NAME_CHARACTERS_MAX:
            raise fields.invalid(f"maskedFields[{position}]", f"it may have {NAME_CHARACTERS_MAX} characters")
    return tuple(sorted(dict.fromkeys(paths)))
