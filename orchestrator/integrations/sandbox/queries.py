"""jq, by its own library.

Compiled queries are kept: compiling takes a hundred times as long as a small query. jq has no limits of its own, so
that what takes too long or too much ends the process. It keeps the text of numbers that a query does not calculate
with: an integer of 64 bits goes through unharmed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jq

from orchestrator.integrations.sandbox.protocol import Answer, Verdict, shortened
from orchestrator.integrations.sandbox.texts import well_formed

_KEPT_MAX = 64
_KEPT_CHARACTERS_MAX = 16 * 1024
# What would end a program of its own without a word is an error here.
_BEFORE = "def halt_error: error; def halt_error($code): error; "
# On a line of its own: the query may end in a comment. A pipe binds weakest of all, so it takes every result.
_AFTER = "\n| tojson"


class Queries:
    """`output_bytes` bounds the JSON of all results together."""

    def __init__(self, output_bytes: int) -> None:
        self._output_bytes = output_bytes
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self.evaluate(".", b"{}")  # what is loaded late is loaded now

    def evaluate(self, source: str, input: bytes) -> Answer:
        results: list[str] = []
        size = 2
        try:
            program = self._program(source)
            for text in program.input_text(well_formed(input).decode("utf-8")):
                results.append(text)
                size += len(text.encode("utf-8")) + 1
                if size > self._output_bytes:
                    self._kept.pop(source, None)  # it stands in the middle of its results
                    return Answer(Verdict.TOO_LARGE, message=f"the results are larger than {self._output_bytes} bytes")
        except ValueError as error:
            return _refused(error)
        return Answer(Verdict.VALUE, b"[" + ",".join(results).encode("utf-8") + b"]")

    def check(self, source: str) -> Answer:
        try:
            self._program(source)
        except ValueError as error:
            return _refused(error)
        return Answer(Verdict.VALUE)

    def _program(self, source: str) -> Any:
        program = self._kept.get(source)
        if program is None:
            jq.compile(source)  # by itself: the message is about what was written
            program = jq.compile(_BEFORE + source + _AFTER)
            if len(source) <= _KEPT_CHARACTERS_MAX:
                self._kept[source] = program
                if len(self._kept) > _KEPT_MAX:
                    self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(source)
        return program


def _refused(error: ValueError) -> Answer:
    return Answer(Verdict.ERROR, message=shortened(str(error).removeprefix("jq: error: ")))
