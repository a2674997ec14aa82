"""Scripts, queries and schemas of users, evaluated outside of the node's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.engine.expressions import PayloadInvalid, check_json
from orchestrator.integrations.sandbox.pool import Pool
from orchestrator.integrations.sandbox.protocol import (
    Answer,
    AnyRequest,
    Limits,
    Query,
    QueryCheck,
    SchemaCheck,
    Script,
    ScriptCheck,
    Validation,
    Verdict,
)

SIZE = 4
WAITING_MAX = 1024

# The request, its answer, and how many seconds it took with all waiting.
Observer = Callable[[AnyRequest, Answer, float], None]


class SandboxUnavailable(Exception):
    """Nothing can be evaluated at the moment, which says nothing about what was to be checked."""


class Sandbox:
    """`size`: processes at most, each started when all others are busy. `waiting_max`: requests that may wait for one.

    Belongs to one event loop, whose thread must live as long as it does.
    """

    def __init__(self, *, size: int = SIZE, waiting_max: int = WAITING_MAX, limits: Limits | None = None,
                 observe: Observer | None = None) -> None:
        self.limits = limits or Limits()
        self._pool = Pool(self.limits, size, waiting_max)
        self._observe = observe

    @property
    def pids(self) -> list[int]:
        """The evaluator processes that there are now."""
        return self._pool.pids

    @property
    def processes_started_total(self) -> int:
        return self._pool.started_total

    async def script(self, source: str, input: bytes, *, body: bool = False, time_ms: int = 0) -> Answer:
        """JavaScript with `$` = `input`, a JSON text. `body`: it is a function's, and `return` gives the value."""
        return await self.evaluate(Script(source, input, body), time_ms)

    async def query(self, source: str, input: bytes, *, time_ms: int = 0) -> Answer:
        """jq. The value is the array of all results."""
        return await self.evaluate(Query(source, input), time_ms)

    async def validate(self, schema: str, input: bytes, *, quiet: bool = False, time_ms: int = 0) -> Answer:
        """The value is an array of sentences: the first violations of the schema, none if the input is valid.

        `quiet`: without what stands in the input.
        """
        return await self.evaluate(Validation(schema, input, quiet), time_ms)

    async def evaluate(self, request: AnyRequest, time_ms: int = 0) -> Answer:
        """Never raises but CancelledError. `time_ms` can only shorten the time limit; 0 leaves it as it is."""
        clock = asyncio.get_running_loop().time
        start = clock()
        answer = self._refused(request)
        if answer is None:
            most = self.limits.time_ms
            answer = _checked(await self._pool.ask(request, min(time_ms, most) if time_ms > 0 else most))
        if self._observe is not None:
            self._observe(request, answer, clock() - start)
        return answer

    async def check_script(self, source: str, *, body: bool = False) -> str | None:
        """Why it can't be run, None if it can. So do the other checks; all raise SandboxUnavailable."""
        return await self._check(ScriptCheck(source, body))

    async def check_jq(self, source: str) -> str | None:
        return await self._check(QueryCheck(source))

    async def check_schema(self, schema: str) -> str | None:
        return await self._check(SchemaCheck(schema))

    async def close(self) -> None:
        """Ends all processes, and returns when they are gone. What is asked for then is UNAVAILABLE."""
        await self._pool.close()

    async def _check(self, request: AnyRequest) -> str | None:
        answer = await self.evaluate(request)
        if answer.verdict is Verdict.UNAVAILABLE:
            raise SandboxUnavailable(answer.message)
        return None if answer.verdict is Verdict.VALUE else answer.message

    def _refused(self, request: AnyRequest) -> Answer | None:
        try:
            source_bytes = len(request.source.encode("utf-8"))
        except UnicodeEncodeError:
            return Answer(Verdict.ERROR, message="it has half of a surrogate pair, which is no character")
        if source_bytes > self.limits.source_bytes:
            message = f"it has {source_bytes} bytes, the limit is {self.limits.source_bytes}"
            return Answer(Verdict.TOO_LARGE, message=message)
        if isinstance(request, Script | Query | Validation) and len(request.input) > self.limits.input_bytes:
            message = f"its input has {len(request.input)} bytes, the limit is {self.limits.input_bytes}"
            return Answer(Verdict.TOO_LARGE, message=message)
        return None


def _checked(answer: Answer) -> Answer:
    """Before anybody decodes a value that an evaluator has sent, it is checked like what comes from outside."""
    try:
        if answer.value:
            check_json(answer.value)
    except PayloadInvalid as error:
        if error.limit:
            return Answer(Verdict.TOO_LARGE, message=f"the result can't be used: {error}")
        return Answer(Verdict.CRASHED, message=f"it has broken its evaluator: {error}")
    return answer
