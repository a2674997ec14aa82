"""Who sent a message is told what came of it, in the message's own step."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.engine.messages import Origin, OriginKind
from orchestrator.engine.results import AnyResult
from orchestrator.engine.step import Step


def _nobody(step: Step, namespace: str, origin: Origin, result: AnyResult) -> None:
    pass


TOLD: dict[OriginKind, Callable[[Step, str, Origin, AnyResult], None]] = {
    OriginKind.NOBODY: _nobody,
}


def told(step: Step, namespace: str, origin: Origin, result: AnyResult) -> None:
    """`result` is a Rejected if the message had no effect."""
    TOLD[origin.kind](step, namespace, origin, result)
