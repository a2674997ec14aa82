"""What a node knows of registered services beyond their records: who is down, whose circuit is open. In memory only.

It protects services and callers and decides nothing that must be right: each node has its own, and a restart forgets.
"""
