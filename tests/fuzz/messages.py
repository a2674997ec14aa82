"""Random messages of any type, by its descriptor: what is said is often nonsense, and sometimes nearly right."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

DEPTH_MAX = 5
REPEATED_MAX = 4
JSON = (b"{}", b"{", b"[]", b"null", b'{"x": 1}', b'"text"', b"1e999", b'{"a": {"b": [1, 2, {"c": null}]}}',
        b"\xff\xfe",
        b'{"x": "${workflow.input.x}"}', b'{"x": ' * 80 + b"1" + b"}" * 80, b'{"\\ud800": 1}', b"-0", b'{"x": NaN}')
DEFINITION = (b'{"name": "fuzzed", "version": 1, "schemaVersion": 2, "tasks": [{"name": "t", "taskReferenceName": "t", '
              b'"type": "SIMPLE", "inputParameters": {"x": "${workflow.input.x}"}}], "timeoutSeconds": 0, '
              b'"timeoutPolicy": "ALERT_ONLY"}')
TEXTS = ("", "a", "fuzzed", "default", "t", "wf-1", "wf-2", "*", "'", '"', "a b", "$system", "system/http", "x" * 5_000,
         "\u0000", "\U0001f600", "\u202e", "../../etc/passwd", "status = RUNNING", "workflowId = 'wf-1' AND (",
         "0 0 * * * *", "UTC", "conductor:fuzzed", "127.0.0.1:1", "-1", "true", "${workflow.input.x}", "now()", "[1]",
         "\n", "%s%n")
NUMBERS = (0, 1, 2, 3, 10, 100, 1_000, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1, -1, -(2**63))
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


class Messages:
    """Makes them with one die, so that a seed tells all."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def fill(self, message: Message, depth: int = 0) -> Message:
        """Of each oneof at most one field."""
        dice = self._dice
        taken: set[str] = set()
        for field in message.DESCRIPTOR.fields:
            if dice.random() < 0.3:
                continue
            group = field.containing_oneof
            if group is not None and group.name in taken:
                continue
            if group is not None:
                if len(group.fields) > 1 and dice.random() < 1 - 1 / len(group.fields):
                    continue
                taken.add(group.name)
            self._set(message, field, depth)
        return message

    def _set(self, message: Any, field: Any, depth: int) -> None:
        dice = self._dice
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            value = field.message_type.fields_by_name["value"]
            for _ in range(dice.randrange(3)):
                key = self._text()
                if value.message_type is not None:
                    self.fill(entries[key], depth + 1)
                else:
                    entries[key] = self._scalar(value)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(dice.randrange(REPEATED_MAX)):
                if field.message_type is None:
                    values.append(self._scalar(field))
                elif depth < DEPTH_MAX:
                    self.fill(values.add(), depth + 1)
        elif field.message_type is None:
            setattr(message, field.name, self._scalar(field))
        elif depth < DEPTH_MAX:
            child = getattr(message, field.name)
            child.SetInParent()
            self.fill(child, depth + 1)

    def _scalar(self, field: Any) -> Any:
        dice = self._dice
        kind = field.cpp_type
        if kind in _RANGES:
            low, high = _RANGES[kind]
            return min(max(dice.choice(NUMBERS), low), high)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return dice.choice([*(value.number for value in field.enum_type.values), 99])
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return dice.random() < 0.5
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return dice.choice((0.0, -1.5, float("nan"), float("inf")))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return dice.choice((*JSON, DEFINITION, dice.randbytes(dice.randrange(40))))
        return self._text()

    def _text(self) -> str:
        dice = self._dice
        # Names that are there more often than others.
        return dice.choice(TEXTS[:7]) if dice.random() < 0.6 else dice.choice(TEXTS)
