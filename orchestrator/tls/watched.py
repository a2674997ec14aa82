"""Certificates that are read again when what stands in their files changes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

from orchestrator.file_watch import FileWatch
from orchestrator.tls.files import Material, TlsFiles, TlsUnusable, read

logger = logging.getLogger(__name__)

class Watched(FileWatch[dict[str, bytes], Material]):
    """`current` is the newest that was found usable. Raises TlsUnusable when there is nothing usable to begin with."""

    def __init__(self, files: TlsFiles, on_look: Callable[[bool | None], None] = lambda taken: None) -> None:
        self.files = files
        what = f"the certificates of {files.certificate_setting}"
        super().__init__(what, files.contents, self._material, TlsUnusable)
        self.on_look = on_look
        self.on_taken = self._said

    def _material(self, contents: dict[str, bytes]) -> Material:
        # OpenSSL reads the files by itself.
        return read(self.files)

    def _said(self, material: Material) -> None:
        own = material.certificates[self.files.certificate_setting][0]
        logger.info("takes a certificate that has changed", extra={
            "setting": self.files.certificate_setting, "certificate": str(own), "ends": own.ends.isoformat()})


class ReloadedContext(ssl.SSLContext):
    """A context whose new connections are made with another one: that which `choose` picks at that moment."""

    _choose: Callable[[], ssl.SSLContext]

    @classmethod
    def of(cls, protocol: int, choose: Callable[[], ssl.SSLContext]) -> ReloadedContext:
        made = cls(protocol)
        made._choose = choose
        return made

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        context = self._choose()
        context.sslobject_class = self.sslobject_class
        return context.wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return self._choose().wrap_socket(*arguments, **options)


def accepting(watched: Watched) -> ssl.SSLContext:
    """For who must show a certificate, where the files name an authority of callers."""
    return ReloadedContext.of(ssl.PROTOCOL_TLS_SERVER, lambda: watched.current.accepting)


def serving(watched: Watched) -> ssl.SSLContext:
    """For anybody."""
    return ReloadedContext.of(ssl.PROTOCOL_TLS_SERVER, lambda: watched.current.serving)


def dialling(watched: Watched) -> ssl.SSLContext:
    """Shows the certificate if asked for it."""
    return ReloadedContext.of(ssl.PROTOCOL_TLS_CLIENT, lambda: watched.current.dialling)
