"""Templates: JSON values with `${...}` in their strings, compiled to a flat list of texts and references.

``parse_template`` refuses what can never be resolved. ``resolve`` never raises, whatever the scope holds.
"""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache
from typing import Protocol

import msgspec

from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented, quoted
from orchestrator.engine.expressions.paths import PATH_CHARACTERS_MAX, PathInvalid, follow, parse_path
from orchestrator.engine.expressions.secret_names import FORM, NOT_HERE, is_secret_reference, written
from orchestrator.engine.expressions.template_model import (
    Computed,
    Embedded,
    Empty,
    Part,
    Reference,
    Template,
)
from orchestrator.engine.expressions.texts import (
    NULL,
    PAYLOAD_BYTES_MAX,
    JsonInvalid,
    assemble_object,
    check_json,
    compact,
    dump_string,
    elements_of,
    fields_of,
    is_null,
    put_if_absent,
    text_of,
    value_of,
)

EXPRESSIONS_MAX = 1000  # in one template
NESTING_MAX = 8  # of `${...${...}...}`

_SEEN_OF_WORKFLOW = frozenset(
    "input output status workflowId parentWorkflowId parentWorkflowTaskId workflowType version correlationId"
    " reasonForIncompletion schemaVersion variables".split()
)
_SEEN_OF_TASK = frozenset(
    "input output status taskType referenceTaskName retryCount correlationId pollCount taskDefName scheduledTime"
    " startTime endTime workflowInstanceId taskId reasonForIncompletion callbackAfterSeconds workerId iteration"
    " subWorkflowId".split()
)
# What Conductor's executions and tasks have besides. Its expressions do not see them: they are null there, and here.
WORKFLOW_FIELDS = _SEEN_OF_WORKFLOW.union(
    "createTime startTime updateTime updatedTime endTime lastRetriedTime createdBy updatedBy ownerApp priority event"
    " taskToDomain tasks workflowName workflowVersion workflowDefinition reRunFromWorkflowId failedReferenceTaskNames"
    " failedTaskNames failedTaskId previousStatus history idempotencyKey rateLimitKey rateLimited"
    " externalInputPayloadStoragePath externalOutputPayloadStoragePath".split()
)
TASK_FIELDS = _SEEN_OF_TASK.union(
    "seq updateTime firstStartTime firstScheduledTime startDelayInSeconds retried executed retriedTaskId"
    " responseTimeoutSeconds workflowType workflowTask workflowPriority domain callbackFromWorker callbackAfterMs"
    " parentTaskId rateLimitPerFrequency rateLimitFrequencyInSeconds executionNameSpace isolationGroupId"
    " subworkflowChanged executionMetadata runtimeMetadata externalInputPayloadStoragePath"
    " externalOutputPayloadStoragePath".split()
)
STEP_FIELDS = frozenset({"input", "output"})

_SPACE = " \t\r\n"
_TASK_ID = "CPEWF_TASK_ID"
_ROOTS = frozenset({"workflow", "step"})
# What of an expression is literal when the rest is computed: `root.` or `root[`, or better `root.field.`
_LITERAL_ROOT = re.compile(r"([^.\[\]]+)[.\[]")
_LITERAL_FIELD = re.compile(r"([^.\[\]]+)\.([^.\[\]]+)[.\[]")


class Scope(Protocol):
    """What expressions can refer to. Values are JSON texts; None is a root that does not exist."""

    has_blobs: bool
    """Whether values may stand for others that are kept outside the log."""

    def goes_into(self, value: bytes, reference: Reference) -> None:
        """The reference's path is about to be followed from the value. Only called if `has_blobs`."""

    def writes_out(self, value: bytes, part: Part) -> None:
        """The value is about to be a part of a text. Only called if `has_blobs`."""

    def workflow(self, field: str) -> bytes | None:
        """The JSON text of `workflow.<field>`: one of WORKFLOW_FIELDS."""

    def task(self, reference: str, field: str, wanted: str = "") -> bytes | None:
        """The JSON text of `<reference>.<field>` of the newest attempt: one of TASK_FIELDS.

        If only one field of its value is `wanted`, others may be left out.

        In the input of a compensation, the reference `step` is the record of the step: input or output.
        """

    def task_id(self) -> bytes | None:
        """The JSON text (a string) of the id of the task whose input is resolved."""


