"""The server: a workflow orchestrator that is a Raft cluster by itself."""
