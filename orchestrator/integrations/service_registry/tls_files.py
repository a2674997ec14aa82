"""The PEM files that a record or a task names, read when they are first needed and after each change."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import NamedTuple

from orchestrator.engine.services import Tls


class TlsUnusable(Exception):
    """A file can't be read, or is not what it should be."""


class TlsVersion(NamedTuple):
    """What was asked for, and when each of its files was last changed."""

    tls: Tls
    changed_ns: tuple[int, ...]


class TlsContent(NamedTuple):
    """The content of the files; None for one that is not named."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


async def version_of(tls: Tls) -> TlsVersion:
    """Raises TlsUnusable."""
    return await asyncio.to_thread(_version_of, tls)


async def content_of(tls: Tls) -> TlsContent:
    """Raises TlsUnusable."""
    return await asyncio.to_thread(lambda: TlsContent(_read(tls.ca), _read(tls.cert), _read(tls.key)))


async def context_of(tls: Tls | None) -> ssl.SSLContext:
    """For calling; without files the machine's own authorities are believed. Raises TlsUnusable."""
    return await asyncio.to_thread(_context_of, tls or Tls())


def _version_of(tls: Tls) -> TlsVersion:
    try:
        changed = tuple(Path(path).stat().st_mtime_ns for path in (tls.ca, tls.cert, tls.key) if path)
    except OSError as error:
        raise TlsUnusable(f"tls: {error.filename} can't be read: {error.strerror}") from error
    return TlsVersion(tls, changed)


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsUnusable(f"tls: {path} can't be read: {error.strerror}") from error


def _context_of(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert:
            # Without a password a key that has one would be asked for on the terminal.
            context.load_cert_chain(tls.cert, tls.key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        named = ", ".join(path for path in (tls.ca, tls.cert, tls.key) if path)
        raise TlsUnusable(f"tls: {named or 'the authorities of this machine'}: {error}") from error
    return context
