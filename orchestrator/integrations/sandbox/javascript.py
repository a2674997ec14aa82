"""JavaScript, by QuickJS. Each evaluation has an engine of its own, so that no script sees what another has left.

An engine costs about as much as the work of a small script (0.2 ms), which is why there is nothing to share or to
clean. Its limits of time, memory and stack are its own; what it does not notice in time, the kernel ends.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import quickjs

from orchestrator.integrations.sandbox.protocol import Answer, Verdict, shortened
from orchestrator.integrations.sandbox.texts import well_formed

_FOLDER = Path(__file__).parent
_RUN = (_FOLDER / "run.js").read_text(encoding="utf-8")
_JAVA = (_FOLDER / "java.js").read_text(encoding="utf-8")
# Far below what a main thread has: deep recursion must end in an exception.
_STACK_BYTES = 512 * 1024
# `Object.values(x)` and the like are the language's own.
_OF_THE_LANGUAGE = r"(?<!\bObject)(?<!\bReflect)(?<!\bArray)"


class JavaScript:
    """Scripts one by one. `memory_bytes` bounds the engine's heap, `output_bytes` the JSON of a value."""

    def __init__(self, memory_bytes: int, output_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._output_bytes = output_bytes
        names = quickjs.Context().eval(_JAVA + ".names").split(",")
        called = "|".join(sorted(names, key=len, reverse=True))
        self._java_call = re.compile(
            rf"{_OF_THE_LANGUAGE}\.\s*({called})\s*(?:\?\.\s*)?\(|\[\s*[\"']({called})[\"']\s*\]\s*(?:\?\.\s*)?\("
        )
        self.evaluate("1", b"{}", body=False, time_ms=1_000)  # what is loaded late is loaded now

    def evaluate(self, source: str, input: bytes, *, body: bool, time_ms: int) -> Answer:
        context = self._context(time_ms)
        try:
            java = self._java_style(context, source)
            document = well_formed(input).decode("utf-8")
            runner = context.eval(_RUN)
            text: str = runner("runScript", document, source, body, self._output_bytes, java)
            outcome = runner("outcome")
        except quickjs.JSException as error:
            return _failed(error, time_ms)
        if outcome == "thrown":
            return _thrown(text, time_ms)
        value = well_formed(text.encode("utf-8"))
        if outcome == "too large" or len(value) > self._output_bytes:
            return Answer(Verdict.TOO_LARGE, message=f"the result is larger than {self._output_bytes} bytes")
        return Answer(Verdict.VALUE, value)

    def check(self, source: str, *, body: bool, time_ms: int) -> Answer:
        try:
            found: str = self._context(time_ms).eval(_RUN)("checkScript", source, body)
        except quickjs.JSException as error:
            return _failed(error, time_ms)
        return _thrown(found, time_ms) if found else Answer(Verdict.VALUE)

    def _context(self, time_ms: int) -> Any:
        context = quickjs.Context()
        context.set_memory_limit(self._memory_bytes)
        context.set_max_stack_size(_STACK_BYTES)
        context.set_time_limit(time_ms / 1000)
        return context

    def _java_style(self, context: Any, source: str) -> Any:
        """What `run` needs for a script that calls methods of Java's collections, None for all others."""
        called = {name for found in self._java_call.findall(source) for name in found if name}
        return context.eval(_JAVA + ".lend")(",".join(sorted(called))) if called else None


def _thrown(message: str, time_ms: int) -> Answer:
    """Of what a script has thrown, or could not be caught in it."""
    if message.startswith("InternalError: interrupted"):
        return Answer(Verdict.TIME, message=f"it took longer than {time_ms} ms")
    if message.startswith("InternalError: out of memory"):
        return Answer(Verdict.MEMORY, message="out of memory")
    if message == "InternalError: null":
        return Answer(Verdict.MEMORY, message="out of memory, or null was thrown")
    return Answer(Verdict.ERROR, message=shortened(message))


def _failed(error: quickjs.JSException, time_ms: int) -> Answer:
    message = str(error).partition("\n")[0]
    return _thrown("InternalError: null" if message == "null" else message, time_ms)
