"""Paths into JSON texts: `a.b[0]['c d']`, `[-1]`, `[*]`, `.*`, `..name` and `.length()`, as JsonPath means them.

What a path finds is cut out of the text, never decoded and printed again. A path that finds nothing gives None; one
with a wildcard gives an array of whatever it finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.engine.expressions.template_model import Function, Step, Wildcard
from orchestrator.engine.expressions.texts import assemble_array, dump_string, elements_of, field_of, fields_of

PATH_CHARACTERS_MAX = 4096
STEPS_MAX = 64


_FUNCTIONS = {member.value: member for member in Function}

_BRACKET = re.compile(r"""\[[ ]*(?:(-?[0-9]{1,9})|(\*)|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")[ ]*\]""", re.DOTALL)
_NAME = re.compile(r"[^.\[\]]+")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NOT_BUILT = re.compile(r"\[[^\]]*[?:,(@][^\]]*\]?")


class PathInvalid(Exception):
    """The text is no path; `unimplemented` if JsonPath would take it."""

    def __init__(self, message: str, unimplemented: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.unimplemented = unimplemented


def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a path, the head included."""
    if len(text) > PATH_CHARACTERS_MAX:
        raise PathInvalid(f"a path may have {PATH_CHARACTERS_MAX} characters")
    steps: list[Step] = []
    position = 0
    while position < len(text):
        position = _parse_step(text, position, steps)
    if not steps:
        raise PathInvalid("the path is empty")
    if len(steps) > STEPS_MAX:
        raise PathInvalid(f"a path may have {STEPS_MAX} steps")
    if any(isinstance(step, Function) for step in steps[:-1]):
        raise PathInvalid("a path ends with its function")
    if steps.count(Wildcard.DESCEND) > 1:
        raise PathInvalid("only one '..' per path is supported", unimplemented=True)
    return tuple(steps)


def _parse_step(text: str, position: int, steps: list[Step]) -> int:
    if text.startswith("..", position):
        steps.append(Wildcard.DESCEND)
        position += 2
    elif text.startswith(".", position):
        position += 1
        if text.startswith("[", position):
            raise PathInvalid("'.' must be followed by a name")
    elif steps and not text.startswith("[", position):
        raise PathInvalid("'.' or '[' is missing after ']'")
    if text.startswith("[", position):
        return _parse_bracket(text, position, steps)
    match = _NAME.match(text, position)
    if match is None:
        raise PathInvalid("'.' must be followed by a name")
    name = match.group().strip(" \t\r\n")
    if name in _FUNCTIONS and steps:
        steps.append(_FUNCTIONS[name])
        return match.end()
    if name.endswith(")"):
        built = ", ".join(_FUNCTIONS)
        raise PathInvalid(f"of the functions in paths {built} are supported", unimplemented=True)
    if not name:
        raise PathInvalid("a name in the path is empty")
    steps.append(Wildcard.ALL if name == "*" else name)
    return match.end()


def _parse_bracket(text: str, position: int, steps: list[Step]) -> int:
    match = _BRACKET.match(text, position)
    if match is None:
        if _NOT_BUILT.match(text, position):
            raise PathInvalid("filters, slices and unions in paths are not supported", unimplemented=True)
        raise PathInvalid("'[' must be followed by a number, a quoted name or '*', and ']'")
    index, star, single, double = match.groups()
    if index is not None:
        steps.append(int(index))
    elif star is not None:
        steps.append(Wildcard.ALL)
    else:
        steps.append(_ESCAPE.sub(r"\1", single if single is not None else double))
    return match.end()


def follow(value: bytes, steps: tuple[Step, ...]) -> bytes | None:
    """What the steps find in the value."""
    for position, step in enumerate(steps):
        found: bytes | None
        if isinstance(step, Function):
            return _apply(step, value)
        found = None if isinstance(step, Wildcard) else _child(value, step)
        if found is None:
            rest = steps[position:]
            if not any(isinstance(later, Wildcard) for later in rest):
                return None
            # A path with a wildcard further on finds an empty list, as in JsonPath.
            found = assemble_array(_follow_all(value, rest) if isinstance(step, Wildcard) else [])
            last = rest[-1]
            return _apply(last, found) if isinstance(last, Function) else found
        value = found
    return value


def _follow_all(value: bytes, steps: tuple[Step, ...]) -> list[bytes]:
    found = [value]
    for step in steps:
        if step is Wildcard.DESCEND:
            found = [inner for outer in found for inner in _containers(outer)]
        elif isinstance(step, Wildcard):
            found = [child for outer in found for child in _children(outer)]
        elif not isinstance(step, Function):
            children = [_child(outer, step) for outer in found]
            found = [child for child in children if child is not None]
    return found


def _apply(function: Function, value: bytes) -> bytes | None:
    """None: it has no meaning for such a value."""
    is_object, is_array = value[:1] == b"{", value[:1] == b"["
    match function:
        case Function.LENGTH | Function.SIZE if is_object or is_array:
            return str(len(fields_of(value) if is_object else elements_of(value))).encode("ascii")
        case Function.KEYS if is_object:
            return assemble_array([dump_string(key) for key in fields_of(value)])
        case Function.FIRST if is_array:
            return _child(value, 0)
        case Function.LAST if is_array:
            return _child(value, -1)
    return None


def _child(value: bytes, step: str | int) -> bytes | None:
    if isinstance(step, str):
        return field_of(value, step)
    elements = elements_of(value)
    if not -len(elements) <= step < len(elements):
        return None
    return elements[step]


def _children(value: bytes) -> list[bytes]:
    children = fields_of(value).values() if value[:1] == b"{" else elements_of(value)
    return list(children)


def _containers(value: bytes) -> Iterator[bytes]:
    """The value and everything below it that has children, outer ones first."""
    if value[:1] in (b"{", b"["):
        yield value
        for child in _children(value):
            yield from _containers(child)
