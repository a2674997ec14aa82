"""Where the values are that payloads only refer to: a directory that all nodes share, or Redis.

The interface and what it promises is in ``store``.
"""
