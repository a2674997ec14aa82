"""Where Redis is and how it is reached, as a node's settings say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Address, Config


@dataclass(frozen=True)
class Identity:
    """As whom a server is called. `setting` names the password file's, for errors."""

    username: str
    password_file: Path | None
    setting: str


@dataclass(frozen=True)
class TlsFiles:
    """None: not named. Without `ca` those are believed whom this machine believes."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """`endpoints`: one Redis, or Sentinels if there is a `sentinel_master`. `client_name`: how Redis lists the node."""

    endpoints: tuple[Address, ...]
    sentinel_master: str = ""
    database: int = 0
    redis: Identity = Identity("", None, "redis_password_file")
    sentinel: Identity = Identity("", None, "redis_sentinel_password_file")
    tls: TlsFiles | None = None
    timeout_ms: int = 2_000
    client_name: str = ""

    @classmethod
    def of(cls, config: Config) -> RedisSettings | None:
        """None: the node has no Redis."""
        if not config.redis_endpoints:
            return None
        tls = TlsFiles(_path(config.redis_tls_ca_file), _path(config.redis_tls_cert_file),
                       _path(config.redis_tls_key_file))
        return cls(
            endpoints=config.redis_addresses,
            sentinel_master=config.redis_sentinel_master,
            database=config.redis_database,
            redis=Identity(config.redis_username, _path(config.redis_password_file), "redis_password_file"),
            sentinel=Identity(config.redis_sentinel_username, _path(config.redis_sentinel_password_file),
                              "redis_sentinel_password_file"),
            tls=tls if config.redis_tls else None,
            timeout_ms=config.redis_timeout_ms,
            client_name=f"orchestrator-{config.node}",
        )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
