"""What a run is told: how much of what, where, and of a cluster that is not ours how it may be broken."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.verify.connecting import Connecting
from orchestrator.verify.crowd import CALLER, LABOURER
from orchestrator.verify.machines.cluster import NODE
from orchestrator.verify.table import Section
from orchestrator.verify.talking import Talk
from orchestrator.verify.undoing import Record


class WrongCluster(Exception):
    """Not the one that may be broken; nothing was changed."""


@dataclass(frozen=True)
class Settings:
    """What is common to both. `folder` is for the files of the run."""

    seed: int
    minutes: float
    folder: Path
    talk: Talk
    replay: str
    rounds_max: float = math.inf
    kinds: Sequence[str] = ()
    clients: int = 2
    callers: int = 8
    deadline_s: float = 10.0
    progress_s: float = 60.0
    section: Section | None = None
    # Of the sources that run, where they are a checkout.
    revision: str = ""
    # Tests put others in their place, which make mistakes.
    caller_module: str = CALLER
    labourer_module: str = LABOURER
    node_module: str = NODE

    def dice(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}")


@dataclass(frozen=True)
class Named:
    """A cluster that is not ours, and what may be done to it."""

    connecting: Connecting
    cluster_id: str
    faults: Mapping[str, str]
    undos: Mapping[str, str]
    record: Record
