"""A cluster in one thread under virtual time: event loop, network, disks, clocks and RPC, all decided by one seed.

For tests of your workflows and tasks, see README.md here: the fixture `cluster`, `every_leader_kill`, and what can be
told to go wrong. For simulations of the cluster itself: `loop` runs programs as processes that can be killed, paused
and given clocks of their own; `network`, `disk` and `machine` are what they run on; `rpc` carries gRPC's calls between
them without gRPC's threads; `member` is a node of such a cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.testing.async_tests import virtual
    from orchestrator.testing.cluster import Cluster, ClusterFailed
    from orchestrator.testing.kills import NotRepeatable, every_leader_kill
    from orchestrator.testing.scripts import Scripted, crash, fail, late, slow
    from orchestrator.testing.serving import Call, Calls
    from orchestrator.testing.stubs import http_answer
    from orchestrator.testing.stuck import Stuck

__all__ = [
    "Call",
    "Calls",
    "Cluster",
    "ClusterFailed",
    "NotRepeatable",
    "Scripted",
    "Stuck",
    "crash",
    "every_leader_kill",
    "fail",
    "http_answer",
    "late",
    "slow",
    "virtual",
]

# Only what is asked for is imported: pytest's plugin is in every test run of everybody who has this installed.
_HOMES = {
    "cluster": ("Cluster", "ClusterFailed"),
    "kills": ("NotRepeatable", "every_leader_kill"),
    "scripts": ("Scripted", "crash", "fail", "late", "slow"),
    "serving": ("Call", "Calls"),
    "stubs": ("http_answer",),
    "stuck": ("Stuck",),
    "async_tests": ("virtual",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
