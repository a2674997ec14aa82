"""Keeps a network namespace alive while nobody else is in it, until its parent ends.

python -m orchestrator.verify.machines.holder PARENT
"""

from __future__ import annotations

import os
import sys

from orchestrator.cli.die_with_parent import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    # From here on it is another namespace than the parent's.
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"])
