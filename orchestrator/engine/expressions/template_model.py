"""What templates are compiled to. Plain data: ``templates`` makes and resolves it, ``paths`` follows the steps."""

from __future__ import annotations

from enum import Enum

import msgspec


class Wildcard(Enum):
    """Steps that find more than one value."""

    ALL = "*"
    DESCEND = ".."


class Function(Enum):
    """What a path may end with."""

    LENGTH = "length()"
    SIZE = "size()"
    KEYS = "keys()"
    FIRST = "first()"
    LAST = "last()"


Step = str | int | Wildcard | Function
"""The name of a field, the index of an element, or what finds several, or something about a value."""


class Reference(msgspec.Struct, frozen=True):
    """`root.field` and a path from there. The root is a task reference, `workflow`, or "" for the task's id."""

    root: str
    field: str
    steps: tuple[Step, ...] = ()


class Empty(msgspec.Struct, frozen=True):
    """`${}`: the empty string."""


class Computed(msgspec.Struct, frozen=True):
    """A reference some of whose path is itself computed. Its head is literal, so what it refers to is known."""

    pieces: tuple[str | Reference | Computed | Empty, ...]


class Embedded(msgspec.Struct, frozen=True):
    """A string with text around its references. Texts are escaped already, without their quotes."""

    pieces: tuple[bytes | Reference | Computed | Empty, ...]


Part = bytes | Reference | Computed | Empty | Embedded


class Template(msgspec.Struct, frozen=True):
    """A JSON value with expressions in its strings. What it mentions is said by its fields, defaults included; the
    source alone doesn't tell (a dollar may be an escape, a field be given in brackets)."""

    source: bytes  # without white space
    references: tuple[str, ...] = ()  # task reference names it mentions, each once; `step` is not one
    uses_variables: bool = False
    uses_step: bool = False
    workflow_fields: tuple[str, ...] = ()  # `workflow.<field>` that it mentions, each once
    reads_task_input: bool = False  # whether it may read the input of a task
    parts: tuple[Part, ...] = ()  # none: no expressions, the source is the value
    defaults: tuple[tuple[str, Template], ...] = ()  # take the place of fields that are absent or resolve to null
    names_secrets: bool = False  # by texts in it, which stay as they are
