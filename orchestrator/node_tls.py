"""A node's TLS: what its settings ask for, read when it starts and again when the files change."""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from orchestrator.config import Config
from orchestrator.replication.tls import TlsContexts
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tls.certificate import Certificate
from orchestrator.tls.files import Material, TlsFiles, read
from orchestrator.tls.watched import Watched, accepting, dialling, serving
from orchestrator_client.channels import ChannelFactory, SecureChannels, channel_factory

logger = logging.getLogger(__name__)

# A certificate that ends within this, and has less than a tenth of its time left, is complained about.
SOON = datetime.timedelta(days=14)
COMPLAINT_SECONDS = 3_600.0


def peer_files(config: Config) -> TlsFiles | None:
    """Those that nodes show each other: TLS 1.3, both ways, one authority."""
    if not config.peer_tls_certificate:
        return None
    authority = Path(config.peer_tls_authority)
    return TlsFiles(
        prefix="peer_tls",
        certificate=Path(config.peer_tls_certificate),
        key=Path(config.peer_tls_key),
        authority=authority,
        client_authority=authority,
        minimum_version=ssl.TLSVersion.TLSv1_3,
        host=config.peer_address.host,
        host_setting="peer_advertise" if config.peer_advertise else "peer_listen",
    )


def grpc_files(config: Config) -> TlsFiles | None:
    """Those of the gRPC port, which the node shows as a caller of other nodes, too."""
    if not config.grpc_tls_certificate:
        return None
    callers = config.grpc_tls_client_authority
    return TlsFiles(
        prefix="grpc_tls",
        certificate=Path(config.grpc_tls_certificate),
        key=Path(config.grpc_tls_key),
        authority=Path(config.grpc_tls_authority),
        client_authority=Path(callers) if callers else None,
        minimum_version=ssl.TLSVersion.TLSv1_2,
        host=config.grpc_address.host,
        host_setting="grpc_advertise" if config.grpc_advertise else "grpc_listen",
    )


def check(config: Config) -> None:
    """Tries all files out. Raises TlsUnusable."""
    for files in (peer_files(config), grpc_files(config)):
        if files is not None:
            read(files)


class NodeTls:
    """Raises TlsUnusable for files that can't be used at the start; later ones are then not taken."""

    def __init__(self, config: Config, metrics: Metrics, wall_ms: Callable[[], int]) -> None:
        self._config = config
        self._metrics = metrics
        self._wall_ms = wall_ms
        self._complained_at: dict[str, int] = {}
        peers, callers = peer_files(config), grpc_files(config)
        self._peers = self._watched(peers) if peers is not None else None
        self._grpc = self._watched(callers) if callers is not None else None

    def _watched(self, files: TlsFiles) -> Watched:
        def looked(taken: bool | None) -> None:
            if taken is not None:
                outcome = "taken" if taken else "refused"
                self._metrics.certificate_reloads.labels(files.certificate_setting, outcome).inc()
            self._tell_ends(watched.current)

        for outcome in ("taken", "refused"):
            self._metrics.certificate_reloads.labels(files.certificate_setting, outcome)
        watched = Watched(files, looked)
        self._tell_ends(watched.current)
        return watched

    def warn(self) -> None:
        """The ports are open: says which of them should not be."""
        config = self._config
        for listen in config.exposed:
            logger.warning("serves beyond loopback without TLS, as `insecure` says: whoever reaches the port can read "
                           "and change everything", extra={listen: getattr(config, listen)})

    async def run(self) -> None:
        """Looks after the files until it is cancelled; returns at once where there are none."""
        await asyncio.gather(*(watched.run() for watched in (self._peers, self._grpc) if watched is not None))

    # -- what the ports need ---------------------------------------------------------------------------------------

    @property
    def peer_contexts(self) -> TlsContexts:
        return (accepting(self._peers), dialling(self._peers)) if self._peers is not None else (None, None)

    @property
    def metrics_context(self) -> ssl.SSLContext | None:
        config = self._config
        return serving(self._grpc) if self._grpc is not None and config.metrics_with_tls else None

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Each new connection is made with what was read last."""
        watched = self._grpc
        if watched is None:
            return None
        used = watched.current

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            if watched.current is used:
                return None
            used = watched.current
            return _configuration(used)

        asks = watched.files.client_authority is not None
        fetch: Any = changed  # None, which is fine, is not in the stub
        return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch, require_client_authentication=asks)

    def channels(self) -> ChannelFactory:
        """To the gRPC ports of this node and the others."""
        watched = self._grpc
        if watched is None:
            return channel_factory(None)

        def load() -> tuple[bytes, bytes, bytes]:
            return watched.current.authority, watched.current.certificate, watched.current.key

        own = self._config.grpc_address.host
        return SecureChannels(load, names={str(self._config.grpc_local_address): own})

    # -- until when ------------------------------------------------------------------------------------------------

    def _tell_ends(self, material: Material) -> None:
        now = datetime.datetime.fromtimestamp(self._wall_ms() / 1000, datetime.UTC)
        for setting, certificate in _first_to_end(material):
            left = certificate.ends - now
            self._metrics.certificate_expiry_seconds.labels(setting).set(left.total_seconds())
            if left < min(SOON, (certificate.ends - certificate.begins) / 10):
                self._complain(setting, certificate, ended=left.total_seconds() <= 0)

    def _complain(self, setting: str, certificate: Certificate, *, ended: bool) -> None:
        now_ms = self._wall_ms()
        if now_ms - self._complained_at.get(setting, -(10**15)) < COMPLAINT_SECONDS * 1000:
            return
        self._complained_at[setting] = now_ms
        what = "has ended: new connections fail until its file is replaced" if ended else "ends soon"
        logger.log(logging.ERROR if ended else logging.WARNING, "a certificate %s", what, extra={
            "setting": setting, "certificate": str(certificate), "ends": certificate.ends.isoformat()})


def _first_to_end(material: Material) -> Iterator[tuple[str, Certificate]]:
    """Of each file."""
    for setting, certificates in material.certificates.items():
        yield setting, min(certificates, key=lambda each: each.ends)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_authority
    )