def resolve(template: Template, scope: Scope, most: int = PAYLOAD_BYTES_MAX) -> bytes:
    """The template's value in the scope. Untouched values keep their text.

    What expressions add is bounded: beyond `most` bytes further ones read as null. Such a result is itself
    larger than it may be, so whoever checks results refuses it.
    """
    parts = template.parts
    if not parts:
        value = template.source
    elif len(parts) == 1:
        part = parts[0]
        value = part if isinstance(part, bytes) else _read(part, scope, most)
    else:
        value = _join(parts, scope, most)
    return _fill(template.defaults, value, scope, most) if template.defaults else value


def resolve_value(template: Template, scope: Scope) -> object:
    """The template's value as Python values; numbers that are not small integers stay a msgspec.Raw."""
    return value_of(resolve(template, scope))


def overlay_template(template: Template, defaults: Template) -> Template:
    """Two templates of objects as one: fields that the first lacks, or that are null in it, come from the second."""
    raw = fields_of(defaults.source)
    if not raw:
        return template
    if not template.parts and not defaults.parts:
        return Template(put_if_absent(raw, template.source))
    return msgspec.structs.replace(
        template,
        references=tuple(dict.fromkeys(template.references + defaults.references)),
        uses_variables=template.uses_variables or defaults.uses_variables,
        uses_step=template.uses_step or defaults.uses_step,
        workflow_fields=tuple(dict.fromkeys(template.workflow_fields + defaults.workflow_fields)),
        reads_task_input=template.reads_task_input or defaults.reads_task_input,
        defaults=tuple((key, parse_template(value, key)) for key, value in raw.items()),
    )


def parse_template(
    raw: bytes,
    path: str,
    names: Container[str] | None = None,
    step: bool = False,
    no_secrets: str = NOT_HERE,
    sign: str = "",
) -> Template:
    """Compiles a JSON text. `names`: the task references that exist, if known; `step`: whether `step` does.

    `no_secrets`: why no secret may be named, "" if one may; `sign`: what marks the places where one is (see
    ``secret_names``).
    """
    try:
        check_json(raw)
    except JsonInvalid as error:
        raise DefinitionInvalid(path, str(error)) from None
    source = compact(raw)
    parser = _Parser(names, step, no_secrets, sign)
    parser.value(source, path)
    return Template(
        source,
        references=tuple(parser.references),
        uses_variables="variables" in parser.workflow_fields,
        uses_step=parser.uses_step,
        workflow_fields=tuple(parser.workflow_fields),
        reads_task_input=parser.reads_task_input,
        parts=parser.finish(),
        names_secrets=parser.names_secrets,
    )


@lru_cache(maxsize=64)
def signed_template(template: Template, sign: str) -> Template:
    """The same with signs where it names secrets. It was parsed before, so nothing is wrong with it."""
    signed = parse_template(template.source, "", None, step=True, no_secrets="", sign=sign)
    return msgspec.structs.replace(signed, defaults=template.defaults)


def _read(part: Reference | Computed | Empty | Embedded, scope: Scope, most: int) -> bytes:
    return _read_embedded(part, scope, most) if isinstance(part, Embedded) else _read_one(part, scope)


def _read_one(part: Reference | Computed | Empty, scope: Scope) -> bytes:
    if isinstance(part, Reference):
        return _read_reference(part, scope)
    if isinstance(part, Empty):
        return b'""'
    body = "".join([piece if isinstance(piece, str) else text_of(_read_text(piece, scope)) for piece in part.pieces])
    reference = _parse_computed(body) if len(body) <= PATH_CHARACTERS_MAX else None
    return NULL if reference is None else _read_reference(reference, scope)


def _read_text(part: Reference | Computed | Empty, scope: Scope) -> bytes:
    """What is to be a part of a text."""
    value = _read_one(part, scope)
    if scope.has_blobs:
        scope.writes_out(value, part)
    return value


def _read_reference(reference: Reference, scope: Scope) -> bytes:
    root, steps = reference.root, reference.steps
    if root == "workflow":
        value = scope.workflow(reference.field)
    elif root:
        wanted = steps[0] if steps else ""
        value = scope.task(root, reference.field, wanted if isinstance(wanted, str) else "")
    else:
        value = scope.task_id()
    if value is not None and steps:
        if scope.has_blobs:
            scope.goes_into(value, reference)
        value = follow(value, steps)
    return NULL if value is None else value


def _read_embedded(embedded: Embedded, scope: Scope, room: int) -> bytes:
    written = [b'"']
    for piece in embedded.pieces:
        if isinstance(piece, bytes):
            written.append(piece)
        elif room >= 0:
            text = _escaped_text(_read_text(piece, scope))
            room -= len(text)
            written.append(text)
    written.append(b'"')
    return b"".join(written)


