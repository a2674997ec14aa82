"""Whole payloads, for whoever reads or works on them: values that are kept outside the log stand in their places.

What is shown is drawn first with what is there of the values, which tells what is missing; that is fetched, off the
loop, and it is drawn again. What refers to none is drawn once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import grpc
from msgspec.structs import replace

from orchestrator.engine.attempts import LIMIT_EXCEEDED
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.blobs import BlobRef, internalise, internalised_bytes, references_in
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.masking import masked
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.queries import AssignmentView
from orchestrator.engine.state import State
from orchestrator.file_watch import OffLoop
from orchestrator.integrations.blobs.store import BlobCorrupt, BlobFailure, StoreUnavailable
from orchestrator.rpc.errors import RpcFailure
from orchestrator.rpc.handing_out import Given, NotGiven
from orchestrator.rpc.large_payloads import UNAVAILABLE, LargePayloads, unavailable

MESSAGE_BYTES_MAX: Final = 15 << 20
"""Of all payloads in a message: with room for what else it has."""

# What is shown may change while its values are fetched, and refer to others.
_TRIES: Final = 10

T = TypeVar("T")

_Wanted = tuple[bytes, tuple[str, ...]]

Whole = Callable[[bytes, Sequence[str]], bytes]
"""(a payload, the fields to mask in it) -> what is shown of it"""


def as_is(text: bytes, fields: Sequence[str]) -> bytes:
    """Of payloads that have all their values in them."""
    return masked(text, fields)


class Shown(Protocol):
    """The node, as far as it is needed here."""

    @property
    def large(self) -> LargePayloads: ...

    @property
    def state(self) -> Callable[[], State]: ...

    @property
    def off_loop(self) -> OffLoop: ...


def is_used(state: State, held: ExecutionState, refs: Iterable[BlobRef]) -> bool:
    """Whether the execution refers to these values. What looks like a reference and is none is its own data.

    So nobody gets a value by what it is called.
    """
    now = state.execution((held.execution.namespace, held.execution.workflow_id)) or held
    used = {*held.execution.blobs, *now.execution.blobs}
    return all(state.blobs.number_of(ref.store, ref.sha256) in used for ref in refs)


class _Contents:
    """Payloads that have been put together, and those that turned out to be wanted besides."""

    def __init__(self, state: Callable[[], State], held: ExecutionState) -> None:
        self.given: dict[BlobRef, bytes] = {}
        self.wanted: dict[_Wanted, None] = {}
        self._made: dict[_Wanted, bytes] = {}
        self._state = state
        self._held = held

    def whole(self, text: bytes, fields: Sequence[str]) -> bytes:
        refs = references_in(text)
        if not refs or not is_used(self._state(), self._held, refs):
            return masked(text, fields)
        wanted = (text, tuple(fields))
        found = self._made.get(wanted)
        if found is None:
            self.wanted[wanted] = None
            return b"{}"
        return found

    def missing(self) -> list[BlobRef]:
        """What is to be fetched. Raises RpcFailure if there would be too much in the answer."""
        size = sum(map(len, self._made.values())) + sum(internalised_bytes(text) for text, _ in self.wanted)
        if size > MESSAGE_BYTES_MAX:
            raise _too_large(size)
        refs = {ref for text, _ in self.wanted for ref in references_in(text)}
        return sorted(refs.difference(self.given))

    def make(self) -> None:
        """Puts together what was wanted; it takes long."""
        for text, fields in self.wanted:
            self._made[text, fields] = masked(internalise(text, self.given), fields)
        self.wanted.clear()


def _too_large(size: int) -> RpcFailure:
    message = f"with the values that are kept outside the log it has {size:,} bytes, and {MESSAGE_BYTES_MAX:,} at most"
    return RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE", message, {"limit": str(MESSAGE_BYTES_MAX)})


async def shown(backend: Shown, held: ExecutionState, draw: Callable[[Whole], Awaitable[T]]) -> T:
    """What `draw` makes of the execution with whole payloads. Raises RpcFailure if that can't be had."""
    if backend.state().meta.behaviour_level < STREAMS:
        return await draw(as_is)
    contents = _Contents(backend.state, held)
    for _ in range(_TRIES):
        drawn = await draw(contents.whole)
        if not contents.wanted:
            return drawn
        try:
            contents.given |= await backend.large.contents(contents.missing())
        except BlobFailure as failure:
            raise unavailable(failure) from failure
        await backend.off_loop(contents.make)
    message = "the execution changes faster than it can be shown: try again"
    raise RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE", message, retry_after_ms=1_000)


# --- what is handed out


class ValuesNeeded(Exception):
    """An attempt can't be handed out without these values."""

    def __init__(self, refs: tuple[BlobRef, ...]) -> None:
        super().__init__(f"{len(refs)} values are needed")
        self.refs = refs


def handed_out(
    state: State,
    held: ExecutionState,
    view: AssignmentView,
    given: Given | None,
    contents: Mapping[BlobRef, bytes],
) -> tuple[AssignmentView, Given | None]:
    """What a worker is told, with whole payloads. Raises ValuesNeeded; NotGiven if it is too much for a message."""
    undone = view.compensation
    text = view.input if given is None else given.input
    texts: tuple[bytes, ...] = (text, view.parameters, view.heartbeat_details)
    if undone is not None:
        texts = (*texts, undone.input, undone.output or b"")
    texts = tuple(one for one in texts if is_used(state, held, references_in(one)))
    missing = {ref for one in texts for ref in references_in(one) if ref not in contents}
    if missing:
        raise ValuesNeeded(tuple(sorted(missing)))
    size = sum(map(internalised_bytes, texts))
    if size > MESSAGE_BYTES_MAX:
        reason = f"the attempt's payloads have {size} bytes with the values that are kept outside the log, the limit"
        reason = f"{reason} is {MESSAGE_BYTES_MAX}"
        raise NotGiven(LIMIT_EXCEEDED, reason, status=TaskStatus.FAILED_WITH_TERMINAL_ERROR)

    def whole(one: bytes) -> bytes:
        return internalise(one, contents) if is_used(state, held, references_in(one)) else one

    if undone is not None:
        output = None if undone.output is None else whole(undone.output)
        undone = replace(undone, input=whole(undone.input), output=output)
    view = replace(
        view,
        input=whole(text),
        parameters=whole(view.parameters),
        heartbeat_details=whole(view.heartbeat_details),
        compensation=undone,
    )
    return view, None if given is None else given._replace(input=view.input)


UNREAD: Final = NotGiven(UNAVAILABLE, "values of its payloads were not read in time")


def not_given(failure: BlobFailure) -> NotGiven:
    """Why an attempt does not get what it needs: for now, or at all."""
    if isinstance(failure, StoreUnavailable):
        return NotGiven(UNAVAILABLE, f"values of its payloads can't be read: {failure}")
    code = "BLOB_CORRUPT" if isinstance(failure, BlobCorrupt) else "BLOB_MISSING"
    return NotGiven(code, f"a value of its payloads can't be read: {failure}", status=TaskStatus.FAILED)
