"""The parts of a workflow that hold steps of their own, and what a WAIT waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from orchestrator_client.refs import Ref

Steps = list[dict[str, Any]]


class SwitchBlock:
    """The branches of a SWITCH."""

    def __init__(self, blocks: list[Steps], element: dict[str, Any]) -> None:
        self._blocks = blocks
        self._element = element
        self._has_default = False

    @contextmanager
    def case(self, value: str | int | bool | Enum) -> Iterator[None]:
        """The steps for this value."""
        steps: Steps = []
        if _case(value) in self._element["decisionCases"]:
            raise ValueError(f"the case {_case(value)!r} is there twice")
        self._element["decisionCases"][_case(value)] = steps
        yield from _collect(self._blocks, steps)

    @contextmanager
    def default(self) -> Iterator[None]:
        """The steps for any other value."""
        if self._has_default:
            raise ValueError("there is one default")
        self._has_default = True
        yield from _collect(self._blocks, self._element["defaultCase"])

    def check(self) -> None:
        if not self._element["decisionCases"] and not self._element["defaultCase"]:
            raise ValueError("a switch needs a case or a default with a step")


class ForkBlock:
    """The branches of a FORK_JOIN."""

    def __init__(self, blocks: list[Steps], element: dict[str, Any]) -> None:
        self._blocks = blocks
        self._branches: list[Steps] = []
        element["forkTasks"] = self._branches

    @contextmanager
    def branch(self) -> Iterator[None]:
        """Steps that run one after the other, beside the other branches."""
        steps: Steps = []
        self._branches.append(steps)
        yield from _collect(self._blocks, steps)
        if not steps:
            raise ValueError("a branch needs a step")

    def joined(self) -> list[str]:
        """The last step of each branch."""
        if not self._branches:
            raise ValueError("a fork needs a branch")
        return [branch[-1]["taskReferenceName"] for branch in self._branches]


def wait_input(
    duration_ms: int | None, until: Any, signal: str | None, event: str | Ref | None, correlation_key: Any
) -> dict[str, Any]:
    """What a WAIT task is given: exactly one of the first four, and with an event its key."""
    if sum(choice is not None for choice in (duration_ms, until, signal, event)) != 1:
        raise ValueError("a wait has exactly one of duration_ms, until, signal and event")
    if (event is None) is not (correlation_key is None):
        raise ValueError("a wait for an event, and no other, has a correlation_key")
    if event is not None:
        return {"event": _name("an event", event), "correlationKey": _name("a correlation_key", correlation_key)}
    if signal is not None:
        if not signal:
            raise ValueError("a signal has a name")
        return {"signal": signal}
    if until is not None:
        return {"until": _instant(until)}
    assert duration_ms is not None
    if duration_ms < 0:
        raise ValueError(f"a wait can't be negative ({duration_ms} ms)")
    whole, rest = divmod(duration_ms, 1000)
    return {"duration": f"{whole} seconds {rest} ms" if rest else f"{whole} seconds"}


def _name(what: str, given: Any) -> str:
    if isinstance(given, bool) or not isinstance(given, Ref | str | int):
        raise TypeError(f"{what} is a text, a number or a reference to one, not {given!r}")
    if not str(given):
        raise ValueError(f"{what} is not empty")
    return str(given)


def _instant(until: Any) -> str:
    if isinstance(until, Ref | str):
        return str(until)
    if not isinstance(until, datetime) or until.tzinfo is None:
        raise TypeError(f"a wait is until a datetime with a time zone, not {until!r}")
    moment = until.astimezone(UTC)
    if moment.microsecond:  # the wire has whole seconds, and a wait must not end early
        moment = moment.replace(microsecond=0) + timedelta(seconds=1)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _case(value: str | int | bool | Enum) -> str:
    if isinstance(value, Enum):
        value = value.value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _collect(blocks: list[Steps], steps: Steps) -> Iterator[None]:
    blocks.append(steps)
    try:
        yield
    finally:
        blocks.pop()
