"""System work of the sandbox: scripts, queries and schemas as attempts with an outcome.

| kind | output | if it fails |
|---|---|---|
| SCRIPT | `{"result": value}` | FAILED_WITH_TERMINAL_ERROR, `{"error": message}` |
| JQ | `{"result": first or null, "resultList": [...]}` | FAILED, `{"error": message}` |
| SCHEMA | none | FAILED_WITH_TERMINAL_ERROR, SCHEMA_VIOLATION and what is violated where |

What could not be evaluated at all for lack of an evaluator is FAILED and SANDBOX_UNAVAILABLE: another try may succeed.
"""

from __future__ import annotations

import logging

import msgspec

from orchestrator.engine.expressions import (
    NULL,
    PayloadInvalid,
    assemble_object,
    check_payload,
    dump_string,
    elements_of,
)
from orchestrator.integrations.sandbox.protocol import Answer, Verdict
from orchestrator.integrations.sandbox.sandbox import Sandbox, SandboxUnavailable
from orchestrator.integrations.work import Ended, Kind, Outcome, Source, Work

logger = logging.getLogger(__name__)

KINDS = frozenset({Kind.SCRIPT, Kind.JQ, Kind.SCHEMA})

_ERROR_CODES = {
    Verdict.TIME: "EVALUATION_TIMEOUT",
    Verdict.MEMORY: "EVALUATION_OUT_OF_MEMORY",
    Verdict.TOO_LARGE: "EVALUATION_TOO_LARGE",
    Verdict.CRASHED: "EVALUATION_CRASHED",
    Verdict.UNAVAILABLE: "SANDBOX_UNAVAILABLE",
}


class _Expression(msgspec.Struct, frozen=True):
    expression: str
    body: bool = False


class _Schema(msgspec.Struct, frozen=True):
    schema: msgspec.Raw
    quiet: bool = False


class SandboxExecutor:
    """Executor of the KINDS. `close` closes the sandbox, too."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def execute(self, work: Work) -> Outcome:
        try:
            match work.kind:
                case Kind.SCRIPT:
                    return await self._script(work)
                case Kind.JQ:
                    return await self._query(work)
                case Kind.SCHEMA:
                    return await self._schema(work)
        except msgspec.MsgspecError as error:
            return _failed(Ended.FAILED_WITH_TERMINAL_ERROR, "PARAMETERS_INVALID", f"its parameters are wrong: {error}")
        return _failed(Ended.FAILED_WITH_TERMINAL_ERROR, "KIND_UNKNOWN", f"{work.kind} is not evaluated here")

    async def check(self, source: Source) -> str | None:
        """Why it can't be run; None if it can, or if there is no telling at the moment."""
        try:
            match source.kind:
                case Kind.SCRIPT:
                    return await self._sandbox.check_script(source.text, body=source.body)
                case Kind.JQ:
                    return await self._sandbox.check_jq(source.text)
                case Kind.SCHEMA:
                    return await self._sandbox.check_schema(source.text)
        except SandboxUnavailable as error:
            logger.warning("a script was not looked at: %s", error)
        return None

    async def close(self) -> None:
        await self._sandbox.close()

    async def _script(self, work: Work) -> Outcome:
        given = msgspec.json.decode(work.parameters, type=_Expression)
        answer = await self._sandbox.script(
            given.expression, work.input, body=given.body, time_ms=work.timeout_ms)
        if answer.verdict is not Verdict.VALUE:
            return _unanswered(answer, Ended.FAILED_WITH_TERMINAL_ERROR, "SCRIPT_FAILED")
        return self._completed(assemble_object([("result", answer.value)]), Ended.FAILED_WITH_TERMINAL_ERROR)

    async def _query(self, work: Work) -> Outcome:
        given = msgspec.json.decode(work.parameters, type=_Expression)
        answer = await self._sandbox.query(given.expression, work.input, time_ms=work.timeout_ms)
        if answer.verdict is not Verdict.VALUE:
            return _unanswered(answer, Ended.FAILED, "QUERY_FAILED")
        results = elements_of(answer.value)
        first = results[0] if results else NULL
        return self._completed(assemble_object([("result", first), ("resultList", answer.value)]), Ended.FAILED)

    async def _schema(self, work: Work) -> Outcome:
        given = msgspec.json.decode(work.parameters, type=_Schema)
        answer = await self._sandbox.validate(
            bytes(given.schema).decode("utf-8"), work.input, quiet=given.quiet, time_ms=work.timeout_ms)
        if answer.verdict is not Verdict.VALUE:
            return msgspec.structs.replace(
                _unanswered(answer, Ended.FAILED_WITH_TERMINAL_ERROR, "SCHEMA_INVALID"), output=b"")
        violations = msgspec.json.decode(answer.value, type=list[str])
        if violations:
            return Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, error_code="SCHEMA_VIOLATION",
                           reason="; ".join(violations))
        return Outcome(ended=Ended.COMPLETED, output=b"{}")

    def _completed(self, output: bytes, otherwise: Ended) -> Outcome:
        """The limits of a payload are those of the whole output."""
        try:
            check_payload(output, self._sandbox.limits.output_bytes)
        except PayloadInvalid as error:
            return _failed(otherwise, "EVALUATION_TOO_LARGE", f"the output can't be stored: {error}")
        return Outcome(ended=Ended.COMPLETED, output=output)


def _unanswered(answer: Answer, ended: Ended, error_code: str) -> Outcome:
    if answer.verdict is Verdict.UNAVAILABLE:
        ended = Ended.FAILED
    return _failed(ended, _ERROR_CODES.get(answer.verdict, error_code), answer.message)


def _failed(ended: Ended, error_code: str, message: str) -> Outcome:
    return Outcome(ended=ended, reason=message, error_code=error_code,
                   output=assemble_object([("error", dump_string(message))]))
