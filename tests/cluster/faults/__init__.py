"""Faults of every kind on real processes: `python -m tests.cluster.faults`."""
