"""The replicated log: PySyncObj, hardened. `log.ReplicatedLog` is the only thing the rest of the server needs."""
