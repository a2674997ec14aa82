"""Certificates that are read again when what stands in their files changes."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

from orchestrator.tls.files import Material, TlsFiles, TlsUnusable, read

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Watched:
    """`current` is the newest that was found usable: what is not stays in the files, and is tried again.

    Raises TlsUnusable when there is nothing usable to begin with. `on_look` is told whenever the files were looked at:
    None if they are as they were, else whether what they have become was taken.
    """

    def __init__(self, files: TlsFiles, on_look: Callable[[bool | None], None] = lambda taken: None) -> None:
        self.files = files
        self.current = read(files)
        self._on_look = on_look
        # What was last said about files that can't be used.
        self._refused = ""

    async def run(self, every_s: float = LOOK_SECONDS) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.look()

    async def look(self) -> None:
        """Reads the files in a thread, and takes what is new and usable."""
        try:
            found = await asyncio.to_thread(self._read)
        except TlsUnusable as error:
            self._refuse(str(error))
            return
        if found is None:
            self._refused = ""
            self._on_look(None)
            return
        self.current, self._refused = found, ""
        own = found.certificates[self.files.certificate_setting][0]
        logger.info("takes a certificate that has changed", extra={
            "setting": self.files.certificate_setting, "certificate": str(own), "ends": own.ends.isoformat()})
        self._on_look(True)

    def _read(self) -> Material | None:
        return read(self.files) if self.files.digest() != self.current.digest else None

    def _refuse(self, reason: str) -> None:
        # Tried again with each look, for a certificate may only become valid; said and counted once.
        if reason == self._refused:
            self._on_look(None)
            return
        self._refused = reason
        logger.error("does not take changed certificates, and keeps those that it has: %s", reason)
        self._on_look(False)


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
