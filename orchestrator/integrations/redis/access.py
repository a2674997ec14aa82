"""Passwords and certificates, as their files have them at the moment of a connection."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from orchestrator.file_watch import FileWatch, OffLoop
from orchestrator.integrations.redis.failures import RedisUnavailable
from orchestrator.integrations.redis.settings import Identity, TlsFiles


class _TlsUnusable(Exception):
    """A file can't be read, or is not what it should be."""


class Access:
    """Files are read off the loop. What is wrong with one is a RedisUnavailable: it may be right the next time."""

    def __init__(self, tls: TlsFiles | None, read_file: Callable[[Path], bytes], off_loop: OffLoop) -> None:
        self._tls = tls
        self._read_file = read_file
        self._off_loop = off_loop
        self._watch: FileWatch[dict[str, bytes], ssl.SSLContext] | None = None

    async def password(self, identity: Identity) -> str | None:
        """None where there is no file. Raises RedisUnavailable."""
        path = identity.password_file
        if path is None:
            return None
        try:
            content = await self._off_loop(lambda: self._read_file(path))
            password = content.decode().strip("\r\n")
        except OSError as error:
            raise RedisUnavailable(f"{identity.setting}: {path} can't be read: {error.strerror}", lost=True) from None
        except UnicodeDecodeError:
            raise RedisUnavailable(f"{identity.setting}: {path} is not UTF-8", lost=True) from None
        if not password:
            raise RedisUnavailable(f"{identity.setting}: {path} is empty", lost=True)
        return password

    async def context(self) -> ssl.SSLContext | None:
        """None without TLS. Files that have become wrong stay as they were. Raises RedisUnavailable."""
        if self._tls is None:
            return None
        if self._watch is not None:
            await self._watch.look()
            return self._watch.current
        try:
            self._watch = await self._off_loop(self._watched)
        except _TlsUnusable as error:
            raise RedisUnavailable(str(error), lost=True) from None
        return self._watch.current

    def _watched(self) -> FileWatch[dict[str, bytes], ssl.SSLContext]:
        return FileWatch("the TLS files of Redis", self._contents, self._made, _TlsUnusable, off_loop=self._off_loop)

    def _contents(self) -> dict[str, bytes]:
        found = {}
        for setting, path in self._paths():
            try:
                found[setting] = self._read_file(path)
            except OSError as error:
                raise _TlsUnusable(f"{setting}: {path} can't be read: {error.strerror}") from None
        return found

    def _made(self, contents: dict[str, bytes]) -> ssl.SSLContext:
        ca = contents.get("redis_tls_ca_file")
        paths = dict(self._paths())
        try:
            context = ssl.create_default_context(cadata=None if ca is None else ca.decode("ascii", "replace"))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _TlsUnusable(f"redis_tls_ca_file: {paths.get('redis_tls_ca_file')} must hold certificates, PEM: "
                               f"{error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate, key = paths.get("redis_tls_cert_file"), paths.get("redis_tls_key_file")
        if certificate is not None:
            try:
                # Without a password a key that has one would be asked for on the terminal.
                context.load_cert_chain(certificate, key, password="")
            except (OSError, ValueError) as error:
                raise _TlsUnusable(f"redis_tls_cert_file and redis_tls_key_file: {certificate} and {key} must be a "
                                   f"certificate and its key, without a password, both PEM: {error}") from None
        return context

    def _paths(self) -> list[tuple[str, Path]]:
        """Each setting and its file."""
        tls = self._tls or TlsFiles()
        named = {"ca": tls.ca, "cert": tls.certificate, "key": tls.key}
        return [(f"redis_tls_{name}_file", path) for name, path in named.items() if path is not None]
