"""What came back, as the outcome of a task."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

import msgspec

from orchestrator.engine.expressions import (
    NULL,
    PAYLOAD_BYTES_MAX,
    JsonInvalid,
    PayloadInvalid,
    assemble_object,
    check_json,
    check_payload,
    compact,
    dump_string,
)
from orchestrator.integrations.work import Ended, Outcome

REASON_CHARACTERS_MAX = 2_000
# Of an answer that is a failure anyway; what is more is cut off.
FAILURE_BYTES_MAX = 16 * 1024
# Say that a server behind whoever answered was asked, and that nobody knows what it has done.
GATEWAY_STATUSES = frozenset((502, 504))

_COMPRESSED = {"gzip": 47, "x-gzip": 47, "deflate": 47}  # the window that zlib is told: either format, by its header


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A response. `body` is whole, or cut off after the most that was wanted."""

    status: int
    phrase: str
    headers: tuple[tuple[str, str], ...]  # as they came
    body: bytes
    charset: str
    is_whole: bool
    bytes_max: int = PAYLOAD_BYTES_MAX  # of what it may come to

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299


class BodyInvalid(Exception):
    """The body can't be read: compressed in a way that is not known, or damaged."""


async def read_body(chunks: AsyncIterator[bytes], encoding: str, most: int) -> tuple[bytes, bool]:
    """At most so many bytes of a body, decompressed, and whether that is all of it. Raises BodyInvalid."""
    encoding = encoding.strip().lower()
    if encoding not in ("", "identity", *_COMPRESSED):
        raise BodyInvalid(f"the body is compressed as {encoding[:100]!r}, which was not asked for")
    inflater = zlib.decompressobj(_COMPRESSED[encoding]) if encoding in _COMPRESSED else None
    body, came = bytearray(), False
    try:
        async for chunk in chunks:
            came = True
            # Never more than what is wanted: a small body may hold a very large one.
            body += chunk if inflater is None else inflater.decompress(chunk, most + 1 - len(body))
            if len(body) > most:
                return bytes(body[:most]), False
    except zlib.error as error:
        raise BodyInvalid(f"the body can't be decompressed: {error}") from None
    if inflater is not None and came and not inflater.eof:
        raise BodyInvalid("the body ends before what is compressed in it does")
    return bytes(body), True


def outcome_of(answer: Answer, terminal: frozenset[int]) -> Outcome:
    """2xx is success; whatever else is failure, and after those of `terminal` no retry follows."""
    output = _output(answer)
    if answer.is_success:
        return _success(answer, output)
    text = _text(answer).strip()
    try:
        check_payload(output)
    except PayloadInvalid:
        output = b""
    return Outcome(
        ended=Ended.FAILED_WITH_TERMINAL_ERROR if answer.status in terminal else Ended.FAILED,
        output=output,
        reason=text[:REASON_CHARACTERS_MAX] or f"{answer.status} {answer.phrase}".strip(),
        error_code=f"HTTP_{answer.status}",
        outcome_unknown=answer.status in GATEWAY_STATUSES,
    )


def _success(answer: Answer, output: bytes) -> Outcome:
    problem = ""
    if not answer.is_whole:
        problem = f"the body has more than {answer.bytes_max} bytes"
    else:
        try:
            check_payload(output, answer.bytes_max)
        except PayloadInvalid as error:
            problem = str(error)
    if not problem:
        return Outcome(ended=Ended.COMPLETED, output=output)
    # The server has done it. Asked again it would answer the same.
    return Outcome(
        ended=Ended.FAILED_WITH_TERMINAL_ERROR,
        reason=f"the answer ({answer.status}) can't be the output of a task: {problem}",
        error_code="HTTP_RESPONSE_TOO_LARGE",
        outcome_unknown=True,
    )


def _output(answer: Answer) -> bytes:
    headers: dict[str, tuple[str, list[str]]] = {}
    for name, value in answer.headers:
        # Under the first spelling: names are the same whatever their case.
        headers.setdefault(name.lower(), (name, []))[1].append(value)
    response = assemble_object(
        (
            ("body", _json(answer)),
            ("headers", msgspec.json.encode(dict(headers.values()))),
            ("statusCode", b"%d" % answer.status),
            ("reasonPhrase", dump_string(answer.phrase)),
        )
    )
    return assemble_object((("response", response),))


def _json(answer: Answer) -> bytes:
    """JSON as it came, numbers untouched; anything else as text."""
    if not answer.body:
        return NULL
    if answer.is_whole:
        try:
            check_json(answer.body)
            return compact(answer.body)
        except (JsonInvalid, msgspec.MsgspecError):
            pass
    return dump_string(_text(answer))


def _text(answer: Answer) -> str:
    try:
        return answer.body.decode(answer.charset or "utf-8", "replace")
    except LookupError:
        return answer.body.decode("utf-8", "replace")
