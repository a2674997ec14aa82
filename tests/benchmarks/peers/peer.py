"""What a peer is to the benchmark: something that can be started, and then runs one W3 for each call."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.children import Child, cpu_of_trees
from tests.benchmarks.peers.installation import Installation

# As what our own W3 passes on from step to step: about 100 bytes of JSON.
_TEXT = "x" * 72


@dataclass(frozen=True)
class Running:
    """A started peer. `call` returns when the workflow of that number has, and fails if its result is another's."""

    call: Callable[[int], Awaitable[object]]
    servers: tuple[Child, ...]
    workers: tuple[Child, ...]
    # Those that call on behalf of this process, where the peer has no client that could do so in it.
    callers: tuple[Child, ...] = ()

    def spent(self) -> dict[str, float]:
        """CPU-seconds so far by part."""
        return {
            "server": cpu_of_trees(child.pid for child in self.servers),
            "workers": cpu_of_trees(child.pid for child in self.workers),
            "generator": sum(os.times()[:2]) + cpu_of_trees(child.pid for child in self.callers),
        }


@dataclass(frozen=True)
class Peer:
    name: str
    installations: tuple[Installation, ...]
    # An empty directory that will be gone, and how many callers there will be at once.
    start: Callable[[Path, int], AbstractAsyncContextManager[Running]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def obstacle(self) -> str:
        """Why it can't be measured here, and what would help; empty if it can."""
        missing = [each.name for each in self.installations if not each.installed]
        if not missing:
            return ""
        return f"{', '.join(missing)} not installed: python -m tests.benchmarks.peers install {self.name}"


def parcel(number: int) -> dict[str, Any]:
    return {"number": number, "text": _TEXT}


def check(number: int, answer: Any) -> None:
    if answer != parcel(number):
        raise RuntimeError(f"workflow {number} answered {json.dumps(answer)}")
