"""Celery: a chain of tasks by way of Redis, which keeps messages and results; nobody keeps a workflow's state."""

CONNECTED = "connected"
"""What a worker says when it takes tasks."""
