"""`orchestrator verify`: faults, a workload whose every operation is written down, and a judge of what was written."""
