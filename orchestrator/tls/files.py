"""Certificate, key and authorities, read from files and tried out before anybody relies on them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.tls.certificate import Certificate

# How often files are read that change while they are read.
_READS_MAX = 5
# Of a handshake with itself; each round carries one side's messages to the other.
_ROUNDS_MAX = 10


class TlsUnusable(Exception):
    """A file is missing, no PEM, or does not fit to the others; the message names its setting."""


@dataclass(frozen=True)
class TlsFiles:
    """Where they are, by the settings `<prefix>_certificate`, `_key`, `_authority` and `_client_authority`.

    `host` is what others dial, and `host_setting` where that stands; empty: what the certificate is for does not
    matter. `client_authority`: who must have signed what a caller shows; None asks callers for nothing.
    """

    prefix: str
    certificate: Path
    key: Path
    authority: Path
    client_authority: Path | None
    minimum_version: ssl.TLSVersion
    host: str = ""
    host_setting: str = ""

    @property
    def certificate_setting(self) -> str:
        return f"{self.prefix}_certificate"

    @property
    def key_setting(self) -> str:
        return f"{self.prefix}_key"

    @property
    def authority_setting(self) -> str:
        return f"{self.prefix}_authority"

    @property
    def client_authority_setting(self) -> str:
        """The same as the authority's where one file is both."""
        same = self.client_authority in (None, self.authority)
        return self.authority_setting if same else f"{self.prefix}_client_authority"

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Each setting and its file."""
        yield self.certificate_setting, self.certificate
        yield self.key_setting, self.key
        yield self.authority_setting, self.authority
        if self.client_authority not in (None, self.authority):
            yield self.client_authority_setting, self.client_authority

    def contents(self) -> dict[str, bytes]:
        """By setting. Raises TlsUnusable."""
        found = {}
        for setting, path in self.paths():
            try:
                found[setting] = path.read_bytes()
            except OSError as error:
                raise TlsUnusable(f"{setting}: {path} can't be read: {error.strerror}") from error
        return found


@dataclass(frozen=True, eq=False)
class Material:
    """What one reading found: it fits together, and has been used for a connection with itself."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes
    client_authority: bytes | None
    # By setting; the first is the node's own.
    certificates: dict[str, list[Certificate]]
    accepting: ssl.SSLContext
    # To serve callers that need not show anything.
    serving: ssl.SSLContext
    dialling: ssl.SSLContext


def read(files: TlsFiles) -> Material:
    """Raises TlsUnusable."""
    for _ in range(_READS_MAX):
        contents = files.contents()
        asking = contents[files.client_authority_setting] if files.client_authority is not None else None
        accepting = _context(ssl.PROTOCOL_TLS_SERVER, files, asking)
        serving = _context(ssl.PROTOCOL_TLS_SERVER, files, None)
        dialling = _context(ssl.PROTOCOL_TLS_CLIENT, files, contents[files.authority_setting])
        # OpenSSL has read certificate and key by itself: only if they stayed the same it has read these.
        if files.contents() == contents:
            break
    else:
        raise TlsUnusable(f"{files.certificate_setting}: its files change all the time")
    certificates = {
        setting: _certificates(setting, path, contents[setting])
        for setting, path in files.paths()
        if setting != files.key_setting
    }
    _try_out(files, accepting, dialling, certificates[files.certificate_setting][0])
    return Material(
        certificate=contents[files.certificate_setting],
        key=contents[files.key_setting],
        authority=contents[files.authority_setting],
        client_authority=asking,
        certificates=certificates,
        accepting=accepting,
        serving=serving,
        dialling=dialling,
    )


def _context(protocol: ssl._SSLMethod, files: TlsFiles, authority: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = files.minimum_version
    try:
        # Without a password a key that has one would be asked for on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise TlsUnusable(
            f"{files.certificate_setting} and {files.key_setting}: {files.certificate} and {files.key} must be a "
            f"certificate and its key, without a password, both PEM: {error}"
        ) from error
    if authority is not None:
        client = protocol == ssl.PROTOCOL_TLS_CLIENT
        setting = files.authority_setting if client else files.client_authority_setting
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cadata=authority.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            path = dict(files.paths())[setting]
            raise TlsUnusable(f"{setting}: {path} must hold certificates, PEM: {error}") from error
    return context


def _certificates(setting: str, path: Path, pem: bytes) -> list[Certificate]:
    try:
        return Certificate.all_of(pem)
    except ValueError as error:
        raise TlsUnusable(f"{setting}: {path} must hold certificates, PEM: {error}") from error


def _try_out(files: TlsFiles, accepting: ssl.SSLContext, dialling: ssl.SSLContext, own: Certificate) -> None:
    """What would be refused by another node that has the same files is refused here, before it is relied on."""
    where = f"{files.certificate_setting}: {files.certificate}"
    if not own.names:
        raise TlsUnusable(f"{where} has no alternative names: TLS goes by these, not by the common name")
    if files.host and not own.valid_for(files.host):
        raise TlsUnusable(
            f"{where} is for {', '.join(own.names)}, but others reach this node at {files.host}, as "
            f"{files.host_setting} says"
        )
    host = files.host or own.names[0].replace("*", "any")
    try:
        _connect_with_itself(accepting, dialling, host)
    except ssl.SSLCertVerificationError as error:
        signer = files.authority_setting
        if files.client_authority_setting != signer:
            signer += f" or {files.client_authority_setting}"
        raise TlsUnusable(f"{where} ends {own.ends:%Y-%m-%d %H:%M} UTC and would be refused by a node with the same "
                          f"{signer}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise TlsUnusable(f"{where} can't be used: {error.reason or error}") from error


def _connect_with_itself(accepting: ssl.SSLContext, dialling: ssl.SSLContext, host: str) -> None:
    """A handshake in memory, in which each side believes the other; raises SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        dialling.wrap_bio(down, up, server_hostname=host),
        accepting.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(_ROUNDS_MAX):
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
        if not sides:
            return
    raise ssl.SSLError("the handshake does not end")
