"""TLS between nodes: each shows a certificate, and believes those of one authority only.

The caller names the host that it dials, and the certificate of who answers must be for that host.
"""

from __future__ import annotations

import ssl
from collections import Counter
from pathlib import Path
from typing import Any

TlsContexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]
"""For accepting, and for dialling; None is without."""


class TlsUnusable(Exception):
    """A file is missing, no PEM, or does not fit to the others; the message names its setting."""


def peer_contexts(certificate: Path, key: Path, authority: Path) -> TlsContexts:
    """Raises TlsUnusable."""
    for setting, path in (
        ("peer_tls_certificate", certificate),
        ("peer_tls_key", key),
        ("peer_tls_authority", authority),
    ):
        try:
            path.read_bytes()
        except OSError as error:
            raise TlsUnusable(f"{setting}: {path} can't be read: {error.strerror}") from error
    accepting = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, authority)
    return accepting, _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authority)


def _context(protocol: ssl._SSLMethod, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        # Without a password a key that has one would be asked for on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise TlsUnusable(
            f"peer_tls_certificate and peer_tls_key: {certificate} and {key} must be a certificate and its key, "
            f"without a password, both PEM: {error}"
        ) from error
    try:
        context.load_verify_locations(authority)
    except (ssl.SSLError, ValueError) as error:
        raise TlsUnusable(f"peer_tls_authority: {authority} must hold certificates, PEM: {error}") from error
    return context


def count_failures(context: ssl.SSLContext, counters: Counter[str]) -> None:
    """Handshakes that fail with this context are counted as `tls`: no connection is made, so nobody else would know."""

    class CountedHandshakes(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError:
                counters["tls"] += 1
                raise

    wanted: Any = context
    wanted.sslobject_class = CountedHandshakes
