"""What a workflow of three tasks may cost, in counts: a change that makes it dearer says so here, on any machine.

The bounds are a few per cent above what was counted when they were set. What is cheaper from now on may lower them.
"""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.costs import cost_of_w3

# For each workflow, by how many run at a time and how many there are; of three nodes together.
BOUNDS: dict[tuple[int, int], dict[str, float]] = {
    (1, 60): {
        # The start, and each of three completions, which leases the next task.
        "entries": 4.1,
        "entry_bytes": 760,
        # One on each node, of each entry.
        "syncs_of_journals": 12.5,
        # To and fro for each entry and follower; the rest is of the read that waits for the end, and heartbeats.
        "frames": 23,
        "bytes_sent": 2_050,
        # Two on each node for an entry, and those of that read.
        "ticks": 33,
        # One of each command, on each node; what begins and ends an entry is none.
        "steps": 12.3,
        # The execution, and three tasks, on each node; what began before the end of a second is written again.
        "rows_written": 15.5,
        "transactions": 0.11,
        "syncs_of_databases": 0.11,
    },
    (64, 640): {
        "entries": 0.14,
        "entry_bytes": 690,
        "syncs_of_journals": 0.42,
        "frames": 0.85,
        "bytes_sent": 1_420,
        "ticks": 2.2,
        "steps": 12.3,
        "rows_written": 13,
        "transactions": 0.015,
        "syncs_of_databases": 0.015,
    },
}


@pytest.mark.parametrize(("concurrency", "workflows"), BOUNDS)
def test_what_a_workflow_of_three_tasks_costs(concurrency: int, workflows: int) -> None:
    cost, bounds = cost_of_w3(concurrency, workflows), BOUNDS[concurrency, workflows]
    dearer = {name: (cost[name], bound) for name, bound in bounds.items() if not 0 < cost[name] <= bound}
    assert not dearer, f"(count, bound): {dearer}; all counts: {json.dumps(cost)}"
    assert cost.keys() == bounds.keys()
