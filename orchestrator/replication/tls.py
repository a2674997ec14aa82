"""TLS between nodes: each shows a certificate of one authority, and it must be that of the node it says it is.

A node's certificate is one that is valid for the host where the configuration has the node. Where that host is another
member's, too, as on one machine, the node's name must be among the certificate's DNS names. So no node passes for
another, and no client for a node: what only callers may use, by its extended key usages, is nobody's here.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.tls.certificate import Certificate

logger = logging.getLogger(__name__)

TlsContexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]
"""For accepting, and for dialling; None is without."""

# The same complaint is logged again after this; it is counted each time.
COMPLAINT_SECONDS = 30.0
COMPLAINTS_MAX = 100


def certificate_of(transport: Any) -> Certificate | None:
    """What the other end of a connection has shown, if it speaks TLS."""
    found = transport.get_extra_info("ssl_object")
    shown = found.getpeercert(binary_form=True) if found is not None else None
    try:
        return Certificate.from_der(shown) if shown else None
    except ValueError:
        return None  # what can't be read proves nothing


def why_another(certificate: Certificate | None, node: str, host: str, hosts: Mapping[str, str]) -> str | None:
    """Why the certificate is not that of `node` at `host`; None if it is. `hosts`: where every member is."""
    if certificate is None:
        return "it has shown no certificate"
    if not certificate.for_servers:
        return f"the certificate {certificate} is a client's"
    if not certificate.valid_for(host):
        return f"the certificate {certificate} is not for {host}"
    others = sorted(name for name, where in hosts.items() if name != node and where.lower() == host.lower())
    if others and node not in certificate.dns_names:
        return f"the certificate {certificate} is not for {node}, and {host} is also where {', '.join(others)} is"
    return None


class Complaints:
    """Says what is wrong with a peer, not again and again."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._said: dict[str, float] = {}

    def say(self, about: str, why: object) -> None:
        now = self._monotonic()
        self._said = {each: at for each, at in self._said.items() if now - at < COMPLAINT_SECONDS}
        if about not in self._said and len(self._said) < COMPLAINTS_MAX:
            self._said[about] = now
            logger.warning("%s: %s", about, why)


def count_failures(context: ssl.SSLContext, counters: Counter[str], on_failure: Callable[[ssl.SSLError], None]) -> None:
    """Handshakes that fail with this context are counted as `tls`: no connection is made, so nobody else would know."""

    class CountedHandshakes(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                counters["tls"] += 1
                on_failure(error)
                raise

    wanted: Any = context
    wanted.sslobject_class = CountedHandshakes
