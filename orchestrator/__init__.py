"""The server: a workflow orchestrator that is a Raft cluster by itself."""

__version__ = "0.1.0"
