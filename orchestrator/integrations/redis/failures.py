"""What may go wrong with Redis, as the two things that a caller can do about it."""

from __future__ import annotations

from redis.exceptions import RedisError

# Of an answer's first word. The server is busy, full, no master, or does not let anybody in, which passes.
_PASSES = frozenset((
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN",
    "UNBLOCKED", "WRONGPASS",
))
# After these another connection may do better: to the new master, or as who the password file says now.
_CONNECT_ANEW = frozenset(("LOADING", "MASTERDOWN", "NOAUTH", "READONLY", "UNBLOCKED", "WRONGPASS"))
# What EXEC says for one of these: the word stands behind it.
_ABORTED = "EXECABORT Transaction discarded because of: "


class RedisUnavailable(Exception):
    """It could not be done, or nobody knows whether it was: the same again may do. `lost`: not on this connection."""

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


class RedisRefused(Exception):
    """Redis will not do this, now or later: the key is of another type, the user may not."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def failure_of(error: RedisError, server: str) -> RedisUnavailable | RedisRefused:
    """Of what the server at the address answered."""
    text = text_of(error)
    code = text.removeprefix(_ABORTED).partition(" ")[0]
    if code in _PASSES:
        return RedisUnavailable(f"{server}: {text}", lost=code in _CONNECT_ANEW)
    if code in ("MOVED", "ASK"):
        text = f"{server} is part of a Redis Cluster, which is not supported: {text}"
    return RedisRefused(text)


def text_of(error: Exception) -> str:
    """With its first word, which the client library cuts off."""
    text, code = str(error) or type(error).__name__, getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(f"{code} ") else text