def _join(parts: tuple[Part, ...], scope: Scope, most: int) -> bytes:
    written = []
    room = most
    for part in parts:
        if isinstance(part, bytes):
            written.append(part)
        elif room < 0:
            written.append(NULL)
        else:
            piece = _read(part, scope, most)
            room -= len(piece)
            written.append(piece)
    return b"".join(written)


def _fill(defaults: tuple[tuple[str, Template], ...], value: bytes, scope: Scope, most: int) -> bytes:
    fields = fields_of(value)
    room = most - len(value)
    for key, default in defaults:
        if room >= 0 and (key not in fields or is_null(fields[key])):
            fields[key] = resolve(default, scope, most)
            room -= len(fields[key])
    return assemble_object(fields.items())


def _escaped_text(value: bytes) -> bytes:
    value = value.strip(b" \t\r\n")
    first = value[:1]
    if first == b'"':
        return value[1:-1]
    if first in (b"{", b"["):
        return dump_string(compact(value).decode("utf-8"))[1:-1]
    return value


@lru_cache(maxsize=1024)
def _parse_computed(body: str) -> Reference | None:
    try:
        return _parse_reference(body.strip(_SPACE))
    except PathInvalid:
        return None


def _parse_reference(body: str) -> Reference:
    if body == _TASK_ID:
        return Reference("", "taskId")
    steps = parse_path(body)
    root = steps[0]
    if not isinstance(root, str):
        raise PathInvalid("it must begin with 'workflow' or the reference name of a task")
    if len(steps) == 1:
        raise PathInvalid(
            f"{quoted(root)} alone can't be referred to, nor can the server's environment; name a field, like"
            f" {quoted(root + '.output')}",
            unimplemented=True,
        )
    field = steps[1]
    if not isinstance(field, str):
        raise PathInvalid(f"{quoted(root)} must be followed by the name of a field", unimplemented=True)
    if root == "workflow" and field in ("env", "secrets"):
        raise PathInvalid(FORM)
    known = {"workflow": WORKFLOW_FIELDS, "step": STEP_FIELDS}.get(root, TASK_FIELDS)
    if field not in known:
        seen = {"workflow": _SEEN_OF_WORKFLOW, "step": STEP_FIELDS}.get(root, _SEEN_OF_TASK)
        raise PathInvalid(f"{quoted(root)} has no field {quoted(field)}; it has {', '.join(sorted(seen))}")
    return Reference(root, field, steps[2:])


