"""Lets programs start others: to be imported before gRPC, which looks at its environment then.

gRPC's core has handlers for processes that fork, which are of no use to Python: its own part for that is off unless
asked for. They run between fork and exec of a process that is started by uvloop, and while calls are under way about
one in fifty of those crashed there (grpcio 1.85, SIGSEGV or SIGABRT), before its program had begun.
"""

from __future__ import annotations

import os

VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"

os.environ.setdefault(VARIABLE, "0")
