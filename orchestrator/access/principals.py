"""Who calls: a name, the groups it is in, and how that is known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

ANONYMOUS_NAME = "anonymous"
NODE_PREFIX = "node:"
GROUP_PREFIX = "group:"


class Known(StrEnum):
    """How a principal is known; also what the audit log says."""

    ANONYMOUS = "anonymous"
    TOKEN = "token"  # noqa: S105 - the name of a way, not a secret
    JWT = "jwt"
    CERTIFICATE = "certificate"
    NODE_SECRET = "node-secret"  # noqa: S105 - same


@dataclass(frozen=True)
class Principal:
    """Equal ones may do the same."""

    name: str
    known_by: Known
    groups: frozenset[str] = frozenset()


ANONYMOUS = Principal(ANONYMOUS_NAME, Known.ANONYMOUS)


@dataclass(frozen=True)
class Identity:
    """A principal, for as long as what it has shown is good."""

    principal: Principal
    expires_ms: int | None = None  # wall clock; None: until the rules change


class NotAuthenticated(Exception):
    """What was shown proves nothing. `reason` is stable; the message says no more than the caller knows already."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Credentials:
    """What a caller has shown."""

    authorization: str = ""  # the value of that header
    common_name: str = ""  # of the client certificate that TLS has verified
    alternative_names: tuple[str, ...] = ()  # DNS names and URIs of the same
