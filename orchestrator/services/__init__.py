"""The leader's background services, one per file; each is started with a term and stopped with it.

A service reads the replicated state, keeps nothing that a new leader could not derive, and changes the state only
by submitting commands.
"""
