"""Certificates for tests, made as an operator makes them."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from orchestrator.tls.authority import Authority, Made
from orchestrator.tls.certificate import Certificate
from orchestrator.tls.files import TlsFiles

HOST = "127.0.0.1"


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)  # noqa: TID251 - OpenSSL goes by this clock, too


def authority(directory: Path, name: str = "authority") -> Authority:
    return Authority.create(directory / name, name, now())


def node(by: Authority, name: str, *hosts: str, days: int = 30) -> Made:
    return by.sign_node(name, hosts or (HOST,), now(), days)


def client(by: Authority, name: str) -> Made:
    return by.sign_client(name, now(), 30)


def files(by: Authority, made: Made, *, prefix: str = "peer_tls", host: str = "", callers: bool = True,
          minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> TlsFiles:
    return TlsFiles(prefix, made.certificate_file, made.key_file, by.file, by.file if callers else None, minimum,
                    host, "peer_advertise")


def kept(by: Authority, name: str) -> Certificate:
    """What is in its file now."""
    return Certificate.all_of((by.directory / f"{name}.pem").read_bytes())[0]


def expired(by: Authority, name: str, *hosts: str) -> Made:
    """Valid until a minute ago."""
    past = now() - datetime.timedelta(days=2, minutes=1)
    return by.sign_node(name, hosts or (HOST,), past, 2)