class _Parser:
    """Writes the parts of one template, and notes what they refer to."""

    def __init__(self, names: Container[str] | None, step: bool, no_secrets: str, sign: str) -> None:
        self.references: dict[str, None] = {}
        self.workflow_fields: dict[str, None] = {}
        self.reads_task_input = False
        self.uses_step = False
        self.names_secrets = False
        self._no_secrets = no_secrets
        self._sign = sign
        self._names = names
        self._step = step
        self._parts: list[Part] = []
        self._texts: list[bytes] = []
        self._expressions = 0

    def finish(self) -> tuple[Part, ...]:
        if not self._expressions and not self._parts:
            return ()
        self._end_text()
        return tuple(self._parts)

    def value(self, raw: bytes, path: str) -> None:
        first = raw[:1]
        # A dollar may also be written as an escape.
        if b"$" not in raw and b"\\u0" not in raw:
            self._texts.append(raw)
        elif first == b"{":
            self._object(raw, path)
        elif first == b"[":
            for position, element in enumerate(elements_of(raw)):
                self._texts.append(b"," if position else b"[")
                self.value(element, f"{path}[{position}]")
            self._texts.append(b"]")
        elif first == b'"':
            self._string(raw, path)
        else:
            self._texts.append(raw)

    def _object(self, raw: bytes, path: str) -> None:
        separator = b"{"
        for key, value in fields_of(raw).items():
            self._texts.append(b"%b%b:" % (separator, dump_string(key)))
            self.value(value, f"{path}.{key}" if path else key)
            separator = b","
        self._texts.append(b"}" if separator == b"," else b"{}")

    def _string(self, raw: bytes, path: str) -> None:
        text = text_of(raw)
        if "${" not in text:
            self._texts.append(raw)
            return
        pieces = self._split(text, path, 1)
        if all(isinstance(piece, str) for piece in pieces):
            # Only escapes, such as $${x}: they make parts, since the source is not the value.
            self._end_text()
            self._parts.append(dump_string("".join([piece for piece in pieces if isinstance(piece, str)])))
            return
        self._end_text()
        if len(pieces) == 1 and not isinstance(pieces[0], str):
            self._parts.append(pieces[0])
            return
        escaped = [dump_string(piece)[1:-1] if isinstance(piece, str) else piece for piece in pieces]
        self._parts.append(Embedded(tuple(escaped)))

    def _end_text(self) -> None:
        if self._texts:
            self._parts.append(b"".join(self._texts))
            self._texts = []

    def _split(self, text: str, path: str, nesting: int) -> list[str | Reference | Computed | Empty]:
        pieces: list[str | Reference | Computed | Empty] = []
        literal: list[str] = []
        position = 0
        while (start := text.find("${", position)) >= 0:
            end = _closing(text, start)
            escaped = start > position and text[start - 1] == "$"
            if end < 0 and not escaped:
                raise DefinitionInvalid(path, "'${' is never closed; write '$${' for the characters themselves")
            end = start + 1 if end < 0 else end
            literal.append(text[position : start - 1 if escaped else start])
            if escaped:
                literal.append(text[start : end + 1])
            elif is_secret_reference(text[start + 2 : end].strip(_SPACE)):
                is_alone = nesting == 1 and start == 0 and end == len(text) - 1
                literal.append(self._secret(text[start + 2 : end], path, nesting, is_alone=is_alone))
            else:
                _add_literal(pieces, literal)
                pieces.append(self._expression(text[start + 2 : end], path, nesting))
            position = end + 1
        literal.append(text[position:])
        _add_literal(pieces, literal)
        return pieces

    def _expression(self, body: str, path: str, nesting: int) -> Reference | Computed | Empty:
        self._expressions += 1
        if self._expressions > EXPRESSIONS_MAX:
            raise DefinitionInvalid(path, f"one value may have {EXPRESSIONS_MAX} expressions")
        if nesting > NESTING_MAX:
            raise DefinitionInvalid(path, f"expressions may be nested {NESTING_MAX} deep")
        if not body.strip(_SPACE):
            return Empty()
        if "${" in body:
            return self._computed(body, path, nesting)
        return self._reference(body, path)

    def _secret(self, body: str, path: str, nesting: int, *, is_alone: bool) -> str:
        """The text that stands for it."""
        why_not = self._no_secrets or ("a secret can't be part of another expression" if nesting > 1 else "")
        text = "" if why_not else written(body.strip(_SPACE), self._sign, is_alone=is_alone)
        if not text:
            raise DefinitionInvalid(path, f"{quoted('${' + body + '}')}: {why_not or FORM}")
        self.names_secrets = True
        return text

    def _computed(self, body: str, path: str, nesting: int) -> Computed:
        pieces = self._split(body, path, nesting + 1)
        head = pieces[0].lstrip(_SPACE) if isinstance(pieces[0], str) else ""
        field, root = _LITERAL_FIELD.match(head), _LITERAL_ROOT.match(head)
        name = root.group(1).strip(_SPACE) if root else ""
        if not name or (field is None and name in _ROOTS):
            raise DefinitionInvalid(path, "what an expression refers to can't be computed, only the path from there")
        if field is not None:
            self._reference(field.group()[:-1], path)
        else:
            # Any field of the task, its input included.
            self._note(name, "input", path)
        return Computed(tuple(pieces))

    def _reference(self, body: str, path: str) -> Reference:
        try:
            reference = _parse_reference(body.strip(_SPACE))
        except PathInvalid as error:
            kind = DefinitionUnimplemented if error.unimplemented else DefinitionInvalid
            raise kind(path, f"{quoted('${' + body + '}')}: {error.message}") from None
        self._note(reference.root, reference.field, path)
        return reference

    def _note(self, root: str, field: str, path: str) -> None:
        if root == "workflow":
            self.workflow_fields[field] = None
        elif root == "step":
            if not self._step:
                raise DefinitionInvalid(path, "'step' can only be referred to in the input of a compensation")
            self.uses_step = True
        elif root:
            if self._names is not None and root not in self._names:
                raise DefinitionInvalid(path, f"there is no task with the reference name {quoted(root)}")
            self.references[root] = None
            self.reads_task_input = self.reads_task_input or field == "input"


def _add_literal(pieces: list[str | Reference | Computed | Empty], literal: list[str]) -> None:
    text = "".join(literal)
    literal.clear()
    if text:
        pieces.append(text)


def _closing(text: str, start: int) -> int:
    depth = 0
    position = start
    while position < len(text):
        if text.startswith("${", position):
            depth += 1
            position += 2
            continue
        if text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return -1
