"""TLS to the nodes: which files, channels that are made with them, and why a node can't be spoken to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from orchestrator_client.channels import ChannelFactory, Loaded, SecureChannels, channel_factory
from orchestrator_client.errors import TLSUnusable

ENVIRONMENT = ("ORCHESTRATOR_TLS_AUTHORITY", "ORCHESTRATOR_TLS_CERTIFICATE", "ORCHESTRATOR_TLS_KEY")
# How long is looked for the reason of a failure.
DIAGNOSIS_S = 1.0
_SYSTEM = "system"


@dataclass(frozen=True)
class TLS:
    """PEM files: who must have signed a node's certificate, and, where nodes ask for one, a certificate and its key.

    Without an authority the well-known ones are believed. A node must show a certificate for the host of its endpoint.
    Files are read again whenever a connection has failed and they have changed.
    """

    authority: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise TLSUnusable(f"{missing} is missing: certificate and key go together")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TLS | None:
        """What ORCHESTRATOR_TLS_AUTHORITY, _CERTIFICATE and _KEY name; None if none of them is set.

        `system` as the authority stands for the well-known ones.
        """
        return cls.of(*(environment.get(name) for name in ENVIRONMENT))

    @classmethod
    def of(cls, authority: str | None, certificate: str | None, key: str | None) -> TLS | None:
        """The same of texts, of which empty ones count as none."""
        if not (authority or certificate or key):
            return None
        return cls(None if authority in (None, "", _SYSTEM) else authority, certificate or None, key or None)

    def load(self) -> Loaded:
        """Raises TLSUnusable."""
        return _read("authority", self.authority), _read("certificate", self.certificate), _read("key", self.key)

    def check(self) -> None:
        """Whether the files can be used, as far as that can be told without a node. Raises TLSUnusable."""
        self.load()
        self.context()

    def context(self) -> ssl.SSLContext:
        """For a connection to a node. Raises TLSUnusable."""
        try:
            context = ssl.create_default_context(cafile=self.authority)
        except (ssl.SSLError, OSError) as error:
            raise TLSUnusable(f"authority: {self.authority} must hold certificates, PEM: {error}") from error
        context.set_alpn_protocols(["h2"])
        if self.certificate is not None:
            try:
                # Without a password a key that has one would be asked for on the terminal.
                context.load_cert_chain(self.certificate, self.key, password="")
            except (ssl.SSLError, ValueError, OSError) as error:
                raise TLSUnusable(f"certificate and key: {self.certificate} and {self.key} must be a certificate and "
                                  f"its key, without a password, both PEM: {error}") from error
        return context


def _read(what: str, path: str | Path | None) -> bytes | None:
    try:
        return Path(path).read_bytes() if path is not None else None
    except OSError as error:
        raise TLSUnusable(f"{what}: {path} can't be read: {error.strerror}") from error


def channels_for(tls: TLS | None, credentials: grpc.ChannelCredentials | None = None) -> ChannelFactory:
    """What opens channels so; at most one of the two. Raises TLSUnusable."""
    if tls is None:
        return channel_factory(credentials)
    if credentials is not None:
        raise ValueError("tls and credentials are two ways to say one thing: give one of them")
    return SecureChannels(tls.load, check=tls.check)


async def why_not(address: str, tls: TLS | None) -> str:
    """Why the node at the address can't be spoken to, so; empty if TLS is not the reason, or nobody can tell."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(DIAGNOSIS_S):
            return await _try(host.strip("[]"), int(port), address, tls)
    except (OSError, TimeoutError, ValueError, TLSUnusable):
        return ""


async def _try(host: str, port: int, address: str, tls: TLS | None) -> str:
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=_believing() if tls is None else tls.context())
    except ssl.SSLCertVerificationError as error:
        return f"the certificate of {address} is not believed: {error.verify_message}"
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):
            return _asked(address, tls)
        return "" if tls is None else f"{address} answers without TLS"
    except ConnectionRefusedError:
        return ""
    except OSError:
        return "" if tls is None else f"{address} does not answer to TLS"
    try:
        if tls is None:
            return f"{address} speaks TLS, and this client does not (tls=TLS(...); --tls-authority)"
        # Who is not content with our certificate says so now; who is begins to speak HTTP/2.
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        await reader.readexactly(1)
    except (ssl.SSLError, OSError, asyncio.IncompleteReadError):
        return _asked(address, tls)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return ""


def _believing() -> ssl.SSLContext:
    """Only to find out whether there is TLS: nothing is said over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _asked(address: str, tls: TLS | None) -> str:
    if tls is None:
        return f"{address} speaks TLS, and this client does not (tls=TLS(...); --tls-authority)"
    if tls.certificate is None:
        return f"{address} asks for a certificate of the client (TLS(certificate=..., key=...); --tls-certificate)"
    return f"{address} does not accept the client's certificate, {tls.certificate}"
