"""What nodes do themselves, outside of the log: scripts, queries, schemas, calls of other services."""
