"""A node as `orchestrator.verify.machines.node` serves it, with a mistake that the simulation knows planted in it."""

from __future__ import annotations

import os
import sys

from orchestrator.verify.machines import node
from tests.simulation import mutants

if __name__ == "__main__":
    with mutants.planted(os.environ[mutants.VARIABLE]):
        sys.exit(node.main())
