"""An authority for a test or a small deployment, and the certificates that it signs.

Keys are ECDSA P-256, without a password, in files that only their owner can read. No file is ever overwritten unless a
certificate is renewed, and then by a rename, so nobody ever reads half of it.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.tls.certificate import Certificate

AUTHORITY_FILE, AUTHORITY_KEY_FILE = "authority.pem", "authority.key"
AUTHORITY_DAYS = 3_650
# Clocks differ: what is signed now is valid at once everywhere.
_EARLIER = datetime.timedelta(minutes=5)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


class AuthorityError(Exception):
    """What was asked for can't be made; the message says why. What was made before it stays."""


@dataclass(frozen=True)
class Made:
    """Two files, and what is in the first."""

    certificate_file: Path
    key_file: Path
    certificate: Certificate


class Authority:
    """Signs certificates, and keeps them in its directory as `NAME.pem` and `NAME.key`."""

    def __init__(self, directory: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.directory = directory
        self._certificate = certificate
        self._key = key

    @property
    def file(self) -> Path:
        """What all nodes and clients need: `..._tls_authority`."""
        return self.directory / AUTHORITY_FILE

    @classmethod
    def create(cls, directory: Path, name: str, now: datetime.datetime, days: int = AUTHORITY_DAYS) -> Authority:
        """Raises AuthorityError if there is one already, and OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in (AUTHORITY_FILE, AUTHORITY_KEY_FILE):
            if (directory / file).exists():
                raise AuthorityError(f"{directory / file} exists: `orchestrator tls node` makes one more certificate "
                                     "with it, and `orchestrator tls renew` renews them")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), now, now + datetime.timedelta(days=days))
        for extension, critical in (
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (_key_usage(authority=True), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(key, hashes.SHA256())
        _write(directory / AUTHORITY_KEY_FILE, _key_pem(key))
        _write(directory / AUTHORITY_FILE, certificate.public_bytes(serialization.Encoding.PEM))
        return cls(directory, certificate, key)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Raises AuthorityError."""
        try:
            certificate = x509.load_pem_x509_certificate((directory / AUTHORITY_FILE).read_bytes())
            key = load_pem_private_key((directory / AUTHORITY_KEY_FILE).read_bytes(), password=None)
        except OSError as error:
            raise AuthorityError(f"{error.filename} can't be read: {error.strerror}; `orchestrator tls init` makes an "
                                 "authority") from error
        except (ValueError, TypeError) as error:
            raise AuthorityError(f"{directory} holds no authority that can be used: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(f"{AUTHORITY_KEY_FILE} in {directory} is not the key of {AUTHORITY_FILE}")
        return cls(directory, certificate, key)

    def sign_node(self, name: str, hosts: Iterable[str], now: datetime.datetime, days: int) -> Made:
        """For both ends of a connection: for the node's name and for these hosts (names or addresses)."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._make(name, [_general_name(host) for host in hosts], usages, now, days)

    def sign_client(self, name: str, now: datetime.datetime, days: int) -> Made:
        """For who calls; it serves nobody, so it never passes for a node."""
        return self._make(name, [], [ExtendedKeyUsageOID.CLIENT_AUTH], now, days)

    def check(self, name: str, hosts: Iterable[str] = ()) -> None:
        """Whether a certificate of this name can be made. Raises AuthorityError."""
        self.check_name(self.directory, name, hosts)

    @staticmethod
    def check_name(directory: Path, name: str, hosts: Iterable[str] = ()) -> None:
        """The same, while there is no authority yet."""
        if not _NAME.fullmatch(name) or f"{name}.pem" == AUTHORITY_FILE:
            raise AuthorityError(f"{name!r} is no name for a certificate: 1 to 63 letters, digits, '-', '_' or '.', "
                                 "and not 'authority'")
        for host in hosts:
            _general_name(host)
        for file in _files(directory, name):
            if file.exists():
                raise AuthorityError(f"{file} exists, and is not overwritten (`orchestrator tls renew` renews it)")

    def renew(self, name: str, now: datetime.datetime, days: int) -> Made:
        """A new certificate and key for what the old one is for, in the same files. Raises AuthorityError."""
        certificate_file, key_file = _files(self.directory, name)
        try:
            old = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            alternative = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            usages = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except OSError as error:
            raise AuthorityError(f"{certificate_file} can't be read: {error.strerror}") from error
        except (ValueError, x509.ExtensionNotFound) as error:
            raise AuthorityError(f"{certificate_file} is no certificate of this authority: {error}") from error
        certificate, key = self._sign(old.subject, list(alternative), list(usages), now, days)
        _write(key_file, _key_pem(key), replace=True)
        _write(certificate_file, certificate, replace=True)
        return Made(certificate_file, key_file, Certificate.all_of(certificate)[0])

    def names(self) -> list[str]:
        """Of all certificates in its directory, but its own."""
        return sorted(file.stem for file in self.directory.glob("*.pem") if file.name != AUTHORITY_FILE)

    def _make(
        self,
        name: str,
        hosts: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
        now: datetime.datetime,
        days: int,
    ) -> Made:
        self.check(name)
        certificate_file, key_file = _files(self.directory, name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = list(dict.fromkeys([x509.DNSName(name), *hosts]))
        certificate, key = self._sign(subject, names, usages, now, days)
        _write(key_file, _key_pem(key))
        _write(certificate_file, certificate)
        return Made(certificate_file, key_file, Certificate.all_of(certificate)[0])

    def _sign(
        self,
        subject: x509.Name,
        names: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
        now: datetime.datetime,
        days: int,
    ) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
        """The certificate in PEM, and its key. It never outlives the authority's own."""
        key = ec.generate_private_key(ec.SECP256R1())
        ends = min(now + datetime.timedelta(days=days), self._certificate.not_valid_after_utc)
        if ends <= now:
            raise AuthorityError(f"{self.file} has ended: make a new authority")
        builder = _builder(subject, self._certificate.subject, key.public_key(), now, ends)
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_key_usage(authority=False), True),
            (x509.ExtendedKeyUsage(usages), False),
            (x509.SubjectAlternativeName(names), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key


def _files(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.pem", directory / f"{name}.key"


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    made = made.serial_number(x509.random_serial_number())
    return made.not_valid_before(begins - _EARLIER).not_valid_after(ends)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise AuthorityError(f"{host!r} is neither a host name nor an IP address (a port does not belong to it)")
    return x509.DNSName(host)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Readable by its owner only from the first moment; what is there is kept, or replaced as a whole."""
    target = path.with_name(f".{path.name}.new") if replace else path
    try:
        if replace:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()  # left over by one that was interrupted
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except FileExistsError as error:
        raise AuthorityError(f"{path} exists, and is not overwritten") from error
    if replace:
        target.replace(path)
