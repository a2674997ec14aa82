"""Whole clusters under virtual time: `python -m tests.simulation --help`."""
