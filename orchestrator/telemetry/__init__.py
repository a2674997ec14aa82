"""What a node tells its operator: logs and metrics. Imports nothing else of the server."""
