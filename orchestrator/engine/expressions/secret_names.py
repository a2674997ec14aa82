"""`${workflow.secrets.NAME}` and `${workflow.secrets.NAME.path}`: what stands for a secret wherever it is read.

`${workflow.env.NAME}` stands likewise for a variable of the environment of the node that hands a task out.

Only what the author of a definition wrote names a secret. The same text in somebody's data does not, and looks alike
once it is part of an input; so an attempt remembers where in its input the author's references stand (*marks*). They
are found by writing the input once more, with signs in their place that do not occur in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from orchestrator.engine.expressions.paths import follow, parse_path
from orchestrator.engine.expressions.texts import JsonInvalid, check_json, dump_string, text_of

_NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_-]{0,99}"
_STEP_PATTERN = r"(?:\.[A-Za-z0-9_-]+|\[[0-9]{1,9}\])"
_NAME = re.compile(_NAME_PATTERN)
NAME_RULE = "the name of a secret has up to 100 letters, digits, '_' and '-', and begins with a letter or '_'"

_HEAD = re.compile(r"workflow[ ]*\.[ ]*(?:secrets|env)\b")
_BODY = re.compile(rf"workflow\.(secrets|env)\.({_NAME_PATTERN}{_STEP_PATTERN}{{0,20}})")
_WRITTEN = re.compile(
    rb"\$\{workflow\.(secrets|env)\.(%b)(%b*)\}" % (_NAME_PATTERN.encode(), _STEP_PATTERN.encode())
)
FORM = "it is written as ${workflow.secrets.NAME}, or ${workflow.secrets.NAME.field} of one that is JSON; or with env"
NOT_HERE = "secrets and env are named in the inputParameters of a SIMPLE, HTTP or GRPC task, and nowhere else"
UNREGISTERED = "only a registered definition may name secrets and values of runtimeMetadata"

_NUMBERED = re.compile(rb"@[0-9]{1,7}")
ALONE, AMONG = "!", "."


class SecretUnfit(Exception):
    """The value has not what is asked of it. The message has nothing of the value."""


def is_secret_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def is_secret_reference(body: str) -> bool:
    """Whether the inside of an expression means a secret, in the right form or not."""
    return _HEAD.match(body) is not None


def written(body: str, sign: str, *, is_alone: bool) -> str:
    """What stands for it in a text; "" if it is not in the right form. `sign`: "", or what makes it a mark."""
    match = _BODY.fullmatch(body)
    if match is None:
        return ""
    dot = sign + (ALONE if is_alone else AMONG) if sign else "."
    return "${workflow." + match[1] + dot + match[2] + "}"


# --- marks


def sign_for(text: bytes) -> str:
    """One that does not occur in the text."""
    taken = set(_NUMBERED.findall(text))
    number = 0
    while b"@%d" % number in taken:
        number += 1
    return f"@{number}"


def marks_of(signed: bytes, sign: str) -> tuple[bytes, tuple[int, ...]]:
    """The text without signs, and where in it the secrets stand. One that is all of a string begins at its quote."""
    plain: list[bytes] = []
    marks: list[int] = []
    length = position = 0
    for match in _signed(sign).finditer(signed):
        before = signed[position : match.start()]
        literal = b"${workflow.%b.%b}" % (match[1], match[3])
        length += len(before)
        marks.append(length - (match[2] == ALONE.encode()))
        plain += (before, literal)
        length += len(literal)
        position = match.end()
    plain.append(signed[position:])
    return b"".join(plain), tuple(marks)


@lru_cache(maxsize=64)
def _signed(sign: str) -> re.Pattern[bytes]:
    return re.compile(rb"\$\{workflow\.(secrets|env)%b([!.])([^}]*)\}" % sign.encode())


def names_at(text: bytes, marks: tuple[int, ...]) -> tuple[str, ...]:
    """The secrets that are named there, each once."""
    found = [_at(text, mark)[1] for mark in marks]
    return tuple(dict.fromkeys(match[2].decode() for match in found if match[1] == b"secrets"))


def fill_in(
    text: bytes, marks: tuple[int, ...], secret: Callable[[str], str], variable: Callable[[str], str]
) -> tuple[bytes, tuple[str, ...]]:
    """(the text with the values in the places of their references, those of secrets). Raises SecretUnfit.

    `secret` and `variable` give the value of a name.

    A whole secret is text, whatever is in it; of what is JSON a part that is all of a string keeps its type.
    """
    filled: list[bytes] = []
    used: list[str] = []
    position = 0
    for mark in marks:
        is_alone, match = _at(text, mark)
        is_secret, name, path = match[1] == b"secrets", match[2].decode(), match[3].decode()
        value = secret(name) if is_secret else variable(name)
        found = dump_string(value) if not path else _part(name, value, path)
        used += [value, text_of(found)] if is_secret else []
        filled += (text[position:mark], found if is_alone else dump_string(text_of(found))[1:-1])
        position = match.end() + is_alone
    filled.append(text[position:])
    return b"".join(filled), tuple(dict.fromkeys(used))


def _at(text: bytes, mark: int) -> tuple[bool, re.Match[bytes]]:
    is_alone = text[mark : mark + 1] == b'"'
    match = _WRITTEN.match(text, mark + is_alone)
    if match is None:
        raise SecretUnfit("the input does not name a secret where it should")
    return is_alone, match


def _part(name: str, value: str, path: str) -> bytes:
    text = value.encode()
    try:
        check_json(text)
    except JsonInvalid:
        raise SecretUnfit(f"'{name}' is not JSON, of which '{path}' could be a part") from None
    # What is behind the name is a path in the value: `.a[0]`.
    found = follow(text, parse_path(f"value{path}")[1:])
    if found is None:
        raise SecretUnfit(f"'{name}' has no '{path}'")
    return found
