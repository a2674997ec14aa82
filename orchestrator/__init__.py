"""The server: a workflow orchestrator that is a Raft cluster by itself."""

__version__ = "0.2.0.dev0"
