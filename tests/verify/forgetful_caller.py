"""Callers that forget to write down every third write, which the cluster has acknowledged: that must be found."""

from __future__ import annotations

import itertools
from typing import Any

from orchestrator.verify import caller
from orchestrator.verify.history import Outcome, Recorder

_numbers = itertools.count(1)


class Hiding(Recorder):
    """A name without a number is that of an operation that nobody is to know of."""

    def begin(self, caller: int, kind: str, subject: str, argument: Any = None) -> str:
        if kind == "write" and not next(_numbers) % 3:
            return ""
        return super().begin(caller, kind, subject, argument)

    def complete(self, name: str, outcome: Outcome, answer: Any = None) -> None:
        if name:
            super().complete(name, outcome, answer)


if __name__ == "__main__":
    caller.Recorder = Hiding  # type: ignore[misc]  # the mistake
    caller.run()
